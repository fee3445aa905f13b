"""The cost to reach a held-out score, and the factor saved against a baseline.

A method reaches the target at the first evaluation whose held-out score, averaged over its seeds, is at or above it.
Its cost is what it had spent by then, averaged over its seeds. Nothing is interpolated between evaluations, so each
number can be checked in `metrics.jsonl`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from recipe.prepo.run.metric_names import ROLLOUTS
from recipe.prepo.tools.report.compare import COSTS, Method, all_runs, common_steps, cumulative, mean_of
from recipe.prepo.tools.stats import CONFIDENCE, mean_interval
from recipe.prepo.types import FloatArray

MISSING, STEP = "n/a", "step"
NUM_RESAMPLES = 10_000
# Scores are means of many numbers: rounding may put one that equals the target just below it.
SLACK = 1e-9
Ratio = tuple[float, float, float]  # an estimate and the ends of its interval


@dataclass(frozen=True)
class Evaluations:
    """Held-out scores [seeds, evaluations] at the steps that all seeds have, and what each had cost by counter."""

    score: FloatArray
    cost: dict[str, FloatArray]
    seeds: tuple[int | None, ...]

    def cost_to(self, target_B: FloatArray | float, counter: str, shares: FloatArray | None = None) -> FloatArray:
        """Mean cost to each target, shape [B]; infinite if never. The mean has weights [B, seeds], by default equal."""
        shares = np.full((1, len(self.seeds)), 1 / len(self.seeds)) if shares is None else shares
        above = shares @ self.score >= np.reshape(target_B, (-1, 1)) - SLACK
        cost = np.take_along_axis(shares @ self.cost[counter], above.argmax(axis=1)[:, None], axis=1)[:, 0]
        return np.where(above.any(axis=1), cost, np.inf)


class TargetTable(NamedTuple):
    """`cells` has a line for each method; `level` is the target score if there is one."""

    title: str
    level: float | None = None
    cells: pd.DataFrame | None = None


class Verdict(NamedTuple):
    """What the page says first: one sentence, and what belongs to it in smaller letters."""

    sentence: str
    details: str


def evaluations(method: Method, names: Sequence[str]) -> Evaluations | None:
    """Held-out scores over the sets `names`, of the runs that have any; None when the runs share no evaluation."""
    table = common_steps([mean_of(run, names) for run in method.runs])
    if table.empty:
        return None
    runs = [method.runs[at] for at in table]
    cost = {
        counter: np.array([cumulative(run, counter).reindex(table.index).to_numpy() for run in runs])
        for _, counter, _ in COSTS
    }
    steps = np.tile(table.index.to_numpy(float), (len(runs), 1))
    return Evaluations(table.to_numpy().T, {STEP: steps, **cost}, tuple(run.seed for run in runs))


def ratio(baseline: Evaluations, method: Evaluations, target: float | None, counter: str, *, seed: int = 0) -> Ratio:
    """Baseline's cost to the target divided by the method's, and the ends of its bootstrap interval over the seeds.

    Seeds are drawn in pairs when both methods have the same seeds, else in each method by itself (Efron & Tibshirani
    1993). Ratios are 0 if the method never reaches the target, infinite if the baseline never does, NaN if neither
    does or one reaches it before training. The ends are NaN with a single seed on either side.

    A target of None is the baseline's final score, computed again in each resample.
    """
    generator = np.random.default_rng(seed)

    def shares(num_seeds: int) -> FloatArray:
        """Each seed's share: first of all seeds alike, then in each resample."""
        equal = np.full(num_seeds, 1 / num_seeds)
        return np.vstack([equal, generator.multinomial(num_seeds, equal, size=NUM_RESAMPLES) / num_seeds])

    base_shares, own_shares = shares(len(baseline.seeds)), shares(len(method.seeds))
    if is_paired(baseline, method):
        own_shares = base_shares
    wanted = (base_shares @ baseline.score)[:, -1] if target is None else target
    costs = baseline.cost_to(wanted, counter, base_shares), method.cost_to(wanted, counter, own_shares)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where((costs[0] == 0) | (costs[1] == 0), np.nan, costs[0] / costs[1])
    drawn = ratios[1:][~np.isnan(ratios[1:])]
    if min(len(baseline.seeds), len(method.seeds)) < 2 or not drawn.size:
        return ratios[0], np.nan, np.nan
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="inverted_cdf")
    return ratios[0], low, high


