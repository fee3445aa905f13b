"""Read a run directory. Damaged or missing files become warnings; nothing in them is executed."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from recipe.prepo.errors import DataError
from recipe.prepo.run.metric_names import held_out_set

SELECTION_FILE, ROLLOUTS_FILE = "audit/selection.jsonl", "audit/rollouts.jsonl"


@dataclass
class Run:
    """One run directory in memory.

    Attributes:
        metrics: one row per step in ascending order, one column per metric; NaN where it is not logged or not finite.
        candidates: columns step, prompt, ppl (NaN when not scored): one row per candidate. None without the file.
        chosen: the same columns for the prompts that were chosen among them.
        rollouts: columns step, prompt, reward, weight: one row per rollout. None without the file.
        codes: prompt id -> its number in the columns `prompt`, in ascending order.
        skip_reasons: how often candidates were skipped, by reason.
        warnings: what is missing or damaged.
    """

    name: str
    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: pd.DataFrame = field(default_factory=pd.DataFrame)
    candidates: pd.DataFrame | None = None
    chosen: pd.DataFrame | None = None
    rollouts: pd.DataFrame | None = None
    codes: dict[str, int] = field(default_factory=dict)
    skip_reasons: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    def series(self, metric: str) -> pd.Series:
        """The metric's finite values, indexed by step; empty when it is not logged."""
        return self.metrics[metric].dropna() if metric in self.metrics else pd.Series(dtype=float)

    def setting(self, dotted: str) -> Any:
        """A value of config.yaml; None when it is not there."""
        value: Any = self.config
        for key in dotted.split("."):
            if not isinstance(value, Mapping) or key not in value:
                return None
            value = value[key]
        return value

    @property
    def seed(self) -> int | None:
        seed = self.setting("prepo.seed")
        return seed if isinstance(seed, int) and not isinstance(seed, bool) else None

    @property
    def held_out_names(self) -> list[str]:
        return sorted(name for name in self.metrics if held_out_set(name))

    @property
    def steps_done(self) -> int:
        """The last step that logged anything but a validation."""
        trained = self.metrics[[name for name in self.metrics if not name.startswith("val-")]].dropna(how="all")
        return int(trained.index.max()) if len(trained) else 0

    @property
    def steps_planned(self) -> int | None:
        for name in ("trainer.total_training_steps", "actor_rollout_ref.actor.optim.total_training_steps"):
            planned = self.setting(name)
            if isinstance(planned, int) and planned > 0:
                return planned
        return None

    @property
    def is_unfinished(self) -> bool:
        return self.steps_planned is not None and self.steps_done < self.steps_planned


def load_run(run_dir: Path) -> Run:
    """Read one run directory.

    Raises:
        DataError: `run_dir` is not a directory, or contains none of a run's files.
    """
    hint = "pass the directory that a training run wrote (outputs/<name>)"
    if not run_dir.is_dir():
        raise DataError(f"{run_dir} is not a directory: {hint}")
    if not any((run_dir / name).is_file() for name in READERS):
        raise DataError(f"{run_dir} is not a run directory, it contains none of {', '.join(READERS)}: {hint}")
    run = Run(run_dir.resolve().name, run_dir)
    for name, read in READERS.items():
        if (run_dir / name).is_file():
            read(run, name)
        else:
            run.warnings.append(f"{name} is missing")
    if run.is_unfinished:
        done = f"{run.steps_done} of {run.steps_planned} steps are logged"
        run.warnings.append(f"{done}: the run is still going, or was stopped")
    return run


def finite(value: object) -> float:
    """The number as a float; NaN for an infinity, null, a bool, text and anything else."""
    if type(value) is float or type(value) is int:
        try:
            return float(value) if math.isfinite(value) else math.nan
        except OverflowError:  # an integer of more than 300 digits
            pass
    return math.nan


@cache
def _metric_name(name: str) -> str:
    return name.encode("utf-8", "replace").decode()  # pandas cannot store lone surrogates


