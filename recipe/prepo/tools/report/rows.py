"""Rows of a comparison: runs that differ in their seed only are one row, drawn as one line with its spread."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recipe.prepo.errors import DataError
from recipe.prepo.tools.report.load import FloatArray, Run
from recipe.prepo.tools.report.summary import rule

SECTIONS = ("prepo", "data", "actor_rollout_ref", "algorithm", "reward", "trainer.v1", "trainer.total_training_steps")
# Settings that do not make another row: seeds, names, folders, and what a run only writes or shows.
IGNORED_KEYS = frozenset({
    "seed", "data_loader_seed", "experiment_name", "project_name", "default_local_dir", "rollout_data_dir",
    "validation_data_dir", "audit", "report_every", "logger",
})  # fmt: skip
SEED_SUFFIX = re.compile(r"[-_. ]*seed[-_=]?\d+$", re.IGNORECASE)
BASELINE_RULES = (("selection", "uniform"), ("weighting", "none"), ("budget", "fixed"), ("temperature", "constant"))
Series = tuple[FloatArray, FloatArray]


@dataclass(frozen=True)
class Row:
    """One or more runs of one configuration, in order of their seeds."""

    name: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int | None, ...]:
        return tuple(seed_of(run) for run in self.runs)

    def label(self, num_runs: int) -> str:
        return self.name if len(self.runs) == 1 else f"{self.name} ({num_runs} seeds)"


@dataclass(frozen=True)
class Curve:
    """Mean over a row's runs at the steps that all of them logged, with the lowest and the highest of them.

    `x` is the mean cost (or the step itself); all arrays have one length.
    """

    steps: FloatArray
    x: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    num_runs: int


def seed_of(run: Run) -> int | None:
    seed = run.setting("prepo.seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def group_rows(runs: Sequence[Run]) -> list[Row]:
    """Runs of one configuration together, rows in order of their first run; names are distinct."""
    groups: dict[str, list[Run]] = {}
    for index, run in enumerate(runs):
        groups.setdefault(_configuration(run) or f"run {index}", []).append(run)
    rows = [
        Row(_row_name(group), tuple(sorted(group, key=lambda run: (seed_of(run) is None, seed_of(run) or 0))))
        for group in groups.values()
    ]
    counts = Counter(row.name for row in rows)
    return [
        replace(row, name=f"{row.name} ({index})" if counts[row.name] > 1 else row.name)
        for index, row in enumerate(rows, start=1)
    ]


def _configuration(run: Run) -> str | None:
    """The settings that make a row, as text; None for a run without any."""
    if not isinstance(run.setting("prepo"), Mapping):
        return None
    return json.dumps({name: _without_ignored(run.setting(name)) for name in SECTIONS}, sort_keys=True, default=str)


def _without_ignored(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_ignored(item) for key, item in value.items() if key not in IGNORED_KEYS}
    return [_without_ignored(item) for item in value] if isinstance(value, list) else value


def _row_name(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return runs[0].name
    stems = {SEED_SUFFIX.sub("", run.name) or run.name for run in runs}
    return stems.pop() if len(stems) == 1 else f"{runs[0].name} and {len(runs) - 1} more"


def curve(row: Row, values: Callable[[Run], Series], cost: Callable[[Run, FloatArray], FloatArray] | None) -> Curve:
    """A metric of a row: at each step that all its runs logged it at, the mean over the runs, lowest and highest.

    Args:
        values: steps and values of one run; runs that have none are left out.
        cost: a run's cumulative cost at given steps, NaN where unknown; None draws against steps.
    """
    series = [(run, *values(run)) for run in row.runs]
    series = [entry for entry in series if entry[1].size]
    if not series:
        empty = np.zeros(0)
        return Curve(empty, empty, empty, empty, empty, 0)
    common = series[0][1]
    for _, steps, _ in series[1:]:
        common = np.intersect1d(common, steps)
    y = np.array([values_of[np.isin(steps, common)] for _, steps, values_of in series])
    x = np.array([common if cost is None else cost(run, common) for run, *_ in series]).mean(axis=0)
    known = np.isfinite(x)
    x, y = x[known], y[:, known]
    return Curve(common[known], x, y.mean(axis=0), y.min(axis=0), y.max(axis=0), len(series))


def find_baseline(rows: Sequence[Row], wanted: str | None) -> Row | None:
    """The row named `wanted` (a row's or a run's name, or a run directory); without a name, the uniform row.

    Returns:
        None where no name is given and not exactly one row is uniform.

    Raises:
        DataError: the name is none of the rows.
    """
    if wanted is None:
        rows = [row for row in rows if rule(row.runs[0], "selection") == "uniform"]
        plain = [row for row in rows if all(rule(row.runs[0], kind) == name for kind, name in BASELINE_RULES)]
        found = plain or rows
        return found[0] if len(found) == 1 else None
    for row in rows:
        names = {row.name, *(run.name for run in row.runs), *(str(run.path) for run in row.runs)}
        if wanted.rstrip("/") in names:
            return row
    known = ", ".join(row.name for row in rows)
    raise DataError(f"--baseline {wanted}: no such row; the rows are {known}. Name one of them, or a run directory.")


def differences(rows: Sequence[Row]) -> list[str]:
    """Notes where rows differ in what a comparison of methods holds fixed: data, model, length."""
    names = ("data.train_files", "data.train_max_samples", "data.val_files", "data.val_max_samples",
             "actor_rollout_ref.model.path", "trainer.total_training_steps")  # fmt: skip
    notes = []
    for name in names:
        values = {row.name: json.dumps(row.runs[0].setting(name), default=str) for row in rows}
        if len(set(values.values())) > 1:
            listed = "; ".join(f"{row}: {value}" for row, value in values.items())
            notes.append(f"the rows differ in {name} ({listed})")
    return notes


def seed_notes(rows: Sequence[Row]) -> list[str]:
    """Notes where runs of one row have the same seed: they are no independent repetitions."""
    notes = []
    for row in rows:
        twice = sorted(seed for seed, count in Counter(row.seeds).items() if count > 1 and seed is not None)
        if twice:
            notes.append(f"{row.name}: several runs have the same seed ({', '.join(map(str, twice))})")
    return notes
