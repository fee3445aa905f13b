"""Figures out of the logged metrics: accuracy against cost, zero-advantage shares, entropy, staleness."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recipe.prepo.tools.report.load import FloatArray, Run
from recipe.prepo.tools.report.rows import Curve, Row, curve
from recipe.prepo.tools.report.style import Drawing, figure, legend, plain_numbers, spread, to_png
from recipe.prepo.tools.report.summary import (
    ROLLOUTS,
    SECONDS,
    STEP_SECONDS,
    TOKENS,
    ZERO_ADVANTAGE,
    common_held_out,
    cumulative,
    held_out,
    held_out_names,
    short_name,
    steps_done,
)

REWARD = "critic/score/mean"
ENTROPY = "prepo/entropy_nats/mean"
SHARES = (
    (ZERO_ADVANTAGE, "zero advantage"),
    ("prepo/all_correct_frac/mean", "all correct"),
    ("prepo/all_wrong_frac/mean", "all wrong"),
)
STALENESS = "training/off_policy/trajectory_staleness"
WORST_STALENESS = "training/off_policy/trajectory_staleness_worst/max"
SECONDS_UNITS = ((3 * 3600.0, 3600.0, "hours"), (3 * 60.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))


Cost = Callable[[Run, FloatArray], FloatArray]


def smoothing_note(width: int) -> str:
    return f" Faint: every step; line: running mean over up to {width} steps." if width > 1 else ""


def spread_note(rows: Sequence[Row]) -> str:
    most = max(len(row.runs) for row in rows)
    return " Of several seeds: their mean, and a band from the lowest to the highest of them." if most > 1 else ""


def is_single(rows: Sequence[Row]) -> bool:
    return len(rows) == 1 and len(rows[0].runs) == 1


def logged(rows: Sequence[Row], metric: str) -> list[Run]:
    return [run for row in rows for run in row.runs if run.series(metric)[1].size]


def accuracy(rows: Sequence[Row], counter: str, name: str, unit: str, target: float | None = None) -> Drawing:
    """Held-out score and training reward against a cumulative counter; against steps where no run logged it."""
    title = f"Held-out score and training reward against {unit}"
    source = STEP_SECONDS if counter == SECONDS else counter
    single = is_single(rows)
    trained = [run for row in rows for run in row.runs if steps_done(run)]
    counted = bool(trained) and len(logged(rows, source)) == len(trained)
    among = "" if single else " in every run"
    if not counted and counter != ROLLOUTS:
        return Drawing(name, title, f"{source} is not logged{among}.")
    scale, unit = _seconds_unit(rows, unit) if counter == SECONDS else (1.0, unit)

    def cost(run: Run, steps: FloatArray) -> FloatArray:
        return cumulative(run, steps, counter) / scale

    against = cost if counted else None
    curves = _held_out_curves(rows, against)
    rewards = [(row, curve(row, lambda run: run.series(REWARD), against)) for row in rows]
    rewards = [(row, found) for row, found in rewards if found.x.size]
    if not curves and not rewards:
        return Drawing(name, title, f"Neither val-core/…/mean@n nor {REWARD} is logged.")
    drawn, axes = figure(2 if curves and rewards else 1, 5.2 if curves and rewards else 3.6)
    width = 1
    for index, text, found in curves:
        spread(axes[0], found, index, text)
    if curves:
        axes[0].set_ylabel("held-out score")
    if curves and target is not None:
        axes[0].axhline(target, color="#000000", linestyle=(0, (1, 2)), linewidth=1.0, label=f"target {target:.4g}")
    for row, found in rewards:
        text = "training reward" if single else row.label(found.num_runs)
        look = len(curves) if single else rows.index(row)
        width = max(width, spread(axes[-1], found, look, text, smooth=True))
    if rewards:
        axes[-1].set_ylabel("training reward")
    axes[-1].set_xlabel(f"cumulative {unit}" if counted else "training step")
    plain_numbers(axes[-1])
    legend(drawn, axes[0])
    no_curves = "No validation is logged." if single else "The runs share no held-out score."
    caption = "The point at 0 is the validation before training." if curves else no_curves
    if not rewards:
        caption += f" {REWARD} is not logged."
    if not counted:
        caption += f" {source} is not logged{among}: drawn against steps instead."
    if counter == SECONDS:
        caption += " The time of the validations is left out."
    if not single and curves:
        caption += " The score is the plain mean over the sets that all runs have."
    return Drawing(name, title, caption + spread_note(rows) + smoothing_note(width), to_png(drawn))


def _seconds_unit(rows: Sequence[Row], unit: str) -> tuple[float, str]:
    longest = max(float(run.series(STEP_SECONDS)[1].sum()) for row in rows for run in row.runs)
    scale, word = next((scale, word) for least, scale, word in SECONDS_UNITS if longest >= least)
    return scale, unit.replace("seconds", word)


def _held_out_curves(rows: Sequence[Row], cost: Cost | None) -> list[tuple[int, str, Curve]]:
    """(look, text, curve): a single run's sets and their mean, or each row's mean over the sets that all runs have."""
    if is_single(rows):
        names = held_out_names(rows[0].runs[0])
        parts = [([name], short_name(name)) for name in names]
        parts = [(names, "mean over the sets"), *parts] if len(names) > 1 else parts
        found = [(text, _score_curve(rows[0], part, cost)) for part, text in parts]
        return [(index, text, entry) for index, (text, entry) in enumerate(found) if entry.x.size]
    names = common_held_out([run for row in rows for run in row.runs])
    curves = [_score_curve(row, names, cost) for row in rows]
    return [
        (index, row.label(entry.num_runs), entry)
        for index, (row, entry) in enumerate(zip(rows, curves, strict=True))
        if entry.x.size
    ]


def _score_curve(row: Row, names: Sequence[str], cost: Cost | None) -> Curve:
    return curve(row, lambda run: held_out(run, names), cost)


def over_steps(row: Row, metric: str) -> Curve:
    return curve(row, lambda run: run.series(metric), None)


def shares(rows: Sequence[Row]) -> Drawing:
    """Shares of groups whose rewards are all equal, all 1, all 0; one run in one panel, several in a panel a share."""
    title, single = "Groups without an advantage", is_single(rows)
    present = [(metric, text) for metric, text in SHARES if logged(rows, metric)]
    if not present:
        return Drawing("zero_advantage", title, f"{', '.join(metric for metric, _ in SHARES)} are not logged.")
    panels = 1 if single else len(present)
    drawn, axes = figure(panels, 1.2 + 1.7 * panels if panels > 1 else 3.4)
    width = 1
    for place, (metric, text) in enumerate(present):
        for index, row in enumerate(rows):
            found = over_steps(row, metric)
            if not found.x.size:
                continue
            panel, look, entry = (0, place, text) if single else (place, index, row.label(found.num_runs))
            width = max(width, spread(axes[panel], found, look, entry, smooth=True))
            axes[panel].set_ylabel("share of groups" if single else text)
    for each in axes:
        each.set_ylim(-0.03, 1.03)
    axes[-1].set_xlabel("training step")
    plain_numbers(axes[-1])
    legend(drawn, axes[0])
    caption = "Share of all groups that were rolled out, thrown-away ones too; equal rewards give no gradient."
    absent = [metric for metric, text in SHARES if (metric, text) not in present]
    caption += f" Not logged: {', '.join(absent)}." if absent else ""
    return Drawing("zero_advantage", title, caption + spread_note(rows) + smoothing_note(width), to_png(drawn))


def entropy(rows: Sequence[Row]) -> Drawing:
    """Mean token entropy of the rollouts, in nats, over steps."""
    title = "Entropy over steps"
    present = logged(rows, ENTROPY)
    if not present:
        return Drawing("entropy", title, f"{ENTROPY} is not logged.")
    drawn, (axes,) = figure()
    width = 1
    for index, row in enumerate(rows):
        found = over_steps(row, ENTROPY)
        if found.x.size:
            width = max(width, spread(axes, found, index, row.label(found.num_runs), smooth=True))
    axes.set_ylabel("entropy (nats a token)")
    axes.set_xlabel("training step")
    plain_numbers(axes)
    axes.set_ylim(bottom=0)
    if not is_single(rows):
        legend(drawn, axes)
    caption = "Mean over the step's rollouts of their mean token entropy, under the policy that generated them."
    absent = [run.name for row in rows for run in row.runs if run not in present]
    caption += f" Not logged in: {', '.join(absent)}." if absent else ""
    return Drawing("entropy", title, caption + spread_note(rows) + smoothing_note(width), to_png(drawn))


def staleness(rows: Sequence[Row]) -> Drawing | None:
    """How many weight versions the rollouts lag behind the policy they train; None where all of them are on-policy."""
    name, title = "staleness", "How stale the rollouts are"
    lagging = [run for run in logged(rows, WORST_STALENESS) if run.series(WORST_STALENESS)[1].any()]
    lagging += [run for run in logged(rows, f"{STALENESS}/max") if run.series(f"{STALENESS}/max")[1].any()]
    if not lagging:
        return None
    drawn, (axes,) = figure()
    width = 1
    lines = [(f"{STALENESS}/mean", "mean"), (f"{STALENESS}/max", "stalest")]
    if is_single(rows):
        lines.append((WORST_STALENESS, "stalest, by its oldest token"))
        for index, (metric, text) in enumerate(lines):
            found = over_steps(rows[0], metric)
            if found.x.size:
                width = max(width, spread(axes, found, index, text, smooth=True))
    else:
        for index, row in enumerate(rows):
            found = over_steps(row, lines[0][0])
            if found.x.size:
                width = max(width, spread(axes, found, index, row.label(found.num_runs), smooth=True))
    axes.set_ylabel("weight versions behind")
    axes.set_xlabel("training step")
    plain_numbers(axes)
    axes.set_ylim(bottom=-0.05)
    legend(drawn, axes)
    caption = "Weight versions between the one that generated a rollout and the one it trains; 0 is on-policy."
    caption += "" if is_single(rows) else " Mean over the step's rollouts."
    return Drawing(name, title, caption + spread_note(rows) + smoothing_note(width), to_png(drawn))


def metric_drawings(rows: Sequence[Row], target: float | None = None) -> list[Drawing]:
    """The figures that can lay several rows over each other; `target` is a held-out score to mark."""
    late = staleness(rows)
    return [
        accuracy(rows, ROLLOUTS, "accuracy_rollouts", "rollouts", target),
        accuracy(rows, TOKENS, "accuracy_tokens", "response tokens", target),
        accuracy(rows, SECONDS, "accuracy_seconds", "seconds in training steps", target),
        shares(rows),
        entropy(rows),
        *([late] if late else []),
    ]
