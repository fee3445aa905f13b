"""Reads the ``prepo`` section of the configuration.

Every default is in ``conf/``, none is here. :mod:`recipe.prepo.preflight` checks the rest of the configuration.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from recipe.prepo.errors import ConfigError
from recipe.prepo.rules.base import Rule, SelectionRule, SkippingRule
from recipe.prepo.rules.registry import REGISTRIES, build_rule

MAX_RATIO = 1e6
ALL = "all"
LARGEST_POOL = 1_000_000
"""Prompts of which every step can choose: a choice then takes about a second."""
TEMPERATURE = "actor_rollout_ref.rollout.temperature"
# What the values must be: least integers, switches, choices, and finite numbers above 0 with an example.
INTEGERS = {
    **dict.fromkeys(("prepo.seed", "prepo.report_every", "prepo.val_generations", "prepo.rescore_after"), 0),
    **dict.fromkeys(("data.train_batch_size", "actor_rollout_ref.rollout.n"), 1),
}
SWITCHES = ("prepo.audit", "prepo.seed_rollouts")
CHOICES = {"prepo.scorer": ("rollout", "actor"), "prepo.score_candidates": ("auto", "always")}
OPTIONAL = ("prepo.correct_above", "prepo.reward_range")  # null, or numbers
POSITIVE = {"prepo.reward_wait_limit_s": 600.0, "prepo.grading_time_limit_s": 5.0, TEMPERATURE: 1.0}
KEYS = {
    *(f"prepo.{key}" for key in (*REGISTRIES, "method", "run_suffix", "candidate_ratio", "score_ratio", "val_samples")),
    *("prepo.cpu_threads", *INTEGERS, *SWITCHES, *CHOICES, *POSITIVE, *OPTIONAL),
}


@dataclass(frozen=True)
class PrepoConfig:
    """What this recipe needs from the whole configuration.

    Attributes:
        rules: options of each rule group, with the rule's ``name``.
        num_selected: K, the prompts of a training step (``data.train_batch_size``).
        num_candidates: |B|, the prompts drawn from the data in a step. Equals K for rules that take every prompt; None
            for all prompts of the data.
        rollouts_per_prompt: M (``rollout.n``).
        temperature: sampling temperature.
        score_prompts: whether candidates are scored.
        score_ratio: at most this many candidates are scored for each prompt that is chosen; None if each candidate is
            scored at each choice, so that no scores are kept.
        rescore_after: age in steps up to which a score is kept; None as well.
        model: name of the model that is trained and scores; None as well.
        skips_prompts: whether the selection rule skips prompts and refills a step in rounds.
        min_prompts: prompts that the training set must have for one step.
        report_every: steps between two drawings of the report during the run. 0 draws it only at the end.
        val_samples: data source -> samples of each of its validation prompts, where it differs from ``val_kwargs.n``.
        val_generations: generations that are kept of each validation. 0 for none.
        correct_above: a reward above it is correct, where the reward function returns no ``acc``; None: automatic.
        reward_range: rewards of a worthless and of a perfect answer; rules then take rewards as pass rates.
        reward_wait_limit_s: seconds that one reward may take. After that its score is 0.
        grading_time_limit_s: seconds that one comparison in this recipe's grader may take.
        warm_start: arguments of ``warm_start.read_warm_start``; None for a run that starts from nothing.
    """

    rules: dict[str, dict[str, Any]]
    num_selected: int
    num_candidates: int | None
    rollouts_per_prompt: int
    temperature: float
    seed: int
    audit: bool
    scorer: str
    score_prompts: bool
    score_ratio: float | None
    rescore_after: int | None
    model: str | None
    skips_prompts: bool
    min_prompts: int
    seed_rollouts: bool
    report_every: int
    val_samples: dict[str, int]
    val_generations: int
    correct_above: float | None
    reward_range: list[float] | None
    reward_wait_limit_s: float
    grading_time_limit_s: float
    warm_start: dict[str, Any] | None

    def steps_per_epoch(self, num_rows: int) -> int:
        """Steps in which the data are drawn once, or, if every step chooses from all, K prompts a step."""
        return num_rows // (self.num_candidates or self.num_selected)

    @property
    def identity(self) -> dict[str, Any]:
        """The fields of the controller's ``RunIdentity`` that are known before the data are read."""
        sizes, scores = ("num_selected", "num_candidates"), ("score_ratio", "rescore_after", "model")
        return {name: getattr(self, name) for name in ("seed", *sizes, "correct_above", "reward_range", *scores)}

    def build_rules(self) -> dict[str, Rule]:
        """A new rule for each group."""
        return {group: build_rule(group, options, seed=self.seed) for group, options in self.rules.items()}


class Need(NamedTuple):
    """A value that a run needs: the only form in which values are refused.

    Attributes:
        path: its key, or the group of a rule (``prepo/selection``).
        ok: whether its value works.
        why: why it does not.
        wanted: a value that works.
        otherwise: another way to fix it.
    """

    path: str
    ok: Any
    why: str
    wanted: Any
    otherwise: str = ""


