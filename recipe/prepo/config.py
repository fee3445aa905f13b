"""Reads the ``prepo`` section of the configuration and refuses what cannot work, before anything starts.

No default stands here: defaults stand in ``conf/`` only. Needs no verl, Ray or GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recipe.prepo.errors import ConfigError
from recipe.prepo.requirements import check_rule, check_scoring, check_seeds, check_trackers, check_trainer, value_at
from recipe.prepo.rules.base import SelectionRule, SkippingRule, TemperatureRule
from recipe.prepo.rules.registry import REGISTRIES, build_rule

SCORERS = ("rollout", "actor")
SCORE_CANDIDATES = ("auto", "always")
MAX_RATIO = 1e6
OPTIONS = (
    "candidate_ratio",
    "seed",
    "audit",
    "scorer",
    "score_candidates",
    "seed_rollouts",
    "report_every",
    "val_samples",
    "reward_wait_limit_s",
    "grading_time_limit_s",
)


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
        report_every: steps between two drawings of the report while the run goes on; 0 for none.
        reward_wait_limit_s: seconds to wait for one reward of any reward function.
        grading_time_limit_s: seconds for one comparison of this recipe's grader.
        val_samples: data source -> samples of each of its validation prompts, where not ``val_kwargs.n``.
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
    report_every: int
    val_samples: dict[str, int]
    reward_wait_limit_s: float
    grading_time_limit_s: float


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
    check_trainer(config)
    check_trackers(config)
    if isinstance(selection, SkippingRule) and prepo["score_candidates"] == "always":
        raise ConfigError(
            f"prepo.score_candidates=always with prepo/selection={rules['selection']['name']}: its prompts are drawn "
            f"one by one and never scored. Set prepo.score_candidates=auto."
        )
    if _switch(prepo["seed_rollouts"], "prepo.seed_rollouts"):
        check_seeds(config)
    score_prompts = selection.needs_scores or prepo["score_candidates"] == "always"
    if score_prompts:
        check_scoring(config, prepo["scorer"])
    rollouts_per_prompt = _integer(
        value_at(config, "actor_rollout_ref.rollout.n"), "actor_rollout_ref.rollout.n", at_least=1
    )
    for group, rule in built.items():
        check_rule(config, f"prepo/{group}={rules[group]['name']}", rule, num_selected, rollouts_per_prompt)
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
        report_every=_integer(prepo["report_every"], "prepo.report_every", at_least=0),
        val_samples=_val_samples(prepo["val_samples"]),
        reward_wait_limit_s=_seconds(prepo["reward_wait_limit_s"], "prepo.reward_wait_limit_s", 600),
        grading_time_limit_s=_seconds(prepo["grading_time_limit_s"], "prepo.grading_time_limit_s", 5),
    )


def remarks(prepo: PrepoConfig) -> list[str]:
    """Lines about what runs but is seldom wanted, as the comparison in miniature showed."""
    selection, temperature = (
        build_rule(group, prepo.rules[group], seed=prepo.seed) for group in ("selection", "temperature")
    )
    assert isinstance(selection, SelectionRule) and isinstance(temperature, TemperatureRule)
    if not (temperature.measures_target and selection.follows_progress):
        return []
    names = {group: f"prepo/{group}={options['name']}" for group, options in prepo.rules.items()}
    return [
        f"note      {names['temperature']} holds the entropy of the first steps, whose prompts {names['selection']} "
        f"makes the surest of all, and cools the sampling for it later. Leave the temperature constant "
        f"(prepo/temperature=constant), or set prepo.temperature.target_nats."
    ]


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


def check_val_samples(samples: Mapping[str, int], data_sources: Iterable[str]) -> None:
    """Refuse a number of samples for a set that is not in the validation data.

    Args:
        samples: ``prepo.val_samples``: data source -> samples of each of its prompts.
        data_sources: of all validation rows.

    Raises:
        ConfigError: names the sets that there are.
    """
    known = sorted(set(data_sources))
    unknown = sorted(set(samples) - set(known))
    if unknown:
        raise ConfigError(
            f"prepo.val_samples names {', '.join(unknown)}, but data.val_files hold the data sources "
            f"{', '.join(known)}. Correct prepo.val_samples, for instance 'prepo.val_samples={{{known[0]}: 16}}'."
        )


def _val_samples(value: Any) -> dict[str, int]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"prepo.val_samples={value!r} must map data sources to samples of each prompt. Set "
            f"'prepo.val_samples={{aime24: 16, gsm8k: 1}}', or null for as many as val_kwargs.n everywhere."
        )
    return {str(source): _integer(n, f"prepo.val_samples.{source}", at_least=1) for source, n in value.items()}


def _seconds(value: Any, name: str, default: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigError(f"{name}={value!r} must be a positive number of seconds. Set {name}={default}.")
    return float(value)


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
