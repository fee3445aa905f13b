"""Rollouts (tokens, seconds) to reach a held-out score, and the factor saved against a baseline row.

The rule: a row reaches the target at the first evaluation at which its held-out score, averaged over its seeds, is at
or above the target. What it had spent by then, averaged over the seeds, is its cost. Nothing is interpolated between
evaluations, so that every figure stands in `metrics.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipe.prepo.tools.report.load import FloatArray
from recipe.prepo.tools.report.rows import Row
from recipe.prepo.tools.report.summary import MISSING, ROLLOUTS, SECONDS, TOKENS, cumulative, held_out, number

COSTS = ((ROLLOUTS, "rollouts"), (TOKENS, "response tokens"), (SECONDS, "seconds in steps"))
NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95
# Scores are means of many numbers: one that is the target on paper may miss it by a rounding.
SLACK = 1e-9


@dataclass(frozen=True)
class Evaluations:
    """Held-out scores (S seeds by E evaluations, at the steps common to all seeds) and the costs up to each."""

    steps: FloatArray
    score: FloatArray
    cost: dict[str, FloatArray]
    seeds: tuple[int | None, ...]


@dataclass(frozen=True)
class Ratio:
    """Baseline's cost divided by the row's; `low` and `high` are None without an interval (one seed on a side).

    0 stands for a row that never reached the target, infinity for a baseline that never did, NaN for undefined (both
    never did, or the target was reached before any training).
    """

    value: float
    low: float | None
    high: float | None
    paired: bool


@dataclass(frozen=True)
class TargetTable:
    """What it took each row to reach the target, as text; `level` is the held-out score, None where there is none."""

    title: str
    level: float | None
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def evaluations(row: Row, names: Sequence[str]) -> Evaluations | None:
    """The row's held-out scores (plain mean over the sets `names`), of the runs that have any.

    Returns:
        None where no run has one, or the runs share no evaluation.
    """
    found = [(run, seed, *held_out(run, names)) for run, seed in zip(row.runs, row.seeds, strict=True)]
    found = [entry for entry in found if entry[2].size]
    common = found[0][2] if found else np.zeros(0)
    for _, _, steps, _ in found[1:]:
        common = np.intersect1d(common, steps)
    if not common.size:
        return None
    score = np.array([values[np.isin(steps, common)] for _, _, steps, values in found])
    cost = {counter: np.array([cumulative(run, common, counter) for run, *_ in found]) for counter, _ in COSTS}
    return Evaluations(common, score, cost, tuple(seed for _, seed, *_ in found))


def reached_at(score_E: FloatArray, target: float) -> int | None:
    """Index of the first evaluation at or above the target.

    >>> reached_at(np.array([0.2, 0.5, 0.4]), 0.45), reached_at(np.array([0.2]), 0.45)
    (1, None)
    """
    above = np.flatnonzero(score_E >= target - SLACK)
    return int(above[0]) if above.size else None


def cost_to_target(found: Evaluations, target: float, counter: str) -> float | None:
    """Mean cost when the mean score over the seeds first is at or above the target; None if never, NaN if unknown."""
    at = reached_at(found.score.mean(axis=0), target)
    return None if at is None else float(found.cost[counter][:, at].mean())


def ratio(baseline: Evaluations, row: Evaluations, target: float | None, counter: str, *, seed: int = 0) -> Ratio:
    """Baseline's cost to the target divided by the row's, with a percentile bootstrap interval over the seeds.

    Seeds are drawn in pairs where both rows have the same ones, else in each row by itself (Efron & Tibshirani 1993).

    Args:
        target: a stated score; None takes the baseline's final one, anew in each resample.
    """
    ones = [np.full((1, len(found.score)), 1 / len(found.score)) for found in (baseline, row)]
    value = float(_ratios(baseline, row, target, counter, *ones)[0])
    paired = baseline.seeds == row.seeds and None not in row.seeds and len({*row.seeds}) == len(row.seeds)
    if min(len(baseline.score), len(row.score)) < 2:
        return Ratio(value, None, None, paired)
    generator = np.random.default_rng(seed)
    baseline_share = _resample(generator, len(baseline.score))
    row_share = baseline_share if paired else _resample(generator, len(row.score))
    drawn = _ratios(baseline, row, target, counter, baseline_share, row_share)
    drawn = np.sort(drawn[~np.isnan(drawn)])
    if not drawn.size:
        return Ratio(value, None, None, paired)
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(np.quantile(drawn, end, method="inverted_cdf")) for end in (tail, 1 - tail))
    return Ratio(value, low, high, paired)


def _resample(generator: np.random.Generator, num_seeds: int) -> FloatArray:
    """Each resample's share of each seed: `NUM_RESAMPLES` by `num_seeds`."""
    return generator.multinomial(num_seeds, [1 / num_seeds] * num_seeds, size=NUM_RESAMPLES) / num_seeds


