"""Group runs into methods (runs that differ only in their seed), average them, and pick the baseline."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from recipe.prepo.errors import DataError
from recipe.prepo.rules import neutral
from recipe.prepo.rules.base import Rule
from recipe.prepo.rules.registry import REGISTRIES
from recipe.prepo.run.metric_names import ROLLOUTS, TOKENS
from recipe.prepo.tools.report.load import SECONDS, Run
from recipe.prepo.types import Panel

# (part of a figure's name, cumulative counter, unit)
COSTS = (
    ("rollouts", ROLLOUTS, "rollouts"),
    ("tokens", TOKENS, "response tokens"),
    ("seconds", SECONDS, "seconds in steps"),
)
SECTIONS = (
    "prepo.", "data.", "actor_rollout_ref.", "algorithm.", "reward.", "trainer.v1.", "trainer.total_training_steps",
)  # fmt: skip
# Settings that do not make another method: seeds, names, folders, and what a run only writes or shows.
IGNORED_KEYS = frozenset({
    "seed", "data_loader_seed", "experiment_name", "project_name", "default_local_dir", "rollout_data_dir",
    "validation_data_dir", "audit", "report_every", "val_generations", "logger",
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
    def label(self) -> str:
        return f"{self.name} ({len(self.runs)} seeds)" if len(self.runs) > 1 else self.name

    @property
    def seeds(self) -> tuple[int | None, ...]:
        return tuple(run.seed for run in self.runs)


def all_runs(methods: Sequence[Method]) -> list[Run]:
    return [run for method in methods for run in method.runs]


def group_methods(runs: Sequence[Run]) -> list[Method]:
    """Runs of one configuration as one method, in order of their first runs; names are distinct."""
    groups: dict[str, list[Run]] = {}
    for index, run in enumerate(runs):
        settings = {
            name: value
            for name, value in run.config.items()
            if name.startswith(SECTIONS) and IGNORED_KEYS.isdisjoint(name.split("."))
        }
        groups.setdefault(json.dumps(settings, sort_keys=True, default=str) if settings else str(index), []).append(run)
    methods: dict[str, Method] = {}
    for group in groups.values():
        name = group[0].name if len(group) == 1 else SEED_SUFFIX.sub("", group[0].name)
        name = f"{name} ({len(methods) + 1})" if name in methods else name
        methods[name] = Method(name, tuple(sorted(group, key=lambda run: run.seed or 0)))
    return list(methods.values())


def comparison_warnings(methods: Sequence[Method]) -> list[str]:
    """Warnings about settings that a comparison should hold fixed, and about runs that repeat a seed."""
    warnings = []
    for setting in HELD_FIXED:
        values = {method.name: str(method.runs[0].config.get(setting)) for method in methods}
        if len(set(values.values())) > 1:
            listed = "; ".join(f"{method}: {value}" for method, value in values.items())
            warnings.append(f"the methods differ in {setting} ({listed})")
    for method in methods:
        if len(set(method.seeds)) < len(method.seeds):
            warnings.append(f"{method.name}: several runs have the same seed ({', '.join(map(str, method.seeds))})")
    return warnings


def rules_of(run: Run) -> dict[str, type[Rule] | None]:
    """The run's rules by group; None where config.yaml names none or this release does not have it."""
    return {group: rules.get(run.config.get(f"prepo.{group}.name", "")) for group, rules in REGISTRIES.items()}


def rule_panels(methods: Sequence[Method]) -> list[Panel]:
    """The figures that the methods' rules declare, each once."""
    rules = [rule for method in methods for rule in rules_of(method.runs[0]).values() if rule]
    panels = [panel for rule in rules for panel in rule.panels]
    return [panel for index, panel in enumerate(panels) if panel not in panels[:index]]


def find_baseline(methods: Sequence[Method], wanted: str | None) -> Method | None:
    """The method called `wanted`: its name, one of its runs, or a run directory.

    Without a name: of the methods whose selection is neutral, the one with the fewest other rules switched on. A
    method that draws from candidates as the others do wins over one that takes all prompts. None for a tie.

    Raises:
        DataError: the name matches no method.
    """
    if wanted is not None:
        for method in methods:
            names = [name for run in method.runs for name in (run.name, str(run.path))]
            if wanted.rstrip("/") in (method.name, *names):
                return method
        known = ", ".join(method.name for method in methods)
        raise DataError(f"--baseline {wanted}: no such method; the methods are {known}. Name one, or a run directory.")
    ranks: dict[tuple[int, bool], list[Method]] = {}
    for method in methods:
        rules = rules_of(method.runs[0])
        switched_on = [group for group, rule in rules.items() if not rule or rule.__module__ != neutral.__name__]
        if "selection" not in switched_on:
            ranks.setdefault((len(switched_on), rules["selection"] is neutral.All), []).append(method)
    best = ranks[min(ranks)] if ranks else []
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
    """A cumulative counter by step, 0 at step 0."""
    return pd.concat([pd.Series({0: 0.0}), run.series(counter).drop(0, errors="ignore")])


def common_steps(series: Sequence[pd.Series]) -> pd.DataFrame:
    """One column for each series that has any value, at the steps that all of these have."""
    found = {at: values for at, values in enumerate(series) if len(values)}
    return pd.concat(found, axis=1, join="inner") if found else pd.DataFrame()


def curve(method: Method, names: Sequence[str], counter: str | None = None) -> pd.DataFrame:
    """The mean of the metrics `names` over a method's runs, at the steps that all of them logged.

    Columns x (mean cost by `counter`, else the step), mean, low and high (over the runs), indexed by step.
    """
    table = common_steps([mean_of(run, names) for run in method.runs])
    x = table.index.to_series().astype(float)
    if counter is not None and len(table):
        costs = [cumulative(method.runs[at], counter).reindex(table.index) for at in table]
        x = pd.concat(costs, axis=1).mean(axis=1, skipna=False)
    over_runs = {"mean": table.mean(axis=1), "low": table.min(axis=1), "high": table.max(axis=1)}
    found = pd.DataFrame({"x": x, **over_runs})
    return found[np.isfinite(found["x"])]
