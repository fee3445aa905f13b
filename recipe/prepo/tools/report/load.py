"""Reads a run directory: what is damaged or missing becomes a note, never a stop.

Files are data only: JSON lines and YAML through its safe loader; nothing in them is evaluated.
"""

from __future__ import annotations

import json
import math
import sys
from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from recipe.prepo.errors import DataError

FloatArray = npt.NDArray[np.float64]
RUN_FILES = ("config.yaml", "metrics.jsonl", "audit/selection.jsonl", "audit/rollouts.jsonl")


def _doubles() -> array[float]:
    return array("d")


@dataclass
class Selections:
    """Perplexities of the candidates and of the prompts chosen from them, step by step (calls of a step pooled).

    `history` maps a prompt to its choices, (step, ppl) each, in order of steps. `times_drawn` and `times_chosen` count
    how often a prompt was a candidate, and was chosen; `last_ppl` is its perplexity when it was a candidate last.
    """

    candidate_ppl: defaultdict[int, array[float]] = field(default_factory=lambda: defaultdict(_doubles))
    selected_ppl: defaultdict[int, array[float]] = field(default_factory=lambda: defaultdict(_doubles))
    num_candidates: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    history: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    times_drawn: Counter[str] = field(default_factory=Counter)
    times_chosen: Counter[str] = field(default_factory=Counter)
    last_ppl: dict[str, float] = field(default_factory=dict)

    @property
    def num_scored(self) -> int:
        return sum(len(values) for values in self.candidate_ppl.values())

    def ppl_at(self, prompt_id: str, step: int) -> float | None:
        """Perplexity when the prompt was last chosen at or before `step` (earlier, in the asynchronous modes)."""
        choices = self.history.get(prompt_id, [])
        place = bisect_right(choices, (step, math.inf))
        return choices[place - 1][1] if place else None


@dataclass
class Rollouts:
    """Rewards by (step, prompt), and every rollout's weight."""

    reward_sum: dict[tuple[int, str], float] = field(default_factory=dict)
    count: dict[tuple[int, str], int] = field(default_factory=dict)
    weights: array[float] = field(default_factory=lambda: array("d"))
    all_zero_one: bool = True


@dataclass
class Run:
    """One run directory in memory; `metrics` maps a step to its finite numbers, in order of steps."""

    name: str
    path: Path
    config: Mapping[str, Any]
    metrics: dict[int, dict[str, float]]
    selections: Selections | None
    rollouts: Rollouts | None
    notes: list[str]

    def series(self, name: str) -> tuple[FloatArray, FloatArray]:
        """Steps and values (two arrays of one length) of a metric, where it is there and finite."""
        points = [(step, data[name]) for step, data in self.metrics.items() if name in data]
        return np.array([step for step, _ in points], float), np.array([value for _, value in points], float)

    def setting(self, dotted: str) -> Any:
        """A value of config.yaml by its dotted name; None where it is not there."""
        value: Any = self.config
        for key in dotted.split("."):
            if not isinstance(value, Mapping) or key not in value:
                return None
            value = value[key]
        return value


def load_run(run_dir: Path) -> Run:
    """Reads one run directory.

    Raises:
        DataError: `run_dir` is no directory, or holds none of a run's files.
    """
    if not run_dir.is_dir():
        raise DataError(f"{run_dir} is not a directory: give the folder that a training run wrote (outputs/<name>)")
    present = [name for name in RUN_FILES if (run_dir / name).is_file()]
    if not present:
        raise DataError(
            f"{run_dir} is no run directory, it holds none of {', '.join(RUN_FILES)}: "
            "give the folder that a training run wrote (outputs/<name>)"
        )
    notes = [f"{name} is missing" for name in RUN_FILES if name not in present]
    config = _load_config(run_dir / "config.yaml", notes) if "config.yaml" in present else {}
    metrics = _load_metrics(run_dir / "metrics.jsonl", notes) if "metrics.jsonl" in present else {}
    selections = _load_selections(run_dir / RUN_FILES[2], notes) if RUN_FILES[2] in present else None
    rollouts = _load_rollouts(run_dir / RUN_FILES[3], notes) if RUN_FILES[3] in present else None
    return Run(run_dir.resolve().name, run_dir, config, metrics, selections, rollouts, notes)