def check(config: Mapping[str, Any], needs: Iterable[Need]) -> None:
    """Check the values that a run needs, in order.

    Raises:
        ConfigError: the first value that does not work, with the reason and the override that fixes it.
    """
    for path, ok, why, wanted, otherwise in needs:
        if not ok:
            fix = f"{path}={'null' if wanted is None else wanted}" + (otherwise and f", or {otherwise}")
            value = value_at(config, path.replace("/", "."), None)
            shown = value["name"] if "/" in path else repr(value)
            raise ConfigError(f"{path}={shown}: {why}. Set {fix}.")


def value_at(config: Mapping[str, Any], path: str, *default: Any) -> Any:
    """The value at a dotted path, or the default where it is missing or null.

    Raises:
        ConfigError: there is no value and no default, or the value is mandatory and not set.
    """
    node: Any = config
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            if default:
                return default[0]
            raise ConfigError(f"{path} is not in the configuration. Compose it from conf/prepo_trainer.yaml.")
        node = node[key]
    if node == "???":
        raise ConfigError(f"{path} must be set. Add {path}=<value>.")
    return default[0] if node is None and default else node


def most_similar(name: str, known: Iterable[str]) -> str:
    """The known name that is most similar to ``name``; empty where none is similar."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that suggests the most similar known name; empty where none is similar."""
    close = most_similar(name, known)
    return close and f" Did you mean {close}?"


def read_config(config: Mapping[str, Any]) -> PrepoConfig:
    """Read and check this recipe's part of the configuration, a resolved plain mapping.

    Raises:
        ConfigError: names the value, the reason, and the override that fixes it.
    """
    prepo = value_at(config, "prepo")
    if not isinstance(prepo, Mapping):
        raise ConfigError(f"prepo={prepo!r}: it must be a section. Its keys are in conf/prepo_trainer.yaml.")
    for key in prepo:
        if f"prepo.{key}" not in KEYS:
            hint = did_you_mean(key, [known.removeprefix("prepo.") for known in KEYS])
            raise ConfigError(f"prepo.{key} is an unknown key.{hint} See conf/prepo_trainer.yaml.")
    rules = {group: _rule_options(value_at(config, f"prepo.{group}"), group) for group in REGISTRIES}
    check(config, _own_needs(config))
    num_selected = value_at(config, "data.train_batch_size")
    rollouts_per_prompt = value_at(config, "actor_rollout_ref.rollout.n")
    for group, options in rules.items():
        rule = build_rule(group, options, seed=prepo["seed"])
        try:
            rule.check_sizes(num_selected=num_selected, rollouts_per_prompt=rollouts_per_prompt)
        except ValueError as error:
            raise ConfigError(f"prepo/{group}={options['name']}: {error}.") from error
        if isinstance(rule, SelectionRule):
            selection = rule
    skips_prompts, always = isinstance(selection, SkippingRule), prepo["score_candidates"] == "always"
    why = f"prepo/selection={rules['selection']['name']} draws its prompts one by one and never scores them"
    check(config, [Need("prepo.score_candidates", not (skips_prompts and always), why, "auto")])
    ratio, score_ratio, rescore_after = (prepo[key] for key in ("candidate_ratio", "score_ratio", "rescore_after"))
    num_candidates = None if ratio == ALL else round(num_selected * ratio)
    num_candidates = num_candidates if selection.uses_candidates else num_selected
    score_prompts = selection.needs_scores or always
    warm_start = rules["selection"].get("warm_start") and {
        "folder": rules["selection"]["warm_start"],
        "model": value_at(config, "actor_rollout_ref.model.path"),
        "correct_above": prepo["correct_above"],
        "reward_range": prepo["reward_range"],
    }
    keeps = score_prompts and (ratio == ALL or ratio > score_ratio or rescore_after > 0)
    return PrepoConfig(
        rules=rules,
        num_selected=num_selected,
        num_candidates=num_candidates,
        rollouts_per_prompt=rollouts_per_prompt,
        temperature=float(value_at(config, TEMPERATURE)),
        score_prompts=score_prompts,
        score_ratio=float(score_ratio) if keeps else None,
        rescore_after=rescore_after if keeps else None,
        model=Path(value_at(config, "actor_rollout_ref.model.path")).name if keeps else None,
        skips_prompts=skips_prompts,
        warm_start=warm_start or None,
        min_prompts=selection.first_round(num_selected) if skips_prompts else num_candidates or num_selected,
        val_samples=dict(prepo["val_samples"] or {}),
        reward_wait_limit_s=float(prepo["reward_wait_limit_s"]),
        grading_time_limit_s=float(prepo["grading_time_limit_s"]),
        **{key: prepo[key] for key in ("seed", "audit", "scorer", "seed_rollouts", "report_every")},
        **{key: prepo[key] for key in ("correct_above", "reward_range", "val_generations")},
    )


