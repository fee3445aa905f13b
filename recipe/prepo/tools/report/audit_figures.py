"""Figures out of the audit: the window's path, perplexity against pass rate, the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recipe.prepo.tools.rank_correlation import RankCorrelation, spearman, spearman_interval
from recipe.prepo.tools.report.figures import smoothing_note
from recipe.prepo.tools.report.load import FloatArray, Rollouts, Run, Selections
from recipe.prepo.tools.report.style import Drawing, figure, legend, line, plain_numbers, to_png
from recipe.prepo.tools.report.summary import rule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SELECTION_MISSING = "audit/selection.jsonl is missing."
ROLLOUTS_MISSING = "audit/rollouts.jsonl is missing."
BANDS = ((0.05, 0.95, "#e3e3e3"), (0.25, 0.75, "#bcbcbc"))
LOG_SCALE_FROM = 8.0
NUM_BINS = 10
# (up to so many points, how opaque, area in square points)
POINTS = ((200, 0.8, 18.0), (10_000, 0.3, 18.0), (np.inf, 0.06, 6.0))


@dataclass(frozen=True)
class PassRates:
    """N pairs: a prompt's perplexity when it was chosen, and the pass rate of its rollouts in that step."""

    ppl: FloatArray
    pass_rate: FloatArray
    step: FloatArray
    prompt_ids: list[str]
    num_unmatched: int


def window_path(run: Run) -> Drawing:
    """Perplexity of each step's candidates as bands, of the chosen prompts as a pair of lines."""
    title = "Chosen prompts over the candidates' perplexity"
    found = run.selections
    if found is None:
        return Drawing("window", title, SELECTION_MISSING)
    if not found.num_candidates:
        return Drawing("window", title, "audit/selection.jsonl lists no candidate.")
    if not found.num_scored:
        return Drawing("window", title, f"The selection rule ({rule(run, 'selection')}) scores no candidate.")
    steps = sorted(step for step, values in found.candidate_ppl.items() if values)
    drawn, (axes,) = figure(height_in=4.0)
    for low, high, grey in BANDS:
        ends = np.array([np.quantile(found.candidate_ppl[step], [low, high]) for step in steps])
        text = f"candidates, {100 * low:.0f}th to {100 * high:.0f}th percentile"
        if len(steps) > 1:
            axes.fill_between(steps, ends[:, 0], ends[:, 1], color=grey, label=text, linewidth=0)
        else:
            axes.bar(steps, ends[:, 1] - ends[:, 0], bottom=ends[:, 0], color=grey, label=text, width=0.5)
    chosen = [step for step in steps if step in found.selected_ppl]
    width = 1
    for index, (text, of) in enumerate((("highest chosen", max), ("lowest chosen", min)), start=1):
        values = np.array([of(found.selected_ppl[step]) for step in chosen], float)
        width = line(axes, np.array(chosen, float), values, index, text, smooth=True)
    _scale(axes, "y", np.concatenate([np.asarray(found.candidate_ppl[step]) for step in steps]))
    axes.set_ylabel("prompt perplexity")
    axes.set_xlabel("training step")
    plain_numbers(axes)
    legend(drawn, axes)
    caption = "The chosen prompts lie between the two lines." + smoothing_note(width)
    unscored = found.num_candidates - found.num_scored
    caption += f" {unscored:,} of {found.num_candidates:,} candidates have no perplexity." if unscored else ""
    return Drawing("window", title, caption, to_png(drawn))


def pass_rates(selections: Selections, rollouts: Rollouts) -> PassRates:
    """Joins the two audit files: one pair for each prompt and step it was trained in and had a perplexity for."""
    rows: list[tuple[float, float, int, str]] = []
    for (step, prompt_id), count in rollouts.count.items():
        ppl = selections.ppl_at(prompt_id, step)
        if ppl is not None:
            rows.append((ppl, rollouts.reward_sum[step, prompt_id] / count, step, prompt_id))
    numbers = np.array([row[:3] for row in rows], float).reshape(-1, 3)
    unmatched = len(rollouts.count) - len(rows)
    return PassRates(numbers[:, 0], numbers[:, 1], numbers[:, 2], [row[3] for row in rows], unmatched)