def finite(value: object) -> float | None:
    """The number as a float; None for anything else: NaN, an infinity, null, a bool, text."""
    if type(value) is float:  # nearly all of them, and there are millions
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _load_config(path: Path, notes: list[str]) -> Mapping[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        config = yaml.load(path.read_text(encoding="utf-8", errors="replace"), Loader=loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        notes.append(f"config.yaml is not readable as YAML ({str(error).splitlines()[0]})")
        return {}
    if not isinstance(config, dict):
        notes.append("config.yaml holds no settings")
        return {}
    return config


def _json_lines(path: Path, label: str, notes: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(step, object) of each good line; the bad ones are counted into `notes`."""
    bad: list[int] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                if line.endswith("\n"):
                    bad.append(number)
                else:
                    notes.append(f"{label}: the last line is cut off (the run goes on, or was stopped); it is left out")
                continue
            step = finite(record.get("step")) if isinstance(record, dict) else None
            if step is None or step < 0 or step != int(step):
                bad.append(number)
                continue
            yield int(step), record
    if bad:
        notes.append(f"{label}: damaged lines left out: {len(bad)}, the first is line {bad[0]}")


def _load_metrics(path: Path, notes: list[str]) -> dict[int, dict[str, float]]:
    metrics: dict[int, dict[str, float]] = {}
    not_finite: Counter[str] = Counter()
    repeated: set[int] = set()
    for step, record in _json_lines(path, "metrics.jsonl", notes):
        data = record.get("data")
        row = metrics.setdefault(step, {})
        for name, value in data.items() if isinstance(data, dict) else ():
            number = finite(value)
            if number is None:
                not_finite[name] += 1
                continue
            if name in row and row[name] != number:
                repeated.add(step)
            row[name] = number
    if not metrics:
        notes.append("metrics.jsonl holds no step yet")
    if not_finite:
        listed = ", ".join(f"{name} ({count} times)" for name, count in not_finite.most_common(5))
        more = f" and {len(not_finite) - 5} more names" if len(not_finite) > 5 else ""
        notes.append(f"metrics.jsonl: values that are no finite number are left out: {listed}{more}")
    if repeated:
        notes.append(f"metrics.jsonl: steps logged twice with unlike values (the later line is taken): {len(repeated)}")
    return dict(sorted(metrics.items()))


def _load_selections(path: Path, notes: list[str]) -> Selections:
    found = Selections()
    for step, record in _json_lines(path, "audit/selection.jsonl", notes):
        drawn: list[str] = []
        ppl_of: dict[str, float] = {}
        for candidate in _records(record.get("candidates")):
            prompt_id, ppl = _interned(candidate.get("prompt_id")), finite(candidate.get("ppl"))
            drawn.append(prompt_id)
            if ppl is not None and ppl > 0:
                ppl_of[prompt_id] = ppl
        found.num_candidates += len(drawn)
        found.times_drawn.update(drawn)
        found.last_ppl.update(ppl_of)
        found.candidate_ppl[step].extend(ppl_of.values())
        chosen = record.get("selected")
        for prompt_id in map(_interned, chosen if isinstance(chosen, list) else ()):
            found.times_chosen[prompt_id] += 1
            if prompt_id in ppl_of:
                found.selected_ppl[step].append(ppl_of[prompt_id])
                found.history.setdefault(prompt_id, []).append((step, ppl_of[prompt_id]))
        found.skipped.update(_interned(skip.get("reason")) for skip in _records(record.get("skipped")))
    for choices in found.history.values():
        choices.sort()
    return found


def _load_rollouts(path: Path, notes: list[str]) -> Rollouts:
    found = Rollouts()
    for step, record in _json_lines(path, "audit/rollouts.jsonl", notes):
        weight, reward = finite(record.get("weight")), finite(record.get("reward"))
        if weight is not None:
            found.weights.append(weight)
        if reward is not None:
            key = (step, _interned(record.get("prompt_id")))
            found.reward_sum[key] = found.reward_sum.get(key, 0.0) + reward
            found.count[key] = found.count.get(key, 0) + 1
            found.all_zero_one = found.all_zero_one and reward in (0.0, 1.0)
    return found


def _interned(value: object) -> str:
    """One object for each text, however often it is read: a run has few prompts and millions of lines."""
    return sys.intern(value) if type(value) is str else str(value)


def _records(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
