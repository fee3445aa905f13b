"""Every figure of the report: metrics over steps by one function and a table, and the figures of the audit files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recipe.prepo.run import metric_names
from recipe.prepo.run.metric_names import REWARD, ROLLOUTS, STEP_SECONDS, TOKENS
from recipe.prepo.tools.report.compare import SECONDS, Method, all_runs, common_held_out, curve, rule_panels
from recipe.prepo.tools.report.load import ROLLOUTS_FILE, SELECTION_FILE, Run
from recipe.prepo.tools.report.style import figure, legend, line, log_scale, plain_numbers, spread, to_png
from recipe.prepo.tools.stats import spearman, spearman_interval
from recipe.prepo.types import Panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# (part of the figure's name, cumulative counter, unit)
COSTS = (
    ("rollouts", ROLLOUTS, "rollouts"),
    ("tokens", TOKENS, "response tokens"),
    ("seconds", SECONDS, "seconds in training steps"),
)
STALENESS = "training/off_policy/trajectory_staleness"
# Name -> figure over training steps. Rules add figures of their own.
PANELS = {
    "zero_advantage": Panel(
        "Groups without an advantage",
        "Share of all groups that were rolled out, discarded ones included. Equal rewards give no gradient.",
        {metric_names.ZERO_ADVANTAGE: "zero advantage", "prepo/all_correct_frac/mean": "all correct",
         "prepo/all_wrong_frac/mean": "all incorrect"},
        "share of groups"),
    "entropy": Panel(
        "Entropy",
        "Mean over the step's rollouts of their mean token entropy, under the policy that generated them.",
        {"prepo/entropy_nats/mean": "entropy"}, "nats per token"),
    "staleness": Panel(
        "Staleness of the rollouts",
        "Weight versions between the one that generated a rollout and the one it trains; 0 is on-policy.",
        {f"{STALENESS}/mean": "mean", f"{STALENESS}/max": "stalest", f"{STALENESS}_worst/max": "stalest token"},
        "weight versions behind"),
    "skipped": Panel(
        "Candidates that were not rolled out", "Share of the step's candidates that were skipped or not chosen.",
        {"prepo/skipped_frac/mean": "skipped or not chosen"}, "share of candidates"),
    "rollouts": Panel(
        "Rollouts per step", "Responses generated for training, and those discarded before the update.",
        {"prepo/rollouts/sum": "generated", "prepo/discarded_rollouts/sum": "discarded"}, "rollouts"),
    "temperature": Panel(
        "Sampling temperature", "Mean over the step.", {"prepo/temperature/mean": "temperature"}, "temperature"),
}  # fmt: skip
# These say nothing while all values are the same.
ONLY_IF_VARYING = ("staleness", "skipped", "rollouts", "temperature")
BANDS = ((0.05, 0.95, "#e3e3e3"), (0.25, 0.75, "#bcbcbc"))
BARS: dict[str, Any] = {"color": "#bcbcbc", "edgecolor": "#444444", "linewidth": 0.5}
NUM_BINS, MAX_CHOICE_BARS, MAX_TIME_BARS = 10, 30, 40
# (up to this many points, opacity, area in square points)
POINTS = ((200, 0.8, 18.0), (10_000, 0.3, 18.0), (np.inf, 0.06, 6.0))
REST = "rest"
# Where prompts are scored beside the update, only the wait for it belongs to the step.
WAIT = "timing_s/dispatch_wait"
# verl's timer -> (label, fill, hatch). None contains another; all but the last two lie inside the step's time.
PHASES = {
    "timing_s/prompt_scoring": ("scoring prompts", "#222222", ""),
    WAIT: ("waiting for scoring", "#222222", "//"),
    "timing_s/gen": ("waiting for rollouts", "#E8E8E8", ""),
    "timing_s/reward": ("reward model", "#56B4E9", "||"),
    "timing_s/old_log_prob": ("old log-probs", "#D55E00", "//"),
    "timing_s/ref": ("reference log-probs", "#E69F8A", "++"),
    "timing_s/values": ("critic values", "#A6A6D8", "--"),
    "timing_s/adv": ("advantages, weights", "#9ECAE9", ".."),
    "timing_s/update_critic": ("critic update", "#5A9E6F", "xx"),
    "timing_s/update_actor": ("actor update", "#F0C05A", "\\\\"),
    "timing_s/update_weights": ("weight sync", "#7F7F7F", "xx"),
    "timing_s/switch_wait": ("waiting to switch", "#FFFFFF", "//"),
    "timing_s/switch_to_trainer": ("switch to training", "#C9B28B", "||"),
    "timing_s/switch_to_rollout": ("switch to rollout", "#8B6F47", "--"),
    REST: ("everything else", "#FFFFFF", ""),
    "timing_s/save_checkpoint": ("checkpoint", "#CC79A7", "oo"),
    "timing_s/testing": ("validation", "#0072B2", "..."),
}


class NoData(Exception):
    """There is nothing to draw; the message says why."""


@dataclass(frozen=True)
class Drawing:
    """One figure of the page; `png` is None when there is nothing to draw, and `caption` then says why."""

    name: str
    title: str
    caption: str
    png: bytes | None = None


def drawing(name: str, title: str, draw: Callable[..., tuple[Figure, str]], *arguments: Any) -> Drawing:
    """The figure and caption that `draw(*arguments)` returns, or the reason why there is none."""
    try:
        drawn, caption = draw(*arguments)
    except NoData as reason:
        return Drawing(name, title, str(reason))
    return Drawing(name, title, caption, to_png(drawn))


def shared_drawings(methods: Sequence[Method], target: float | None) -> list[Drawing]:
    """The figures that lay methods over each other; `target` is a held-out score to mark."""
    panels = dict(PANELS)
    for panel in rule_panels(methods):
        name = f"rule_{re.sub(r'[^a-z0-9]+', '_', panel.title.lower()).strip('_')}"
        panels[name if name not in panels else f"{name}_{len(panels)}"] = panel
    title = "Held-out score and training reward against"
    drawings = [
        drawing(f"accuracy_{name}", f"{title} {unit}", accuracy, methods, counter, unit, target)
        for name, counter, unit in COSTS
    ]
    return drawings + [drawing(name, panel.title, over_steps, name, panel, methods) for name, panel in panels.items()]


def run_drawings(run: Run, suffix: str = "") -> list[Drawing]:
    """The figures of one run by itself; `suffix` tells their names apart."""
    return [drawing(name + suffix, title, draw, run) for name, (title, draw) in RUN_FIGURES.items()]


@dataclass(frozen=True)
class Plot:
    """One axes of a figure: its labels and its lines, each a look, a legend entry and a curve (`compare.curve`)."""

    y_label: str
    lines: list[tuple[int, str, pd.DataFrame]]
    heading: str = ""


def draw_plots(
    plots: Sequence[Plot], x_label: str, *, target: float | None = None, from_zero: bool = True
) -> tuple[Figure, str]:
    """Draw plots one above the other; with `from_zero` their axes begin at 0 if that hides nothing.

    Returns:
        The figure, and how to read its bands and smoothed lines.
    """
    drawn, axes = figure(len(plots), {1: 3.5, 2: 5.2}.get(len(plots), 1.2 + 1.7 * len(plots)))
    width = 1
    for each, plot in zip(axes, plots, strict=True):
        for look, text, found in plot.lines:
            width = max(width, spread(each, found, look, text))
        each.set_ylabel(plot.y_label)
        each.set_title(plot.heading, loc="left")
        low, high = each.dataLim.intervaly
        if plot.y_label.startswith("share"):
            each.set_ylim(-0.03, 1.03)
        elif from_zero and 0 <= low < 0.6 * high:
            each.set_ylim(bottom=-0.02 * high)
    if target is not None:
        axes[0].axhline(target, color="#000000", linestyle=(0, (1, 2)), linewidth=1.0, label=f"target {target:.4g}")
    axes[-1].set_xlabel(x_label)
    plain_numbers(axes[-1])
    legend(drawn, axes[0])
    has_seeds = any((found["num_runs"] > 1).any() for plot in plots for *_, found in plot.lines)
    notes = " Several seeds: their mean, with a band from the lowest to the highest." if has_seeds else ""
    return drawn, notes + smoothing_note(width)


def smoothing_note(width: int) -> str:
    return f" Faint: every step; line: running mean over up to {width} steps." if width > 1 else ""


def method_lines(
    methods: Sequence[Method], names: Sequence[str], counter: str | None = None
) -> list[tuple[int, str, pd.DataFrame]]:
    """A line for each method that has the quantity."""
    lines = []
    for index, method in enumerate(methods):
        found = curve(method, names, counter)
        if len(found):
            seeds = f" ({found['num_runs'].max()} seeds)" if len(method.runs) > 1 else ""
            lines.append((index, method.name + seeds, found))
    return lines


def over_steps(name: str, panel: Panel, methods: Sequence[Method]) -> tuple[Figure, str]:
    """A panel's metrics over training steps: of one run in one plot, of several in a plot per metric."""
    runs = all_runs(methods)
    logged = [metric for metric in panel.series if any(len(run.series(metric)) for run in runs)]
    if not logged:
        raise NoData(f"{', '.join(panel.series)} not logged.")
    if name in ONLY_IF_VARYING:
        logged = [metric for metric in logged if pd.concat([run.series(metric) for run in runs]).nunique() > 1]
    if not logged:
        raise NoData("The same at every step of every run.")
    lines = {metric: method_lines(methods, [metric]) for metric in logged}
    if len(runs) == 1:
        looks = [(look, panel.series[metric], lines[metric][0][2]) for look, metric in enumerate(logged)]
        plots = [Plot(panel.y_label, looks)]
    else:
        headings = {metric: panel.series[metric] if len(panel.series) > 1 else "" for metric in logged}
        plots = [Plot(panel.y_label, lines[metric], headings[metric]) for metric in logged]
    drawn, notes = draw_plots(plots, "training step")
    return drawn, panel.caption + notes


