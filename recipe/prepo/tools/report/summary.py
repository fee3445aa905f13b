"""The numbers of a run's head table and of the comparison, out of its logged metrics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipe.prepo.tools.report.load import FloatArray, Run

ROLLOUTS = "prepo/rollouts_total/max"
TOKENS = "prepo/response_tokens_total/max"
STEP_SECONDS = "timing_s/step"
SECONDS = f"sum of {STEP_SECONDS}"
ZERO_ADVANTAGE = "prepo/zero_advantage_frac/mean"
HELD_OUT = re.compile(r"val-core/(.+/(?:acc|reward)/mean@\d+)")
MISSING = "n/a"


@dataclass(frozen=True)
class Gain:
    """First and last held-out score of one set (a fraction where the reward is 0/1), and the steps they stand at."""

    metric: str
    first_step: int
    first: float
    last_step: int
    last: float


def held_out_names(run: Run) -> list[str]:
    """The run's held-out mean scores, by verl's names `val-core/<data source>/<acc|reward>/mean@<n>`."""
    return sorted({name for data in run.metrics.values() for name in data if HELD_OUT.fullmatch(name)})


def short_name(metric: str) -> str:
    match = HELD_OUT.fullmatch(metric)
    return match.group(1) if match else metric


def held_out(run: Run, names: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Steps at which every one of `names` was measured, and the plain mean over the sets there."""
    rows = [
        (step, [data[name] for name in names])
        for step, data in run.metrics.items()
        if names and data.keys() >= {*names}
    ]
    return np.array([step for step, _ in rows], float), np.array([np.mean(values) for _, values in rows], float)


def cumulative(run: Run, steps: FloatArray, counter: str) -> FloatArray:
    """The cumulative `counter` at each of `steps`: 0 at step 0, NaN where it was not logged.

    `SECONDS` is the time in training steps up to then: without the validations, and without a step that logged none.
    """
    known, values = run.series(STEP_SECONDS if counter == SECONDS else counter)
    if counter == SECONDS:
        values = np.cumsum(values)
    at = {0.0: 0.0} | dict(zip(known.tolist(), values.tolist(), strict=True))
    return np.array([at.get(step, float("nan")) for step in steps.tolist()], float)


def gain(run: Run, names: Sequence[str], label: str) -> Gain | None:
    steps, values = held_out(run, names)
    if not steps.size:
        return None
    return Gain(label, int(steps[0]), float(values[0]), int(steps[-1]), float(values[-1]))


def steps_done(run: Run) -> int:
    """The last step that logged anything but a validation."""
    trained = [step for step, data in run.metrics.items() if any(not name.startswith("val-") for name in data)]
    return max(trained, default=0)


def steps_planned(run: Run) -> int | None:
    for name in ("trainer.total_training_steps", "actor_rollout_ref.actor.optim.total_training_steps"):
        planned = run.setting(name)
        if isinstance(planned, int) and planned > 0:
            return planned
    return None


def last(run: Run, name: str) -> float | None:
    values = run.series(name)[1]
    return float(values[-1]) if values.size else None


def total(run: Run, name: str) -> float | None:
    values = run.series(name)[1]
    return float(values.sum()) if values.size else None


def mean(run: Run, name: str) -> float | None:
    values = run.series(name)[1]
    return float(values.mean()) if values.size else None


def number(value: float | None, digits: int = 0) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"


def steps_text(run: Run) -> str:
    planned = steps_planned(run)
    return f"{steps_done(run)} of {planned if planned is not None else 'an unknown number'}"


def unfinished(run: Run) -> list[str]:
    """A note where fewer steps are logged than were planned."""
    planned, done = steps_planned(run), steps_done(run)
    if planned is None or done >= planned:
        return []
    return [f"{done} of {planned} steps are logged: the run goes on, or was stopped"]


def rule(run: Run, kind: str) -> str:
    return setting_text(run.setting(f"prepo.{kind}.name"))


def setting_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(setting_text(item) for item in value[:8])
    return MISSING if value is None or isinstance(value, dict) else str(value)


def head_rows(run: Run) -> list[tuple[str, str]]:
    """(what, value) rows of the head table of one run."""
    rows = [("Run directory", str(run.path)), ("Steps done", steps_text(run))]
    rows += [
        (f"{kind.capitalize()} rule", rule(run, kind)) for kind in ("selection", "weighting", "budget", "temperature")
    ]
    rows += [
        ("Trainer mode", setting_text(run.setting("trainer.v1.trainer_mode"))),
        ("Model", setting_text(run.setting("actor_rollout_ref.model.path"))),
        ("Training data", setting_text(run.setting("data.train_files"))),
        ("Held-out data", setting_text(run.setting("data.val_files"))),
        ("Rollouts generated", number(last(run, ROLLOUTS))),
        ("Response tokens generated", number(last(run, TOKENS))),
        ("Seconds in training steps", number(total(run, STEP_SECONDS), 1)),
        ("Seconds in validation after step 0", number(total(run, "timing_s/testing"), 1)),
        ("Zero-advantage share, mean over steps", number(mean(run, ZERO_ADVANTAGE), 4)),
    ]
    seed = run.setting("prepo.seed")
    rows += [("Seed", setting_text(seed))] if seed is not None else []
    if run.selections and run.selections.skipped:
        reasons = run.selections.skipped.most_common(5)
        rows.append(("Candidates skipped", ", ".join(f"{reason}: {count:,}" for reason, count in reasons)))
    return rows


def gains(run: Run) -> list[Gain]:
    """Held-out gain of each set and, with several sets, of their mean."""
    names = held_out_names(run)
    found = [gain(run, [name], short_name(name)) for name in names]
    if len(names) > 1:
        found.append(gain(run, names, "mean over the sets"))
    return [entry for entry in found if entry is not None]


def common_held_out(runs: Sequence[Run]) -> list[str]:
    """The held-out scores that all runs have, but for runs that have none at all (yet)."""
    found = [names for run in runs if (names := {*held_out_names(run)})]
    return sorted(set.intersection(*found)) if found else []