def _read_config(run: Run, name: str) -> None:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        config = yaml.load((run.path / name).read_text(encoding="utf-8", errors="replace"), Loader=loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        run.warnings.append(f"{name} is not valid YAML ({str(error).splitlines()[0]})")
        return
    if isinstance(config, dict):
        run.config = config
    else:
        run.warnings.append(f"{name} contains no settings")


def _records(run: Run, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(step, object) of each intact line; the damaged ones are counted in a warning."""
    damaged: list[int] = []
    with (run.path / name).open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError):
                if not line.endswith("\n"):
                    run.warnings.append(f"{name}: the last line is incomplete and was skipped")
                    continue
                record = {}
            step = finite(record.get("step")) if isinstance(record, dict) else math.nan
            if isinstance(record, dict) and step >= 0 and step == int(step):
                yield int(step), record
            elif record is not None:
                damaged.append(number)
    if damaged:
        run.warnings.append(f"{name}: {len(damaged)} damaged lines were skipped, the first is line {damaged[0]}")


def _read_metrics(run: Run, name: str) -> None:
    values: dict[int, dict[str, float]] = {}
    not_finite: Counter[str] = Counter()
    repeated: set[int] = set()
    for step, record in _records(run, name):
        data = record.get("data")
        row = values.setdefault(step, {})
        for metric, value in data.items() if isinstance(data, dict) else ():
            number, metric = finite(value), _metric_name(metric)
            if math.isnan(number):
                not_finite[metric] += 1
            elif row.setdefault(metric, number) != number:
                repeated.add(step)
                row[metric] = number
    run.metrics = pd.DataFrame.from_dict(values, orient="index", dtype=float).sort_index()
    if not_finite:
        listed = ", ".join(f"{metric} ({count} times)" for metric, count in not_finite.most_common(5))
        more = f" and {len(not_finite) - 5} more metrics" if len(not_finite) > 5 else ""
        run.warnings.append(f"{name}: values that are not finite numbers were skipped: {listed}{more}")
    if repeated:
        text = "steps were logged twice with different values; the last counts"
        run.warnings.append(f"{name}: {len(repeated)} {text}")


def _read_selection(run: Run, name: str) -> None:
    candidates, chosen = array("d"), array("d")
    for step, record in _records(run, name):
        ppl_of: dict[int, float] = {}
        for candidate in _objects(record.get("candidates")):
            prompt, ppl = _code(run, candidate.get("prompt_id")), finite(candidate.get("ppl"))
            ppl_of[prompt] = ppl if ppl > 0 else math.nan
            candidates.extend((step, prompt, ppl_of[prompt]))
        selected = record.get("selected")
        for prompt_id in selected if isinstance(selected, list) else ():
            prompt = _code(run, prompt_id)
            chosen.extend((step, prompt, ppl_of.get(prompt, math.nan)))
        run.skip_reasons.update(str(skip.get("reason")) for skip in _objects(record.get("skipped")))
    run.candidates, run.chosen = (_frame(values, "step", "prompt", "ppl") for values in (candidates, chosen))


def _read_rollouts(run: Run, name: str) -> None:
    rollouts = array("d")
    for step, record in _records(run, name):
        prompt = _code(run, record.get("prompt_id"))
        rollouts.extend((step, prompt, finite(record.get("reward")), finite(record.get("weight"))))
    run.rollouts = _frame(rollouts, "step", "prompt", "reward", "weight")


def _code(run: Run, prompt_id: object) -> int:
    return run.codes.setdefault(prompt_id if type(prompt_id) is str else str(prompt_id), len(run.codes))


def _frame(values: array[float], *columns: str) -> pd.DataFrame:
    frame = pd.DataFrame(np.array(values).reshape(-1, len(columns)), columns=list(columns))
    return frame.astype({"step": int, "prompt": int})


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


READERS = {
    "config.yaml": _read_config,
    "metrics.jsonl": _read_metrics,
    SELECTION_FILE: _read_selection,
    ROLLOUTS_FILE: _read_rollouts,
}
