"""Read a run directory. Damaged or missing files become warnings; nothing in them is executed."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from recipe.prepo.errors import DataError
from recipe.prepo.run.metric_names import held_out_set

CONFIG_FILE, METRICS_FILE = "config.yaml", "metrics.jsonl"
SELECTION_FILE, ROLLOUTS_FILE = "audit/selection.jsonl", "audit/rollouts.jsonl"
RUN_FILES = (CONFIG_FILE, METRICS_FILE, SELECTION_FILE, ROLLOUTS_FILE)


@dataclass
class Run:
    """One run directory in memory.

    Attributes:
        metrics: one row per step in ascending order, one column per metric; NaN where it is not logged or not finite.
        candidates: columns step, prompt, ppl (NaN when not scored): one row per candidate. None without the file.
        chosen: the same columns for the prompts that were chosen among them.
        rollouts: columns step, prompt, reward, weight: one row per rollout. None without the file.
        prompt_ids: id of each prompt code in the columns `prompt`.
        skip_reasons: how often candidates were skipped, by reason.
        warnings: what is missing or damaged.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    metrics: pd.DataFrame
    candidates: pd.DataFrame | None
    chosen: pd.DataFrame | None
    rollouts: pd.DataFrame | None
    prompt_ids: list[str]
    skip_reasons: Counter[str]
    warnings: list[str]

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
    present = [name for name in RUN_FILES if (run_dir / name).is_file()]
    if not present:
        raise DataError(f"{run_dir} is not a run directory, it contains none of {', '.join(RUN_FILES)}: {hint}")
    warnings = [f"{name} is missing" for name in RUN_FILES if name not in present]
    config = _load_config(run_dir / CONFIG_FILE, warnings) if CONFIG_FILE in present else {}
    metrics = _load_metrics(run_dir / METRICS_FILE, warnings) if METRICS_FILE in present else pd.DataFrame()
    codes: dict[str, int] = {}
    skip_reasons: Counter[str] = Counter()
    candidates = chosen = rollouts = None
    if SELECTION_FILE in present:
        candidates, chosen = _load_selection(run_dir / SELECTION_FILE, codes, skip_reasons, warnings)
    if ROLLOUTS_FILE in present:
        rollouts = _load_rollouts(run_dir / ROLLOUTS_FILE, codes, warnings)
    name = run_dir.resolve().name
    return Run(name, run_dir, config, metrics, candidates, chosen, rollouts, list(codes), skip_reasons, warnings)


def finite(value: object) -> float:
    """The number as a float; NaN for an infinity, null, a bool, text and anything else."""
    if type(value) is float or type(value) is int:
        try:
            return float(value) if math.isfinite(value) else math.nan
        except OverflowError:  # an integer of more than 300 digits
            pass
    return math.nan


def _load_config(path: Path, warnings: list[str]) -> Mapping[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        config = yaml.load(path.read_text(encoding="utf-8", errors="replace"), Loader=loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        warnings.append(f"config.yaml is not valid YAML ({str(error).splitlines()[0]})")
        return {}
    if not isinstance(config, dict):
        warnings.append("config.yaml contains no settings")
        return {}
    return config


def _records(path: Path, label: str, warnings: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(step, object) of each intact line; the damaged ones are counted in `warnings`."""
    damaged: list[int] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line) if line.strip() else None
            except (ValueError, RecursionError):
                if not line.endswith("\n"):
                    warnings.append(
                        f"{label}: the last line is incomplete and was skipped (the run goes on or stopped)"
                    )
                    continue
                record = {}
            step = finite(record.get("step")) if isinstance(record, dict) else math.nan
            if isinstance(record, dict) and step >= 0 and step == int(step):
                yield int(step), record
            elif record is not None:
                damaged.append(number)
    if damaged:
        warnings.append(f"{label}: {len(damaged)} damaged lines were skipped, the first is line {damaged[0]}")


@cache
def _metric_name(name: str) -> str:
    return name.encode("utf-8", "replace").decode()  # pandas cannot store lone surrogates


def _load_metrics(path: Path, warnings: list[str]) -> pd.DataFrame:
    values: dict[int, dict[str, float]] = {}
    not_finite: Counter[str] = Counter()
    repeated: set[int] = set()
    for step, record in _records(path, METRICS_FILE, warnings):
        data = record.get("data")
        row = values.setdefault(step, {})
        for name, value in data.items() if isinstance(data, dict) else ():
            number, name = finite(value), _metric_name(name)
            if math.isnan(number):
                not_finite[name] += 1
            elif row.setdefault(name, number) != number:
                repeated.add(step)
                row[name] = number
    if not values:
        warnings.append("metrics.jsonl contains no step yet")
    if not_finite:
        listed = ", ".join(f"{name} ({count} times)" for name, count in not_finite.most_common(5))
        more = f" and {len(not_finite) - 5} more metrics" if len(not_finite) > 5 else ""
        warnings.append(f"metrics.jsonl: values that are not finite numbers were skipped: {listed}{more}")
    if repeated:
        warnings.append(
            f"metrics.jsonl: {len(repeated)} steps were logged twice with different values; the last is used"
        )
    return pd.DataFrame.from_dict(values, orient="index", dtype=float).sort_index()


def _load_selection(
    path: Path, codes: dict[str, int], skip_reasons: Counter[str], warnings: list[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    candidates, chosen = array("d"), array("d")
    for step, record in _records(path, SELECTION_FILE, warnings):
        ppl_of: dict[int, float] = {}
        for candidate in _objects(record.get("candidates")):
            prompt, ppl = _code(candidate.get("prompt_id"), codes), finite(candidate.get("ppl"))
            ppl_of[prompt] = ppl if ppl > 0 else math.nan
            candidates.extend((step, prompt, ppl_of[prompt]))
        selected = record.get("selected")
        for prompt_id in selected if isinstance(selected, list) else ():
            prompt = _code(prompt_id, codes)
            chosen.extend((step, prompt, ppl_of.get(prompt, math.nan)))
        skip_reasons.update(str(skip.get("reason")) for skip in _objects(record.get("skipped")))
    return _frame(candidates, "step", "prompt", "ppl"), _frame(chosen, "step", "prompt", "ppl")


def _load_rollouts(path: Path, codes: dict[str, int], warnings: list[str]) -> pd.DataFrame:
    rollouts = array("d")
    for step, record in _records(path, ROLLOUTS_FILE, warnings):
        prompt = _code(record.get("prompt_id"), codes)
        rollouts.extend((step, prompt, finite(record.get("reward")), finite(record.get("weight"))))
    return _frame(rollouts, "step", "prompt", "reward", "weight")


def _code(prompt_id: object, codes: dict[str, int]) -> int:
    return codes.setdefault(prompt_id if type(prompt_id) is str else str(prompt_id), len(codes))


def _frame(values: array[float], *columns: str) -> pd.DataFrame:
    frame = pd.DataFrame(np.array(values).reshape(-1, len(columns)), columns=list(columns))
    return frame.astype({"step": int, "prompt": int})


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
