"""Constants of this machine for ``scale_model``, fitted to the timings in real run directories.

Every phase of a step is a sum of non-negative constants times counts that the run itself recorded. Steps of all runs
weigh the same relative to their length, and a run's first steps, which warm it up, are left out.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.scale_model_pool import SYNC, Costs, Plan

WARM_UP_STEPS = 2
# Phase -> the counts that it is proportional to; «one» is what it costs whatever the sizes.
PHASES: dict[str, tuple[str, ...]] = {
    "prompt_scoring": ("one", "candidates"),
    "gen": ("one", "rollouts", "longest", "response_tokens"),
    "old_log_prob": ("one", "tokens"),
    "update_actor": ("one", "tokens"),
    "adv": ("one", "rollouts"),
    "update_weights": ("one",),
    "rest": ("one", "rollouts"),
}
Fit = dict[str, dict[str, float]]


@dataclass(frozen=True)
class StepRow:
    """What one step counted and how long its phases took."""

    counts: dict[str, float]
    seconds: dict[str, float]

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True)
class RunTimings:
    """A run directory's sizes, its steps after the warm-up, and the lengths of its responses."""

    name: str
    plan: Plan
    rows: tuple[StepRow, ...]
    response_tokens_R: NDArray[np.int64]

    @property
    def median_step_s(self) -> float:
        return statistics.median(row.total_s for row in self.rows)


def read_run(run_dir: Path) -> RunTimings:
    """Read ``config.yaml``, ``metrics.jsonl`` and ``audit/rollouts.jsonl``.

    Raises:
        ValueError: the run is not one that these constants describe, or it has no step after the warm-up.
    """
    config = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    mode = config["trainer"]["v1"]["trainer_mode"]
    if mode != "prepo_sync":
        raise ValueError(f"{run_dir}: trainer.v1.trainer_mode={mode}: constants are fitted to prepo_sync runs only")
    lines = (json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    steps = [line["data"] for line in lines if "timing_s/step" in line["data"]][WARM_UP_STEPS:]
    if not steps:
        raise ValueError(f"{run_dir}: no step after the first {WARM_UP_STEPS}")
    rollouts = (run_dir / "audit" / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    plan = Plan(
        mode=SYNC,
        num_selected=config["data"]["train_batch_size"],
        rollouts_per_prompt=config["actor_rollout_ref"]["rollout"]["n"],
        candidate_ratio=config["prepo"]["candidate_ratio"],
        prompt_tokens=statistics.mean(data["prompt_length/mean"] for data in steps),
        scores_prompts=any("timing_s/prompt_scoring" in data for data in steps),
    )
    lengths = np.array([json.loads(line)["num_tokens"] for line in rollouts], dtype=np.int64)
    return RunTimings(run_dir.name, plan, tuple(step_row(data) for data in steps), lengths)


def step_row(data: Mapping[str, Any]) -> StepRow:
    """Counts and seconds of one line of ``metrics.jsonl``; «rest» is what no phase accounts for."""
    seconds = {name: float(data.get(f"timing_s/{name}") or 0.0) for name in PHASES if name != "rest"}
    extra = sum(float(data.get(f"timing_s/{name}") or 0.0) for name in ("save_checkpoint", "testing"))
    seconds["rest"] = max(0.0, float(data["timing_s/step"]) - extra - sum(seconds.values()))
    rollouts = float(data["prepo/rollouts/sum"])
    counts = {
        "one": 1.0,
        "candidates": float(data["prepo/candidates/sum"]),
        "rollouts": rollouts,
        "longest": float(data["response_length/max"]),
        "response_tokens": rollouts * float(data["response_length/mean"]),
        "tokens": float(data["perf/total_num_tokens"]),
    }
    return StepRow(counts, seconds)


def nonnegative_least_squares(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The best non-negative coefficients; tries every set of columns, of which there are a handful.

    >>> nonnegative_least_squares(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([2.0, -1.0])).tolist()
    [2.0, 0.0]
    """
    columns = range(x.shape[1])
    best, least = np.zeros(x.shape[1]), float(y @ y)
    for kept in itertools.chain.from_iterable(itertools.combinations(columns, n) for n in range(1, len(columns) + 1)):
        solved = np.linalg.lstsq(x[:, kept], y, rcond=None)[0]
        left = float(np.sum((x[:, kept] @ solved - y) ** 2))
        if (solved >= 0).all() and left < least * (1 - 1e-9):
            best, least = np.zeros(x.shape[1]), left
            best[list(kept)] = solved
    return best


def fit_phases(rows: Sequence[StepRow]) -> Fit:
    """Coefficients of each phase; a phase that never took time gets none."""
    fit: Fit = {}
    for phase, names in PHASES.items():
        used = [row for row in rows if row.seconds[phase] > 0]
        if not used:
            continue
        # A column is scaled to its own mean, and a row weighs 1 over its seconds: relative errors are minimised.
        x = np.array([[row.counts[name] for name in names] for row in used])
        weight = 1.0 / np.array([row.seconds[phase] for row in used])
        scale = x.mean(axis=0)
        solved = nonnegative_least_squares(x / scale * weight[:, None], np.ones(len(used)))
        fit[phase] = {name: float(value) for name, value in zip(names, solved / scale, strict=True)}
    return fit


def phase_seconds(fit: Fit, counts: Mapping[str, float]) -> dict[str, float]:
    """Predicted seconds of each phase."""
    return {phase: sum(value * counts[name] for name, value in row.items()) for phase, row in fit.items()}


def costs_of(fit: Fit) -> Costs:
    """The fitted constants as the simulation takes them: one replica, a trainer and its driver on one machine."""

    def value(phase: str, name: str) -> float:
        return fit.get(phase, {}).get(name, 0.0)

    return Costs(
        iteration_s=value("gen", "longest"),
        sequence_s=value("gen", "response_tokens"),
        rollout_s=value("gen", "rollouts"),
        generate_fixed_s=value("gen", "one"),
        train_fixed_s=value("old_log_prob", "one") + value("update_actor", "one"),
        train_s_per_token=value("old_log_prob", "tokens") + value("update_actor", "tokens"),
        sync_s=value("update_weights", "one"),
        score_fixed_s=value("prompt_scoring", "one"),
        driver_s_per_candidate=value("prompt_scoring", "candidates"),
        driver_s_per_rollout=value("adv", "rollouts") + value("rest", "rollouts"),
        driver_fixed_s=value("adv", "one") + value("rest", "one"),
    )
