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
from recipe.prepo.rules.base import Rule, SkippingRule, choice, count, number
from recipe.prepo.rules.registry import REGISTRIES, build_rule

ALL = "all"
LARGEST_POOL = 1_000_000
"""Prompts of which every step can choose: a choice then takes about a second."""
# What each value must be, and one that works. conf/prepo_trainer.yaml says what they mean.
VALUES = {
    "prepo.seed": (count(least=0), 0),
    "prepo.report_every": (count(least=0), 0),
    "prepo.val_generations": (count(least=0), 0),
    "prepo.rescore_after": (count(least=0), 0),
    "prepo.cpu_threads": (count(optional=True), "null"),
    "prepo.audit": (choice(True, False), True),
    "prepo.seed_rollouts": (choice(True, False), False),
    "prepo.scorer": (choice("rollout", "actor"), "rollout"),
    "prepo.score_candidates": (choice("auto", "always"), "auto"),
    "prepo.candidate_ratio": (number("[1, 1e6]", why=f" or {ALL}: |B| / K"), f"5, or {ALL}"),
    "prepo.score_ratio": (number("[1, 1e6]"), 5),
    "prepo.correct_above": (number("(-inf, inf)", optional=True), "null"),
    "prepo.reward_wait_limit_s": (number("(0, inf)"), 600.0),
    "prepo.grading_time_limit_s": (number("(0, inf)"), 5.0),
    "data.train_batch_size": (count(), 1),
    "actor_rollout_ref.rollout.n": (count(), 1),
    "actor_rollout_ref.rollout.temperature": (number("(0, inf)", why=", so that a group's rollouts differ"), 1.0),
}
KEYS = {key.removeprefix("prepo.") for key in VALUES if key.startswith("prepo.")}
KEYS |= {*REGISTRIES, "method", "run_suffix", "val_samples", "reward_range"}


