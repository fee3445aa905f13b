"""Group runs into methods (runs that differ only in their seed), average them, and pick the baseline."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from recipe.prepo.errors import DataError
from recipe.prepo.rules.base import Rule, SkippingRule
from recipe.prepo.rules.registry import REGISTRIES
from recipe.prepo.run.metric_names import STEP_SECONDS
from recipe.prepo.tools.report.load import Run
from recipe.prepo.types import Panel

SECONDS = f"sum of {STEP_SECONDS}"
SECTIONS = ("prepo", "data", "actor_rollout_ref", "algorithm", "reward", "trainer.v1", "trainer.total_training_steps")
# Settings that do not make another method: seeds, names, folders, and what a run only writes or shows.
IGNORED_KEYS = frozenset({
    "seed", "data_loader_seed", "experiment_name", "project_name", "default_local_dir", "rollout_data_dir",
    "validation_data_dir", "audit", "report_every", "logger",
})  # fmt: skip
SEED_SUFFIX = re.compile(r"[-_. ]*seed[-_=]?\d+$", re.IGNORECASE)
HELD_FIXED = (
    "data.train_files", "data.train_max_samples", "data.val_files", "data.val_max_samples",
    "actor_rollout_ref.model.path", "trainer.total_training_steps",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """Runs of one configuration, in ascending order of their seeds."""

    name: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int | None, ...]:
        return tuple(run.seed for run in self.runs)


def all_runs(methods: Sequence[Method]) -> list[Run]:
    return [run for method in methods for run in method.runs]


def group_methods(runs: Sequence[Run]) -> list[Method]:
    """Runs of one configuration as one method, in order of their first runs; names are distinct."""
    groups: dict[str, list[Run]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(_configuration(run) or f"run {index}", []).append(run)
    methods = [
        Method(_method_name(group), tuple(sorted(group, key=lambda run: (run.seed is None, run.seed or 0))))
        for group in groups.values()
    ]
    counts = Counter(method.name for method in methods)
    return [
        replace(method, name=f"{method.name} ({index})") if counts[method.name] > 1 else method
        for index, method in enumerate(methods, start=1)
    ]


def _configuration(run: Run) -> str | None:
    """The settings that define a method, the options of every rule among them; None when config.yaml has none."""

    def relevant(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): relevant(item) for key, item in value.items() if key not in IGNORED_KEYS}
        return [relevant(item) for item in value] if isinstance(value, list) else value

    if not isinstance(run.setting("prepo"), Mapping):
        return None
    return json.dumps({name: relevant(run.setting(name)) for name in SECTIONS}, sort_keys=True, default=str)


def _method_name(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return runs[0].name
    stems = {SEED_SUFFIX.sub("", run.name) or run.name for run in runs}
    return stems.pop() if len(stems) == 1 else f"{runs[0].name} and {len(runs) - 1} more"


def comparison_warnings(methods: Sequence[Method]) -> list[str]:
    """Warnings about settings that a comparison should hold fixed, and about runs that repeat a seed."""
    warnings = []
    for name in HELD_FIXED:
        values = {method.name: json.dumps(method.runs[0].setting(name), default=str) for method in methods}
        if len(set(values.values())) > 1:
            listed = "; ".join(f"{method}: {value}" for method, value in values.items())
            warnings.append(f"the methods differ in {name} ({listed})")
    for method in methods:
        twice = sorted(seed for seed, count in Counter(method.seeds).items() if count > 1 and seed is not None)
        if twice:
            warnings.append(f"{method.name}: several runs have the same seed ({', '.join(map(str, twice))})")
    return warnings


def rule_class(run: Run, group: str) -> type[Rule] | None:
    """The class of the run's rule; None when config.yaml does not name it or this release does not have it."""
    name = run.setting(f"prepo.{group}.name")
    return REGISTRIES[group].get(name) if isinstance(name, str) else None


def rule_panels(methods: Sequence[Method]) -> list[Panel]:
    """The figures that the methods' rules declare, each once."""
    panels: list[Panel] = []
    for run in all_runs(methods):
        for group in REGISTRIES:
            rule = rule_class(run, group)
            panels += [panel for panel in (rule.panels if rule else ()) if panel not in panels]
    return panels