def accuracy(methods: Sequence[Method], counter: str, unit: str, target: float | None) -> tuple[Figure, str]:
    """Held-out score and training reward against a cumulative counter; against steps if rollouts are not logged."""
    runs = all_runs(methods)
    single = len(runs) == 1
    source = STEP_SECONDS if counter == SECONDS else counter
    trained = [run for run in runs if run.steps_done]
    is_counted = bool(trained) and all(len(run.series(source)) for run in trained)
    missing = f"{source} is not logged{'' if single else ' in every run'}"
    if not is_counted and counter != ROLLOUTS:
        raise NoData(f"{missing}.")
    against, names = (counter if is_counted else None), common_held_out(runs)
    sets = [(metric_names.held_out_set(name) or name, [name]) for name in names] if single else []
    sets = sets if len(sets) == 1 else [("mean over the sets", names), *sets]
    scores = []
    for look, (text, part) in enumerate(sets):
        found = method_lines(methods, part, against)
        scores += [(look, text, line[2]) for line in found] if single else found
    rewards = method_lines(methods, [REWARD], against)
    rewards = [(len(sets), "training reward", found) for *_, found in rewards] if single else rewards
    plots = [Plot(*plot) for plot in (("held-out score", scores), ("training reward", rewards)) if plot[1]]
    if not plots:
        raise NoData(f"Neither val-core/…/mean@n nor {REWARD} is logged.")
    x_label = f"cumulative {unit}" if is_counted else "training step"
    drawn, notes = draw_plots(plots, x_label, target=target if scores else None, from_zero=False)
    caption = "The point at 0 is the validation before training."
    if not scores:
        caption = "No validation is logged." if single else "The runs share no held-out score."
    elif not single:
        caption += " The score is the plain mean over the sets that all runs have."
    caption += "" if rewards else f" {REWARD} is not logged."
    caption += "" if is_counted else f" {missing}: drawn against steps instead."
    caption += " Validation time is not included." if counter == SECONDS else ""
    return drawn, caption + notes