def is_paired(baseline: Evaluations, method: Evaluations) -> bool:
    """Whether both have the same seeds, each once."""
    return baseline.seeds == method.seeds and len({*method.seeds} - {None}) == len(method.seeds)


def difference_text(baseline: Evaluations, method: Evaluations) -> str:
    """The final score minus the baseline's, over the seeds that both have; else of the means, without an interval."""
    own, base = (dict(zip(each.seeds, each.score[:, -1], strict=True)) for each in (method, baseline))
    pairs = [own[seed] - base[seed] for seed in own if seed is not None and seed in base]
    if not pairs:
        return f"{method.score[:, -1].mean() - baseline.score[:, -1].mean():+.4f}, no seed in common"
    found = mean_interval(pairs)
    text = f"{found.mean:+.4f}" + (f" [{found.low:+.4f}, {found.high:+.4f}]" if len(pairs) > 1 else "")
    return f"{text}, better in {sum(each > 0 for each in pairs)} of {len(pairs)}"


def ratio_text(value: float, low: float, high: float) -> str:
    """
    >>> ratio_text(2.72, 0.0, float("inf")), ratio_text(float("inf"), float("nan"), float("nan"))
    ('2.72 [never, ∞]', 'only this method')
    """
    if np.isnan(value):
        return MISSING
    text = {0.0: "never", np.inf: "only this method"}.get(value, f"{value:.2f}")
    ends = [{0.0: "never", np.inf: "∞"}.get(end, f"{end:.2f}") for end in (low, high)]
    return text if np.isnan(low) else f"{text} [{', '.join(ends)}]"


def factor_text(found: Ratio, unit: str, than: str = "") -> str:
    """A ratio with its interval, in words.

    >>> factor_text((1.94, 1.4, np.inf), "rollouts", "random"), factor_text((0.5, np.nan, np.nan), "tokens")
    ('1.9x fewer rollouts than random [1.4, ∞]', '2.0x more tokens')
    """
    word = "fewer"
    if found[0] < 1:
        with np.errstate(divide="ignore"):
            word, found = "more", tuple(np.divide(1.0, (found[0], found[2], found[1])))
    value, low, high = (f"{each:.1f}".replace("inf", "∞") for each in found)
    text = f"{value}x {word} {unit}" + (f" than {than}" if than else "")
    return text if np.isnan(found[1]) else f"{text} [{low}, {high}]"


def judge(
    methods: Sequence[Method], names: Sequence[str], target: float | None, baseline: Method | None
) -> tuple[TargetTable | None, Verdict]:
    """The costs to the target with the factors saved against a baseline (None with neither), and the verdict.

    `names` are the held-out scores that all runs have. Without a target, the baseline's final score is the target.
    """
    found = {method.name: own for method in methods if (own := evaluations(method, names)) is not None}
    base = found.get(baseline.name) if baseline else None
    others = {name: own for name, own in found.items() if own is not base} if base else {}
    ratios: dict[str, dict[str, Ratio]] = {}
    verdict = _alone(methods, found)
    if baseline is not None and base is not None and others:
        for name, own in others.items():
            ratios[name] = {counter: ratio(base, own, target, counter) for _, counter, _ in COSTS}
        goal = f"{baseline.name}'s final score" if target is None else f"a held-out score of {target:g}"
        verdict = _against(baseline.name, base, others, ratios, goal)
    if target is not None:
        level, title = target, f"Cost to reach a held-out score of {target:g}, as given"
    elif baseline is None:
        return None, verdict
    elif base is None:
        return TargetTable("Cost to reach a target: the baseline has no held-out score"), verdict
    else:
        level = float(base.score.mean(axis=0)[-1])
        title = f'Cost to reach a held-out score of {level:.4f}, the final score of the baseline "{baseline.name}"'
    lines = {method.name: {"reached at step": "not evaluated"} for method in methods}
    for name, own in found.items():
        lines[name] = cells = {}
        for _, counter, unit in (("", STEP, "reached at step"), *COSTS):
            cost = own.cost_to(level, counter)[0]
            cells[unit] = MISSING if np.isnan(cost) else "never" if np.isinf(cost) else f"{cost:,.0f}"
            if base is not None and len(methods) > 1 and counter != STEP:
                saved = "baseline" if own is base else ratio_text(*ratios[name][counter])
                cells[f"{unit}, baseline / method"] = saved
        if cells["reached at step"] == "never":
            cells["reached at step"] += f" in {own.cost[STEP][0, -1]:g} steps (best {own.score.mean(axis=0).max():.4f})"
        if base is not None and len(methods) > 1:
            cells["final score, difference"] = "baseline" if own is base else difference_text(base, own)
    return TargetTable(title, level, pd.DataFrame.from_dict(lines, orient="index").rename_axis("method")), verdict