def is_neutral(rule: type[Rule] | None) -> bool:
    """Whether a rule leaves plain GRPO as it is: it neither reads scores or entropies, nor learns, nor skips."""
    if rule is None:
        return False
    for trait in ("is_identity", "is_constant"):
        if hasattr(rule, trait):
            return bool(getattr(rule, trait))
    reads = rule.needs_entropy or getattr(rule, "needs_scores", False)
    return not reads and rule.observe is Rule.observe and not issubclass(rule, SkippingRule)


def find_baseline(methods: Sequence[Method], wanted: str | None) -> Method | None:
    """The method called `wanted`: its name, the name of one of its runs, or a run directory.

    Without a name: of the methods whose selection is neutral, the one with the fewest other rules switched on. A
    method that draws from candidates as the others do wins over one that takes all prompts.

    Returns:
        None when no name is given and no single method qualifies.

    Raises:
        DataError: the name matches no method.
    """
    if wanted is not None:
        for method in methods:
            names = [method.name, *(run.name for run in method.runs), *(str(run.path) for run in method.runs)]
            if wanted.rstrip("/") in names:
                return method
        known = ", ".join(method.name for method in methods)
        raise DataError(f"--baseline {wanted}: no such method; the methods are {known}. Name one, or a run directory.")
    ranked = []
    for method in methods:
        rules = {group: rule_class(method.runs[0], group) for group in REGISTRIES}
        if is_neutral(rules["selection"]):
            switched_on = sum(not is_neutral(rule) for rule in rules.values())
            ranked.append(((switched_on, not getattr(rules["selection"], "uses_candidates", True)), method))
    best = [method for rank, method in ranked if rank == min(rank for rank, _ in ranked)]
    return best[0] if len(best) == 1 else None


def common_held_out(runs: Sequence[Run]) -> list[str]:
    """The held-out scores that all runs have, not counting runs that have none (yet)."""
    found = [set(run.held_out_names) for run in runs if run.held_out_names]
    return sorted(set.intersection(*found)) if found else []


def mean_of(run: Run, names: Sequence[str]) -> pd.Series:
    """Plain mean over the metrics `names`, by step, where all of them are logged."""
    present = bool(names) and set(names) <= set(run.metrics)
    return run.metrics[list(names)].dropna().mean(axis=1) if present else pd.Series(dtype=float)


def cumulative(run: Run, counter: str) -> pd.Series:
    """A cumulative counter by step, 0 at step 0. `SECONDS` adds up the training steps, without the validations."""
    values = run.series(STEP_SECONDS).cumsum() if counter == SECONDS else run.series(counter)
    start = pd.Series([0.0], [0])
    return values if 0 in values.index else pd.concat([start, values]) if len(values) else start


def common_steps(series: Sequence[pd.Series]) -> pd.DataFrame:
    """One column for each series that has any value, at the steps that all of these have."""
    found = {at: values for at, values in enumerate(series) if len(values)}
    return pd.concat(found, axis=1, join="inner") if found else pd.DataFrame()


def curve(method: Method, names: Sequence[str], counter: str | None = None) -> pd.DataFrame:
    """The mean of a quantity over a method's runs, at the steps that all of them logged.

    Args:
        names: metrics whose mean is the quantity; runs without any value are left out.
        counter: the cumulative cost to draw against; None for the step.

    Returns:
        Columns x (mean cost or step), mean, low, high (over the runs) and num_runs, indexed by step.
    """
    table = common_steps([mean_of(run, names) for run in method.runs])
    x = table.index.to_series().astype(float)
    if counter is not None:
        costs = [cumulative(method.runs[at], counter).reindex(table.index) for at in table]
        x = pd.concat(costs, axis=1).mean(axis=1, skipna=False) if costs else x
    found = pd.DataFrame({
        "x": x, "mean": table.mean(axis=1), "low": table.min(axis=1), "high": table.max(axis=1),
        "num_runs": len(table.columns),
    })  # fmt: skip
    return found[np.isfinite(found["x"])]