def required(frame: pd.DataFrame | None, file: str) -> pd.DataFrame:
    if frame is None:
        raise NoData(f"{file} is missing.")
    return frame


def window(run: Run) -> tuple[Figure, str]:
    """Perplexity of each step's candidates as bands, of the chosen prompts as a pair of lines."""
    candidates, chosen = required(run.candidates, SELECTION_FILE), required(run.chosen, SELECTION_FILE)
    scored = candidates.dropna()
    if scored.empty:
        raise NoData(f"{SELECTION_FILE} contains no scored candidate.")
    drawn, (axes,) = figure(height_in=4.0)
    by_step = scored.groupby("step")["ppl"]
    for low, high, grey in BANDS:
        lows, highs = by_step.quantile(low), by_step.quantile(high)
        text = f"candidates, {100 * low:.0f}th to {100 * high:.0f}th percentile"
        if len(lows) > 1:
            axes.fill_between(lows.index, lows, highs, color=grey, label=text, linewidth=0)
        else:
            axes.bar(lows.index, highs - lows, bottom=lows, color=grey, label=text, width=0.5)
    ends = chosen.dropna().groupby("step")["ppl"].agg(["max", "min"])
    steps = ends.index.to_numpy(float)
    width = line(axes, steps, ends["max"].to_numpy(), 1, "highest chosen", smooth=True)
    line(axes, steps, ends["min"].to_numpy(), 2, "lowest chosen", smooth=True)
    log_scale(axes, "y", scored["ppl"].to_numpy())
    axes.set(xlabel="training step", ylabel="prompt perplexity")
    plain_numbers(axes)
    legend(drawn, axes)
    unscored = len(candidates) - len(scored)
    note = f" {unscored:,} of {len(candidates):,} candidates have no perplexity." if unscored else ""
    return drawn, "The chosen prompts lie between the two lines." + smoothing_note(width) + note


