"""Read a run directory. Damaged or missing files become warnings; nothing in them is executed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from recipe.prepo.errors import DataError
from recipe.prepo.run.metric_names import STEP_SECONDS, held_out_set

CONFIG_FILE, METRICS_FILE = FILES = ("config.yaml", "metrics.jsonl")
SECONDS = f"sum of {STEP_SECONDS}"
# What parsing a damaged record raises.
DAMAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass
class Run:
    """One run directory in memory; a missing file leaves its part empty.

    Attributes:
        config: the values of config.yaml by dotted name.
        metrics: one row per step in ascending order, one column per metric; NaN where it is not logged or not finite.
            Column `SECONDS` adds up the training steps, without the validations.
        warnings: what is missing or damaged.
    """

    name: str
    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: pd.DataFrame = field(default_factory=pd.DataFrame)
    warnings: list[str] = field(default_factory=list)

    def series(self, metric: str) -> pd.Series:
        """The metric's finite values, indexed by step; empty when it is not logged."""
        return self.metrics[metric].dropna() if metric in self.metrics else pd.Series(dtype=float)

    @property
    def seed(self) -> int | None:
        return self.config.get("prepo.seed")

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
        steps = "total_training_steps"
        return self.config.get(f"trainer.{steps}") or self.config.get(f"actor_rollout_ref.actor.optim.{steps}")

    @property
    def is_unfinished(self) -> bool:
        return self.steps_planned is not None and self.steps_done < self.steps_planned

    def warn(self, what: str, places: Sequence[str]) -> None:
        """Warn of damage at these places of metrics.jsonl, if there are any."""
        if places:
            self.warnings.append(f"{METRICS_FILE}: {len(places)} {what}, the first is {places[0]}")


def load_run(run_dir: Path) -> Run:
    """Read one run directory.

    Raises:
        DataError: `run_dir` contains none of a run's files.
    """
    missing = [name for name in FILES if not (run_dir / name).is_file()]
    if len(missing) == len(FILES):
        raise DataError(
            f"{run_dir} is not a run directory, it contains none of {', '.join(FILES)}: pass the directory that a "
            "training run wrote (outputs/<name>)"
        )
    run = Run(run_dir.resolve().name, run_dir, warnings=[f"{name} is missing" for name in missing])
    if CONFIG_FILE not in missing:
        _read_config(run)
    if METRICS_FILE not in missing:
        _read_metrics(run)
    if run.is_unfinished:
        done = f"{run.steps_done} of {run.steps_planned} steps are logged"
        run.warnings.append(f"{done}: the run is still going, or was stopped")
    return run


def finite(value: object) -> float:
    """The number as a float; NaN for an infinity and for anything that is not a number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e308 else math.nan  # type: ignore[arg-type]


def _read_config(run: Run) -> None:
    def flat(value: Any, name: str = "") -> dict[str, Any]:
        if not isinstance(value, Mapping):
            return {name: value}
        return {dotted: leaf for key in value for dotted, leaf in flat(value[key], f"{name}.{key}".strip(".")).items()}

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        run.config = flat(yaml.load((run.path / CONFIG_FILE).read_text("utf-8", "replace"), loader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        run.warnings.append(f"{CONFIG_FILE} is not valid YAML ({str(error).splitlines()[0]})")


def _read_metrics(run: Run) -> None:
    """The metrics as one row per step; the last of several values counts."""
    rows: list[tuple[int, str, float]] = []
    damaged = []
    with (run.path / METRICS_FILE).open(encoding="utf-8", errors="replace") as lines:
        for at, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                step = index(record["step"])
                rows += [(step, name, finite(value)) for name, value in record["data"].items()]
            except DAMAGE:
                damaged.append(f"line {at}")
    run.warn("damaged or incomplete lines were skipped", damaged)
    logged = pd.DataFrame(rows, columns=["step", "metric", "value"])
    skipped = logged[logged["value"].isna()].itertuples()
    run.warn("values that are not finite numbers were skipped", [f"{one.metric} at step {one.step}" for one in skipped])
    values = logged.dropna().groupby(["step", "metric"])["value"]
    twice = [f"{metric} at step {step}" for (step, metric), count in values.nunique().items() if count > 1]
    run.warn("values were logged twice and differ (the last counts)", twice)
    run.metrics = values.last().unstack()
    if STEP_SECONDS in run.metrics:
        run.metrics[SECONDS] = run.metrics[STEP_SECONDS].cumsum()