@dataclass(frozen=True)
class PrepoConfig:
    """What this recipe needs from the whole configuration: the values of its keys in conf/, and what follows from them.

    Attributes:
        rules: options of each rule group, with the rule's ``name``.
        num_selected: K, the prompts of a training step.
        num_candidates: |B|, the prompts drawn from the data in a step. Equals K for rules that take every prompt; None
            for all prompts of the data.
        rollouts_per_prompt: M.
        score_prompts: whether candidates are scored.
        score_ratio, rescore_after, model: None if each candidate is scored at each choice, so that no scores are kept.
        skips_prompts: whether the selection rule skips prompts and refills a step in rounds.
        min_prompts: prompts that the training set must have for one step.
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
        return {group: build_rule(group, options, seed=self.seed) for group, options in self.rules.items()}


class Need(NamedTuple):
    """A value that a run needs: the only form in which values are refused.

    Attributes:
        path: its key, or the group of a rule (``prepo/selection``).
        ok: whether its value works, and why it does not.
        wanted: a value that works; ``otherwise``: another way to fix it.
    """

    path: str
    ok: Any
    why: str
    wanted: Any
    otherwise: str = ""


def check(config: Mapping[str, Any], needs: Iterable[Need]) -> None:
    """Raise a ConfigError for the first value that does not work, with the reason and the override that fixes it."""
    for path, ok, why, wanted, otherwise in needs:
        if not ok:
            fix = f"{path}={'null' if wanted is None else wanted}" + (otherwise and f", or {otherwise}")
            value = value_at(config, path.replace("/", "."), None)
            raise ConfigError(f"{path}={value['name'] if '/' in path else repr(value)}: {why}. Set {fix}.")


def value_at(config: Mapping[str, Any], path: str, *default: Any) -> Any:
    """The value at a dotted path, or the default where it is missing or null; without a default, a ConfigError."""
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
    """Read and check this recipe's part of a resolved plain configuration; errors as :func:`check`."""
    prepo = value_at(config, "prepo")
    if not isinstance(prepo, Mapping):
        raise ConfigError(f"prepo={prepo!r}: it must be a section. Its keys are in conf/prepo_trainer.yaml.")
    for key in prepo:
        if key not in KEYS:
            raise ConfigError(f"prepo.{key} is an unknown key.{did_you_mean(key, KEYS)} See conf/prepo_trainer.yaml.")
    rules = {group: _rule_options(value_at(config, f"prepo.{group}"), group) for group in REGISTRIES}
    check(config, _own_needs(config))
    num_selected = value_at(config, "data.train_batch_size")
    rollouts_per_prompt = value_at(config, "actor_rollout_ref.rollout.n")
    built = {group: build_rule(group, options, seed=prepo["seed"]) for group, options in rules.items()}
    for group, rule in built.items():
        try:
            rule.check_sizes(num_selected=num_selected, rollouts_per_prompt=rollouts_per_prompt)
        except ValueError as error:
            raise ConfigError(f"prepo/{group}={rules[group]['name']}: {error}.") from error
    selection: Any = built["selection"]
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
        temperature=float(value_at(config, "actor_rollout_ref.rollout.temperature")),
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
    for path, (option, example) in VALUES.items():
        value = value_at(config, path)
        ok = option.metadata["fits"](value) or (value == ALL and path == "prepo.candidate_ratio")
        yield Need(path, ok, f"it is not {option.metadata['allowed']}", example)
    ends = value_at(config, "prepo.reward_range", None)
    finite = isinstance(ends, list) and [end for end in ends if type(end) in (int, float) and math.isfinite(end)]
    ok = ends is None or (finite == ends and len(ends) == 2 and ends[0] < ends[1])
    why = "it must be the rewards of a worthless and of a perfect answer, two different numbers in ascending order"
    yield Need("prepo.reward_range", ok, why, "[0,1]", "null")
    samples = value_at(config, "prepo.val_samples", {})
    ok = isinstance(samples, Mapping) and all(is_integer(each, 1) for each in samples.values())
    why = "it must map data sources to the samples of each prompt, integers of at least 1"
    yield Need("prepo.val_samples", ok, why, "{aime24: 16, gsm8k: 1}", "null for val_kwargs.n everywhere")


def is_integer(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def check_data_size(num_rows: int, prepo: PrepoConfig) -> None:
    """Refuse a training set with fewer rows than a step has candidates, or more than a step can choose from."""
    if num_rows < prepo.min_prompts:
        what, smaller = f"draws |B| = {prepo.num_candidates} candidates", ", or of prepo.candidate_ratio"
        if prepo.skips_prompts:
            what, smaller = f"rolls out {prepo.min_prompts} prompts first", ", or a smaller first round"
        elif prepo.num_candidates is None:
            what, smaller = "chooses from all of them", ""
        raise ConfigError(
            f"the training set has {num_rows} prompts, but each step {what} to train on K = {prepo.num_selected}. Use "
            f"more data (data.train_files), a smaller value of data.train_batch_size{smaller}."
        )
    if prepo.num_candidates is None and num_rows > LARGEST_POOL:
        raise ConfigError(
            f"the training set has {num_rows} prompts; choosing from all of them (prepo.candidate_ratio=all) takes "
            f"seconds beyond {LARGEST_POOL}. Set for instance prepo.candidate_ratio=20, or a data.train_max_samples."
        )


def check_val_samples(samples: Mapping[str, int], data_sources: Iterable[str]) -> None:
    """Refuse ``prepo.val_samples`` for a data source that the validation data lack; names those that exist."""
    known = sorted(set(data_sources))
    if unknown := ", ".join(sorted(set(samples) - set(known))):
        raise ConfigError(
            f"prepo.val_samples names {unknown}, but the data sources of data.val_files are {', '.join(known)}. "
            f"Set for instance prepo.val_samples={{{known[0]}: 16}}."
        )