def pass_rates(run: Run) -> tuple[pd.DataFrame, int]:
    """Join the two audit files: columns step, prompt, pass_rate and ppl, one row per prompt and step it trained in.

    The perplexity is the one with which the prompt was last chosen at or before that step: asynchronous modes train
    later than they choose.

    Returns:
        The rows, and the number of groups left out because they have no perplexity.
    """
    rollouts, chosen = required(run.rollouts, ROLLOUTS_FILE), required(run.chosen, SELECTION_FILE)
    groups = rollouts.dropna(subset=["reward"]).groupby(["step", "prompt"])["reward"].mean()
    trained = groups.rename("pass_rate").reset_index()
    pairs = pd.merge_asof(trained, chosen.dropna().sort_values("step", kind="stable"), on="step", by="prompt").dropna()
    return pairs, len(trained) - len(pairs)


def perplexity_pass_rate(run: Run) -> tuple[Figure, str]:
    """Scatter of perplexity and pass rate, with the rank correlation."""
    pairs, num_unmatched = pass_rates(run)
    if pairs.empty:
        raise NoData(f"No trained prompt has a perplexity in {SELECTION_FILE}.")
    is_rate = bool(required(run.rollouts, ROLLOUTS_FILE)["reward"].dropna().isin([0.0, 1.0]).all())
    ppl, rate = pairs["ppl"].to_numpy(), pairs["pass_rate"].to_numpy()
    drawn, (axes,) = figure(height_in=3.8)
    alpha, size = next(look for most, *look in POINTS if len(pairs) <= most)
    axes.scatter(ppl, rate, s=size, color="#777777", alpha=alpha, linewidth=0, label="a prompt in a step")
    if len(pairs) >= 4 * NUM_BINS:
        parts = np.array_split(np.argsort(ppl, kind="stable"), NUM_BINS)
        x, y = (np.array([of(values[part]) for part in parts]) for of, values in ((np.median, ppl), (np.mean, rate)))
        line(axes, x, y, 1, "mean of a tenth of them")
    log_scale(axes, "x", ppl)
    kind = "pass rate" if is_rate else "mean reward"
    axes.set(xlabel="prompt perplexity when chosen", ylabel=f"{kind} of its rollouts")
    legend(drawn, axes)
    caption = correlation_text(pairs)
    caption += "" if is_rate else " Some rewards are neither 0 nor 1: the mean reward is shown."
    caption += f" {num_unmatched:,} groups without a perplexity are left out." if num_unmatched else ""
    return drawn, caption


def correlation_text(pairs: pd.DataFrame) -> str:
    found = spearman_interval(pairs["ppl"].to_numpy(), pairs["pass_rate"].to_numpy(), pairs["prompt"].tolist())
    counts = f"{found.num_pairs:,} pairs of {found.num_clusters:,} prompts"
    if not np.isfinite(found.rho):
        return f"Spearman's rho is undefined: all perplexities or all pass rates are equal ({counts})."
    text = f"Spearman's rho = {found.rho:.3f}"
    if np.isfinite(found.low):
        text += f", 95% interval {found.low:.3f} to {found.high:.3f} (bootstrap over prompts; {counts})."
    each = np.array([spearman(step["ppl"], step["pass_rate"]) for _, step in pairs.groupby("step")])
    if np.isfinite(each).any():
        text += f" Within single steps, where the policy is the same, it is {np.nanmean(each):.3f} on average."
    return text


def weights(run: Run) -> tuple[Figure, str]:
    """Histogram of the rollouts' weights; their mean in an update is 1 by construction."""
    values = required(run.rollouts, ROLLOUTS_FILE)["weight"].dropna()
    if values.nunique() < 2:
        raise NoData(f"All {len(values):,} weights are {values.mean():g}." if len(values) else "No weight is logged.")
    drawn, (axes,) = figure()
    axes.hist(values, bins=40, **BARS)
    axes.axvline(values.mean(), color="#000000", linestyle="--", linewidth=1.5, label=f"mean {values.mean():.3f}")
    axes.set(xlabel="weight", ylabel="rollouts")
    legend(drawn, axes)
    low, middle, high = values.quantile([0.05, 0.5, 0.95])
    return drawn, f"{len(values):,} rollouts; median {middle:.3f}, 5th to 95th percentile {low:.3f} to {high:.3f}."


