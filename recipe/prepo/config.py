"""Reads the ``prepo`` section of the configuration and refuses what cannot work, before anything starts.

No default stands here: defaults stand in ``conf/`` only. Needs no verl, Ray or GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recipe.prepo.errors import ConfigError
from recipe.prepo.rules.base import SelectionRule, WeightingRule
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
    selection, weighting = built["selection"], built["weighting"]
    assert isinstance(selection, SelectionRule) and isinstance(weighting, WeightingRule)

    num_selected = _integer(value_at(config, "data.train_batch_size"), "data.train_batch_size", at_least=1)
    num_candidates = _num_candidates(prepo["candidate_ratio"], num_selected, selection.uses_candidates)
    for name, known in (("scorer", SCORERS), ("score_candidates", SCORE_CANDIDATES)):
        if prepo[name] not in known:
            raise ConfigError(f"prepo.{name}={prepo[name]!r} is not known; choose one of {', '.join(known)}.")
    _check_trainer(config)
    score_prompts = selection.needs_scores or prepo["score_candidates"] == "always"
    if score_prompts:
        _check_scoring(config, prepo["scorer"])
    if weighting.needs_entropy:
        _check_entropy(config, rules["weighting"]["name"])
    return PrepoConfig(
        rules=rules,
        num_selected=num_selected,
        num_candidates=num_candidates,
        rollouts_per_prompt=_integer(
            value_at(config, "actor_rollout_ref.rollout.n"), "actor_rollout_ref.rollout.n", at_least=1
        ),
        temperature=_temperature(value_at(config, "actor_rollout_ref.rollout.temperature")),
        seed=seed,
        audit=_switch(prepo["audit"], "prepo.audit"),
        scorer=prepo["scorer"],
        score_prompts=score_prompts,
        seed_rollouts=_switch(prepo["seed_rollouts"], "prepo.seed_rollouts"),
    )


def check_data_size(num_rows: int, prepo: PrepoConfig) -> None:
    """Refuse a training set that cannot fill one step.

    Raises:
        ConfigError: fewer rows than candidates in a step.
    """
    if num_rows < prepo.num_candidates:
        raise ConfigError(
            f"the training set has {num_rows} prompts, but each step draws |B| = {prepo.num_candidates} candidates "
            f"(K = {prepo.num_selected} of them are trained on), so not one step can run. Use more data "
            f"(data.train_files), a smaller data.train_batch_size, or a smaller prepo.candidate_ratio."
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


def _check_entropy(config: Mapping[str, Any], rule: str) -> None:
    correction = value_at(config, "algorithm").get("rollout_correction") or {}
    if correction.get("bypass_mode"):
        raise ConfigError(
            f"algorithm.rollout_correction.bypass_mode=True skips the old-log-prob pass, the only place where the "
            f"actor's entropies are computed, but prepo/weighting={rule} needs them. Set "
            f"algorithm.rollout_correction.bypass_mode=False, or prepo/weighting=none."
        )
    if value_at(config, "actor_rollout_ref.model").get("use_fused_kernels"):
        raise ConfigError(
            f"actor_rollout_ref.model.use_fused_kernels=True never builds the logits, and not every fused backend of "
            f"verl 0.9.1 returns the full-vocabulary entropy that prepo/weighting={rule} needs. Set "
            f"actor_rollout_ref.model.use_fused_kernels=False, or prepo/weighting=none."
        )