def _ratios(
    baseline: Evaluations,
    row: Evaluations,
    target: float | None,
    counter: str,
    baseline_share: FloatArray,
    row_share: FloatArray,
) -> FloatArray:
    """The ratio in each resample; infinite costs stand for «never»."""
    baseline_score = baseline_share @ baseline.score
    wanted = baseline_score[:, -1] if target is None else np.full(len(baseline_score), target)
    spent = []
    for found, share, score in (
        (baseline, baseline_share, baseline_score),
        (row, row_share, row_share @ row.score),
    ):
        above = score >= wanted[:, None] - SLACK
        cost = np.take_along_axis(share @ found.cost[counter], above.argmax(axis=1)[:, None], axis=1)[:, 0]
        spent.append(np.where(above.any(axis=1), cost, np.inf))
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = spent[0] / spent[1]
    return np.where((spent[0] == 0) | (spent[1] == 0), np.nan, quotient)


def target_table(
    rows: Sequence[Row], names: Sequence[str], target: float | None, baseline: Row | None
) -> TargetTable | None:
    """The table of costs to the target and, with a baseline, of the factors saved.

    Args:
        names: the held-out scores that all runs have.
        target: a stated score; None takes the final score of the baseline (mean over its seeds).

    Returns:
        None where neither a target nor a baseline is there.
    """
    if target is None and baseline is None:
        return None
    found = {row.name: evaluations(row, names) for row in rows}
    base = found.get(baseline.name) if baseline else None
    level = target
    if level is None and base is not None:
        level = float(base.score.mean(axis=0)[-1])
    others = base is not None and len(rows) > 1
    head = ["row", "reached at step"]
    for _, text in COSTS:
        head += [text, f"{text}, baseline / row"] if others else [text]
    if level is None:
        return TargetTable("Cost to reach a target", None, head, [], ["The baseline has no held-out score."])
    lines = []
    for row in rows:
        own = found[row.name]
        lines.append([row.name, *_row_cells(own, base if others else None, baseline, row, target, level)])
    kind = f"{target:g}, as stated" if target is not None else f"{level:.4f}, the final one of the baseline"
    kind += f" «{baseline.name}»" if baseline and target is None else ""
    return TargetTable(f"Cost to reach a held-out score of {kind}", level, head, lines, _table_notes(found, others))


def _row_cells(
    own: Evaluations | None,
    base: Evaluations | None,
    baseline: Row | None,
    row: Row,
    target: float | None,
    level: float,
) -> list[str]:
    at = reached_at(own.score.mean(axis=0), level) if own else None
    if own is None:
        cells = ["not evaluated"]
    elif at is None:
        cells = [f"never in {own.steps[-1]:g} steps (best {own.score.mean(axis=0).max():.4f})"]
    else:
        cells = [f"{own.steps[at]:g}"]
    for counter, _ in COSTS:
        cost = cost_to_target(own, level, counter) if own else None
        cells.append("never" if own and cost is None else number(cost if cost is None or np.isfinite(cost) else None))
        if base is not None and row is baseline:
            cells.append("baseline")
        elif base is not None:
            cells.append(ratio_text(ratio(base, own, target, counter)) if own else MISSING)
    return cells


def ratio_text(found: Ratio) -> str:
    """«2.72 [1.90, 4.10]»; 0 is written as never (the row), infinity as that the baseline never did.

    >>> ratio_text(Ratio(2.72, 0.0, 4.1, True)), ratio_text(Ratio(float("inf"), None, None, False))
    ('2.72 [never, 4.10]', 'only the row did')
    """
    if np.isnan(found.value):
        return MISSING
    words = {0.0: "never", np.inf: "only the row did"}
    text = words.get(found.value, f"{found.value:.2f}")
    if found.low is None or found.high is None:
        return text
    ends = ({0.0: "never", np.inf: "∞"}.get(end, f"{end:.2f}") for end in (found.low, found.high))
    return f"{text} [{', '.join(ends)}]"


def _table_notes(found: dict[str, Evaluations | None], others: bool) -> list[str]:
    notes = [
        "Counted at the first evaluation at or above the target, without interpolation; of several seeds, where their "
        "mean score first is. A row that is evaluated seldom looks dearer than it is: compare rows with one "
        "trainer.test_freq."
    ]
    known = [entry for entry in found.values() if entry]
    if others:
        text = "Above 1: the row took less than the baseline."
        if any(len(entry.score) > 1 for entry in known):
            text += (
                f" In brackets: {100 * CONFIDENCE:.0f}% bootstrap interval over the seeds, in pairs where both rows "
                "have the same ones; with fewer than 5 seeds it is too narrow."
            )
        else:
            text += " One seed a row: no interval, and the difference may be chance."
        notes.append(text)
    if len({tuple(entry.steps.tolist()) for entry in known}) > 1:
        notes.append("The rows were not evaluated at the same steps.")
    return notes