def _rule_options(value: Any, group: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        names = ", ".join(f"prepo/{group}={name}" for name in sorted(REGISTRIES[group]))
        raise ConfigError(f"prepo.{group}={value!r}: it must be a section. Choose a rule with a slash: {names}.")
    return dict(value)


def _own_needs(config: Mapping[str, Any]) -> Iterator[Need]:
    for path, least in INTEGERS.items():
        yield Need(path, is_integer(value_at(config, path), least), f"it must be an integer of at least {least}", least)
    for path in SWITCHES:
        yield Need(path, isinstance(value_at(config, path), bool), "it must be true or false", True, f"{path}=False")
    for path, known in CHOICES.items():
        yield Need(path, value_at(config, path) in known, f"it must be one of {', '.join(known)}", known[0])
    for path, example in POSITIVE.items():
        value = value_at(config, path)
        ok = type(value) in (int, float) and 0 < value < float("inf")
        why = " so that a group's rollouts differ" if path == TEMPERATURE else ""
        yield Need(path, ok, f"it must be a finite number above 0{why}", example)
    for path, what, otherwise in (
        ("prepo.candidate_ratio", "chosen from |B| = ratio * K candidates", "all to choose from all prompts"),
        ("prepo.score_ratio", "chosen among those with a score, and at most ratio * K are scored", ""),
    ):
        ratio = value_at(config, path)
        ok = (type(ratio) in (int, float) and 1 <= ratio <= MAX_RATIO) or (ratio == ALL and "score" not in path)
        why = f"it must be a number from 1 to {MAX_RATIO:g}, because K prompts are {what}"
        yield Need(path, ok, why, 5, otherwise)
    threads = value_at(config, "prepo.cpu_threads", 1)
    yield Need("prepo.cpu_threads", is_integer(threads, 1), "it must be an integer of at least 1, or null", None)
    above = value_at(config, "prepo.correct_above", None)
    why = "it must be a finite number, or null for 0.5 where that fits the rewards"
    yield Need("prepo.correct_above", above is None or is_finite(above), why, None, "a number, such as 0.5")
    ends = value_at(config, "prepo.reward_range", None)
    ok = ends is None or (isinstance(ends, list) and len(ends) == 2 and all(map(is_finite, ends)) and ends[0] < ends[1])
    why = "it must be the rewards of a worthless and of a perfect answer, two different numbers in ascending order"
    yield Need("prepo.reward_range", ok, why, None, "for instance prepo.reward_range=[0,1]")
    samples = value_at(config, "prepo.val_samples", {})
    ok = isinstance(samples, Mapping) and all(is_integer(number, 1) for number in samples.values())
    why = "it must map data sources to the samples of each prompt, integers of at least 1"
    yield Need("prepo.val_samples", ok, why, "{aime24: 16, gsm8k: 1}", "null for val_kwargs.n everywhere")


def is_integer(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def check_data_size(num_rows: int, prepo: PrepoConfig) -> None:
    """Refuse a training set that cannot fill one step.

    Raises:
        ConfigError: it has fewer rows than a step has candidates, or more than a step can choose from.
    """
    if prepo.num_candidates is None:
        why = f"the training set has {num_rows} prompts, of which each step"
        if num_rows < prepo.num_selected:
            raise ConfigError(
                f"{why} trains on K = {prepo.num_selected}. Use more data (data.train_files), or a smaller "
                f"data.train_batch_size."
            )
        if num_rows > LARGEST_POOL:
            raise ConfigError(
                f"{why} would choose with prepo.candidate_ratio=all; that takes seconds beyond {LARGEST_POOL}. Draw "
                f"candidates instead, for instance prepo.candidate_ratio=20, or fewer prompts (data.train_max_samples)."
            )
    elif num_rows < prepo.min_prompts:
        what = "rolls out" if prepo.skips_prompts else "draws |B| ="
        ratio = "prepo.selection.first_round_ratio" if prepo.skips_prompts else "prepo.candidate_ratio"
        raise ConfigError(
            f"the training set has {num_rows} prompts, but each step {what} {prepo.min_prompts} candidates to train on "
            f"K = {prepo.num_selected}. Use more data (data.train_files), a smaller data.train_batch_size, or a "
            f"smaller {ratio}."
        )


def check_val_samples(samples: Mapping[str, int], data_sources: Iterable[str]) -> None:
    """Refuse ``prepo.val_samples`` (data source -> samples) for a data source that the validation data lack.

    Raises:
        ConfigError: names the data sources that exist.
    """
    known = sorted(set(data_sources))
    unknown = ", ".join(sorted(set(samples) - set(known)))
    if unknown:
        raise ConfigError(
            f"prepo.val_samples names {unknown}, but the data sources of data.val_files are {', '.join(known)}. "
            f"Set for instance prepo.val_samples={{{known[0]}: 16}}."
        )
