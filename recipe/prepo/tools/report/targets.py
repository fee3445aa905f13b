"""The cost to reach a held-out score, and the factor saved against a baseline.

A method reaches the target at the first evaluation whose held-out score, averaged over its seeds, is at or above it.
Its cost is what it had spent by then, averaged over its seeds. Nothing is interpolated between evaluations, so each
number can be checked in `metrics.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipe.prepo.run.metric_names import ROLLOUTS, TOKENS
from recipe.prepo.tools.report.compare import SECONDS, Method, common_steps, cumulative, mean_of
from recipe.prepo.types import FloatArray

COSTS = ((ROLLOUTS, "rollouts"), (TOKENS, "response tokens"), (SECONDS, "seconds in steps"))
MISSING = "n/a"
NUM_RESAMPLES = 10_000
CONFIDENCE = 0.95
# Scores are means of many numbers: rounding may put one that equals the target just below it.
SLACK = 1e-9


@dataclass(frozen=True)
class Evaluations:
    """Held-out scores [seeds, evaluations] at the steps that all seeds have, and the costs up to each by counter."""

    steps: FloatArray
    score: FloatArray
    cost: dict[str, FloatArray]
    seeds: tuple[int | None, ...]

    def reached_at(self, target: float) -> int | None:
        """Index of the first evaluation whose mean score is at or above the target."""
        above = np.flatnonzero(self.score.mean(axis=0) >= target - SLACK)
        return int(above[0]) if above.size else None

    def cost_to(self, target: float, counter: str) -> float | None:
        """Mean cost to the target; None if it is never reached, NaN if the cost is not logged."""
        at = self.reached_at(target)
        return None if at is None else float(self.cost[counter][:, at].mean())


@dataclass(frozen=True)
class Ratio:
    """The baseline's cost divided by the method's, with its interval (None with a single seed on either side).

    0: the method never reached the target. Infinity: the baseline never did. NaN: neither did, or the target was
    reached before training.
    """

    value: float
    low: float | None = None
    high: float | None = None
    paired: bool = False

    def __str__(self) -> str:
        if np.isnan(self.value):
            return MISSING
        text = {0.0: "never", np.inf: "only this method"}.get(self.value, f"{self.value:.2f}")
        if self.low is None or self.high is None:
            return text
        ends = [{0.0: "never", np.inf: "∞"}.get(end, f"{end:.2f}") for end in (self.low, self.high)]
        return f"{text} [{', '.join(ends)}]"


@dataclass(frozen=True)
class TargetTable:
    """Cells of the table, the head first and then a list per method; `level` is the target score if there is one."""

    title: str
    level: float | None = None
    columns: Sequence[Sequence[str]] = ()
    has_ratios: bool = False
    has_common_steps: bool = True


def evaluations(method: Method, names: Sequence[str]) -> Evaluations | None:
    """Held-out scores over the sets `names`, of the runs that have any; None when the runs share no evaluation."""
    table = common_steps([mean_of(run, names) for run in method.runs])
    if table.empty:
        return None
    runs = [method.runs[at] for at in table]
    cost = {
        counter: np.array([cumulative(run, counter).reindex(table.index).to_numpy() for run in runs])
        for counter, _ in COSTS
    }
    return Evaluations(table.index.to_numpy(float), table.to_numpy().T, cost, tuple(run.seed for run in runs))


def ratio(baseline: Evaluations, method: Evaluations, target: float | None, counter: str, *, seed: int = 0) -> Ratio:
    """Ratio of the costs to the target, with a percentile bootstrap interval over the seeds.

    Seeds are drawn in pairs when both methods have the same seeds, else in each method by itself (Efron & Tibshirani
    1993).

    Args:
        target: a fixed score; None takes the baseline's final score, computed again in each resample.
    """
    num_seeds = (len(baseline.score), len(method.score))
    value = float(_ratios(baseline, method, target, counter, *(np.full((1, n), 1 / n) for n in num_seeds))[0])
    paired = baseline.seeds == method.seeds and None not in method.seeds and len({*method.seeds}) == len(method.seeds)
    if min(num_seeds) < 2:
        return Ratio(value, paired=paired)
    generator = np.random.default_rng(seed)
    baseline_share, method_share = (generator.multinomial(n, [1 / n] * n, size=NUM_RESAMPLES) / n for n in num_seeds)
    drawn = _ratios(baseline, method, target, counter, baseline_share, baseline_share if paired else method_share)
    drawn = np.sort(drawn[~np.isnan(drawn)])
    if not drawn.size:
        return Ratio(value, paired=paired)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], method="inverted_cdf")
    return Ratio(value, float(low), float(high), paired)


def _ratios(
    baseline: Evaluations,
    method: Evaluations,
    target: float | None,
    counter: str,
    baseline_share: FloatArray,
    method_share: FloatArray,
) -> FloatArray:
    """The ratio in each resample, given the share of each seed in it; "never" is an infinite cost."""
    baseline_score = baseline_share @ baseline.score
    wanted = baseline_score[:, -1] if target is None else np.full(len(baseline_score), target)
    spent = []
    for found, share in ((baseline, baseline_share), (method, method_share)):
        above = share @ found.score >= wanted[:, None] - SLACK
        cost = np.take_along_axis(share @ found.cost[counter], above.argmax(axis=1)[:, None], axis=1)[:, 0]
        spent.append(np.where(above.any(axis=1), cost, np.inf))
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient = spent[0] / spent[1]
    return np.where((spent[0] == 0) | (spent[1] == 0), np.nan, quotient)


def target_table(
    methods: Sequence[Method], names: Sequence[str], target: float | None, baseline: Method | None
) -> TargetTable | None:
    """The costs to the target and, with a baseline, the factors saved; None with neither a target nor a baseline.

    Args:
        names: the held-out scores that all runs have.
        target: a score; None takes the final score of the baseline (mean over its seeds).
    """
    if target is None and baseline is None:
        return None
    found = {method.name: evaluations(method, names) for method in methods}
    base = found[baseline.name] if baseline else None
    if target is not None:
        level, title = target, f"Cost to reach a held-out score of {target:g}, as given"
    elif base is not None and baseline is not None:
        level = float(base.score.mean(axis=0)[-1])
        title = f'Cost to reach a held-out score of {level:.4f}, the final score of the baseline "{baseline.name}"'
    else:
        return TargetTable("Cost to reach a target: the baseline has no held-out score")
    base = base if len(methods) > 1 else None
    head = ["method", "reached at step"]
    for _, unit in COSTS:
        head += [unit, f"{unit}, baseline / method"] if base else [unit]
    columns = [head]
    for method in methods:
        own = found[method.name]
        at = own.reached_at(level) if own else None
        if own is None:
            cells = ["not evaluated"]
        elif at is None:
            cells = [f"never in {own.steps[-1]:g} steps (best {own.score.mean(axis=0).max():.4f})"]
        else:
            cells = [f"{own.steps[at]:g}"]
        for counter, _ in COSTS:
            cost = own.cost_to(level, counter) if own else np.nan
            cells.append("never" if cost is None else f"{cost:,.0f}" if np.isfinite(cost) else MISSING)
            if base is not None:
                cells.append("baseline" if own is base else str(ratio(base, own, target, counter)) if own else MISSING)
        columns.append([method.name, *cells])
    steps = {tuple(one.steps.tolist()) for one in found.values() if one}
    return TargetTable(title, level, columns, base is not None, len(steps) < 2)