def times_chosen(run: Run) -> pd.DataFrame:
    """Columns drawn, chosen and ppl (the last one) by prompt code, for all prompts of the selection file."""
    candidates, chosen = required(run.candidates, SELECTION_FILE), required(run.chosen, SELECTION_FILE)
    if candidates.empty:
        raise NoData(f"{SELECTION_FILE} contains no candidate.")
    found = candidates.groupby("prompt")["ppl"].agg(drawn="size", ppl="last")
    found = found.join(chosen.groupby("prompt").size().rename("chosen"), how="outer")
    return found.fillna({"drawn": 0, "chosen": 0}).astype({"drawn": int, "chosen": int})


def choices(run: Run) -> tuple[Figure, str]:
    """Histogram: how many prompts were chosen how often, 0 included; in bins when there are many bars."""
    times = times_chosen(run)["chosen"]
    never, most = int((times == 0).sum()), int(times.max())
    width = -(-most // MAX_CHOICE_BARS) or 1
    heights = times[times > 0].sub(1).floordiv(width).value_counts()
    drawn, (axes,) = figure()
    axes.bar(0.6 + heights.index * width, heights, width=width - 0.2, align="edge", **BARS)
    if never:
        axes.bar(-0.4, never, width=0.8, align="edge", **BARS | {"color": "#ffffff", "hatch": "///"})
    axes.set(xlabel="times chosen", ylabel="prompts")
    plain_numbers(axes)
    caption = f"Never chosen (hatched): {never:,} of {len(times):,} candidates ({never / len(times):.1%})."
    caption += f" Median {times.median():g} times, at most {most:,}."
    return drawn, caption + (f" Each bar but the first is {width} counts wide." if width > 1 else "")


def phase_seconds(run: Run) -> tuple[pd.DataFrame, bool]:
    """Seconds of each step by the phases that matter; those under 0.5% of the time go into `REST`.

    Returns:
        One row per step that logged its time, and whether the phases of some step add up to more than the step.
    """
    whole = run.series(STEP_SECONDS)
    times = run.metrics.reindex(index=whole.index, columns=[name for name in PHASES if name != REST])
    if times[WAIT].notna().any():
        times["timing_s/prompt_scoring"] = 0.0
    times = times.fillna(0.0)
    inside = times.drop(columns=list(metric_names.SECONDS_OUTSIDE_STEP))
    small = [name for name in inside if inside[name].sum() <= 0.005 * whole.sum()]
    unnamed = whole - inside.sum(axis=1)
    times[REST] = unnamed.clip(lower=0) + inside[small].sum(axis=1)
    shown = [name for name in PHASES if name not in small and (name == REST or times[name].any())]
    return times[shown], bool((unnamed < -0.01 * whole).any())


def step_time(run: Run) -> tuple[Figure, str]:
    """Seconds per step, stacked by phase."""
    if run.series(STEP_SECONDS).empty:
        raise NoData(f"{STEP_SECONDS} is not logged.")
    seconds, overlap = phase_seconds(run)
    steps = seconds.index.to_numpy(float)
    block = -(-len(steps) // MAX_TIME_BARS)
    bars = seconds.groupby(np.arange(len(steps)) // block).mean()
    edges = np.append(steps[::block], steps[-1] + 1) - 0.5
    share = seconds.sum() / (seconds.to_numpy().sum() or 1.0)
    drawn, (axes,) = figure(height_in=4.4)
    bottom = np.zeros(len(bars))
    for phase in seconds:
        text, fill, hatch = PHASES[phase]
        top = bottom + bars[phase].to_numpy()
        axes.stairs(
            top, edges, baseline=bottom, fill=True, facecolor=fill, hatch=hatch, label=f"{text} {share[phase]:.1%}",
            edgecolor="#444444", linewidth=0.4,
        )  # fmt: skip
        bottom = top
    axes.grid(axis="x", visible=False)
    axes.set(xlabel="training step", ylabel="seconds per step")
    plain_numbers(axes)
    legend(drawn, axes)
    caption = "Shares are of all steps together. Checkpoint and validation come on top of the step's own time."
    caption += f" Each bar is the mean of {block} steps." if block > 1 else ""
    caption += " In some steps phases overlap, and their sum exceeds the step's own time." if overlap else ""
    return drawn, caption


# Name -> (title, function) of the figures that show one run by itself.
RUN_FIGURES: dict[str, tuple[str, Callable[[Run], tuple[Figure, str]]]] = {
    "window": ("Perplexity of the chosen prompts and of all candidates", window),
    "perplexity_pass_rate": ("Prompt perplexity against pass rate", perplexity_pass_rate),
    "weights": ("Weights of the rollouts", weights),
    "choices": ("How often each prompt was chosen", choices),
    "step_time": ("Where the time of a step goes", step_time),
}