def _alone(methods: Sequence[Method], found: Mapping[str, Evaluations]) -> Verdict:
    """What was reached, and what a comparison needs."""
    if not found:
        return Verdict("No held-out score is logged, so nothing can be said about what was learned.", "")
    name, best = max(found.items(), key=lambda each: each[1].score[:, -1].mean())
    first, final = best.score.mean(axis=0)[[0, -1]]
    cost, steps = best.cost[ROLLOUTS][:, -1].mean(), best.cost[STEP][0, -1]
    spent = f" with {cost:,.0f} rollouts" if np.isfinite(cost) else ""
    seeds = f", the mean of {len(best.seeds)} seeds" if len(best.seeds) > 1 else ""
    sentence = f"Held-out score {first:.3f} to {final:.3f} ({final - first:+.3f}){spent} in {steps:g} steps{seeds}."
    if len(methods) == 1:
        one = "One run says" if len(all_runs(methods)) == 1 else "One method says"
        return Verdict(sentence, f"{one} nothing about what a method saves: compare it with others, with paired seeds.")
    doubt = "" if len(best.seeds) > 1 else " A single seed: the difference may be chance."
    need = f"There is no baseline to compare the costs with: --baseline METHOD names one.{doubt}"
    return Verdict(f"{name} ended highest. {sentence}", need)


def _against(
    base_name: str,
    base: Evaluations,
    others: Mapping[str, Evaluations],
    ratios: Mapping[str, Mapping[str, Ratio]],
    goal: str,
) -> Verdict:
    """The method that saved most rollouts, and how sure that is."""
    name = max(ratios, key=lambda name: np.nan_to_num(ratios[name][ROLLOUTS][0], nan=-1.0, posinf=np.inf))
    own, best = others[name], ratios[name][ROLLOUTS]
    what = f"{name}, the best of {len(others)} methods," if len(others) > 1 else name
    if np.isnan(best[0]):
        return Verdict(f"Costs cannot be compared: {goal} was never reached, or before training.", "")
    if best[0] == 0:
        return Verdict(f"No method reached {goal}." if len(others) > 1 else f"{name} never reached {goal}.", "")
    if np.isinf(best[0]):
        return Verdict(f"{what} reached {goal}. {base_name} never did.", "")
    num_own, num_base = len(own.seeds), len(base.seeds)
    seeds = f"{num_own} and {num_base} seeds, not paired"
    if is_paired(base, own) or num_own == num_base == 1:
        seeds = f"{num_own} paired seeds" if num_own > 1 else "1 seed each"
    more = [(ratios[name][counter], unit) for _, counter, unit in COSTS[1:]]
    also = [factor_text(each, unit) for each, unit in more if 0 < each[0] < np.inf]
    details = f"To reach {goal}." + (f" Also {' and '.join(also)}." if also else "")
    if np.isnan(best[1]):
        details += " A single seed gives no interval: the difference may be chance."
    elif best[1] <= 1 <= best[2]:
        details += " The interval includes 1: the difference may be chance."
    return Verdict(f"{what} needed {factor_text(best, 'rollouts', base_name)}, {seeds}.", details)