def perplexity_pass_rate(run: Run) -> Drawing:
    """Scatter of perplexity and pass rate with the rank correlation; the paper's premise is a negative one."""
    name, title = "perplexity_pass_rate", "Prompt perplexity against pass rate"
    if run.selections is None or run.rollouts is None:
        return Drawing(name, title, SELECTION_MISSING if run.selections is None else ROLLOUTS_MISSING)
    pairs = pass_rates(run.selections, run.rollouts)
    if not pairs.ppl.size:
        return Drawing(name, title, "No trained prompt has a perplexity in audit/selection.jsonl.")
    found = spearman_interval(pairs.ppl, pairs.pass_rate, pairs.prompt_ids)
    drawn, (axes,) = figure(height_in=3.8)
    alpha, size = next(look for most, *look in POINTS if pairs.ppl.size <= most)
    axes.scatter(
        pairs.ppl, pairs.pass_rate, s=size, color="#777777", alpha=alpha, linewidth=0, label="a prompt in a step"
    )
    if pairs.ppl.size >= 4 * NUM_BINS:
        parts = np.array_split(np.argsort(pairs.ppl, kind="stable"), NUM_BINS)
        x = np.array([np.median(pairs.ppl[part]) for part in parts])
        line(axes, x, np.array([pairs.pass_rate[part].mean() for part in parts]), 1, "mean of a tenth of them")
    _scale(axes, "x", pairs.ppl)
    rate = "pass rate" if run.rollouts.all_zero_one else "mean reward"
    axes.set_xlabel("prompt perplexity when chosen")
    axes.set_ylabel(f"{rate} of its rollouts")
    legend(drawn, axes)
    caption = correlation_text(found, pairs)
    caption += "" if run.rollouts.all_zero_one else " Rewards are not all 0 or 1: the mean reward is shown."
    caption += f" {pairs.num_unmatched:,} groups without a perplexity are left out." if pairs.num_unmatched else ""
    return Drawing(name, title, caption, to_png(drawn))


def correlation_text(found: RankCorrelation, pairs: PassRates) -> str:
    counts = f"{found.num_pairs:,} pairs of {found.num_clusters:,} prompts"
    if not np.isfinite(found.rho):
        return f"Spearman's rho is undefined: all perplexities or all pass rates are equal ({counts})."
    text = f"Spearman's rho = {found.rho:.3f}"
    if np.isfinite(found.low):
        text += f", 95% interval {found.low:.3f} to {found.high:.3f} (bootstrap over prompts; {counts})."
    each = [
        spearman(pairs.ppl[at], pairs.pass_rate[at]) for at in (pairs.step == step for step in np.unique(pairs.step))
    ]
    each = [rho for rho in each if np.isfinite(rho)]
    if each:
        text += f" Within single steps, where the policy is one and the same, it is {np.mean(each):.3f} on average."
    return text


def weights(run: Run) -> Drawing:
    """Histogram of the rollouts' weights; their mean in a step is 1 by construction."""
    title = "Weights of the rollouts"
    if run.rollouts is None:
        return Drawing("weights", title, ROLLOUTS_MISSING)
    values = np.array(run.rollouts.weights, float)
    if not values.size:
        return Drawing("weights", title, "audit/rollouts.jsonl holds no weight.")
    if np.ptp(values) == 0:
        weighting = rule(run, "weighting")
        return Drawing(
            "weights", title, f"All {values.size:,} weights are {values[0]:g} (weighting rule: {weighting})."
        )
    drawn, (axes,) = figure()
    axes.hist(values, bins=40, color="#bcbcbc", edgecolor="#444444", linewidth=0.5)
    axes.axvline(
        float(values.mean()), color="#000000", linestyle="--", linewidth=1.5, label=f"mean {values.mean():.3f}"
    )
    axes.set_xlabel("weight")
    axes.set_ylabel("rollouts")
    legend(drawn, axes)
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    caption = f"{values.size:,} rollouts; median {middle:.3f}, 5th to 95th percentile {low:.3f} to {high:.3f}."
    return Drawing("weights", title, caption, to_png(drawn))


def _scale(axes: Axes, which: str, values: FloatArray) -> None:
    """A logarithmic axis where perplexities differ by a large factor, labelled in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if values.max() < LOG_SCALE_FROM * values.min():
        return
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
