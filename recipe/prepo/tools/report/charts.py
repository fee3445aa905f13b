"""The figures of the report."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from recipe.prepo.run.metric_names import REWARD, STEP_SECONDS, ZERO_ADVANTAGE, held_out_set
from recipe.prepo.tools.report.compare import COSTS, Method, all_runs, common_held_out, curve, rule_panels
from recipe.prepo.tools.report.load import SECONDS, Run
from recipe.prepo.tools.report.style import figure, legend, plain_numbers, spread, to_png
from recipe.prepo.types import Panel

STALENESS = "training/off_policy/trajectory_staleness"
# Name -> figure over training steps. Rules add figures of their own.
PANELS = {
    "zero_advantage": Panel(
        "Groups without an advantage",
        "Share of all groups that were rolled out, discarded ones included. Equal rewards give no gradient.",
        {ZERO_ADVANTAGE: "zero advantage", "prepo/all_correct_frac/mean": "all correct",
         "prepo/all_wrong_frac/mean": "all incorrect"},
        "share of groups"),
    "entropy": Panel(
        "Entropy",
        "Mean over the step's rollouts of their mean token entropy, under the policy that generated them.",
        {"prepo/entropy_nats/mean": "entropy"}, "nats per token"),
    "window": Panel(
        "Perplexity of the candidates and of the chosen prompts", "Per step; a schedule moves the chosen prompts up.",
        {"prepo/ppl_candidates/min": "lowest candidate", "prepo/ppl_candidates/mean": "mean candidate",
         "prepo/ppl_candidates/max": "highest candidate", "prepo/ppl_selected/min": "lowest chosen",
         "prepo/ppl_selected/max": "highest chosen"},
        "perplexity"),
    "weights": Panel(
        "Weights of the rollouts", "They multiply the advantages; their mean in an update is 1.",
        {"prepo/weight/min": "lowest", "prepo/weight/mean": "mean", "prepo/weight/max": "highest"}, "weight"),
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
ONLY_IF_VARYING = ("weights", "staleness", "skipped", "rollouts", "temperature")
MAX_TIME_BARS = 40
# verl's timers, for checkpoint and validation outside of the step's time. REST is what none of them measures.
REST = "rest"
PHASES = (
    "prompt_scoring", "dispatch_wait", "gen", "reward", "old_log_prob", "ref", "values", "adv", "update_critic",
    "update_actor", "update_weights", "switch_wait", "switch_to_trainer", "switch_to_rollout", REST, "save_checkpoint",
    "testing",
)  # fmt: skip
HATCHES = ("", "//", "..", "xx", "\\\\", "||", "oo")
# A look, a legend entry and a curve (`compare.curve`).
Line = tuple[int, str, pd.DataFrame]
Plot = tuple[str, str, list[Line]]  # y-label, heading, lines


class NoData(Exception):
    """There is nothing to draw; the message says why."""


class Drawing(NamedTuple):
    """One figure of the page; `png` is None when there is nothing to draw, and `caption` then says why."""

    name: str
    title: str
    caption: str
    png: bytes | None


def drawing(name: str, title: str, draw: Callable[..., tuple[Figure, str]], *arguments: Any) -> Drawing:
    """The figure and caption that `draw(*arguments)` returns, or the reason why there is none."""
    try:
        drawn, caption = draw(*arguments)
    except NoData as reason:
        return Drawing(name, title, str(reason), None)
    return Drawing(name, title, caption, to_png(drawn))


def shared_drawings(methods: Sequence[Method], target: float | None) -> list[Drawing]:
    """The figures that lay methods over each other; `target` is a held-out score to mark."""
    slugs = {re.sub(r"[^a-z0-9]+", "_", panel.title.lower()).strip("_"): panel for panel in rule_panels(methods)}
    panels = PANELS | {f"rule_{slug}": panel for slug, panel in slugs.items()}
    title = "Held-out score and training reward against"
    drawings = [
        drawing(f"accuracy_{name}", f"{title} {unit}", accuracy, methods, counter, unit, target)
        for name, counter, unit in COSTS
    ]
    return drawings + [drawing(name, panel.title, over_steps, name, panel, methods) for name, panel in panels.items()]


def draw_plots(plots: Sequence[Plot], x_label: str, target: float | None = None) -> Figure:
    """Draw plots one above the other; `target` is a score to mark in the first."""
    drawn, axes = figure(len(plots), 1.8 + 1.7 * len(plots))
    for each, (y_label, heading, lines) in zip(axes, plots, strict=True):
        for look, text, found in lines:
            spread(each, found, look, text)
        each.set_ylabel(y_label)
        each.set_title(heading, loc="left")
        if y_label.startswith("share"):
            each.set_ylim(-0.03, 1.03)
        elif y_label == "perplexity":
            each.set_yscale("log")
            each.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            each.yaxis.set_major_formatter("{x:,g}")
            each.yaxis.set_minor_locator(NullLocator())
    if target is not None:
        axes[0].axhline(target, color="#000000", linestyle=(0, (1, 2)), linewidth=1.0, label=f"target {target:.4g}")
    axes[-1].set_xlabel(x_label)
    plain_numbers(axes[-1])
    legend(drawn, axes[0])
    return drawn


def plots_of(
    methods: Sequence[Method], y_label: str, quantities: Mapping[str, Sequence[str]], counter: str | None = None
) -> list[Plot]:
    """One run: a plot with a line per quantity. Several: a plot per quantity with a line per method.

    Quantities are means of metrics, by name. Lines and plots without a value are left out.
    """
    curves = {
        text: [(look, method.label, curve(method, metrics, counter)) for look, method in enumerate(methods)]
        for text, metrics in quantities.items()
    }
    if len(all_runs(methods)) == 1:
        curves = {"": [(look, text, lines[0][2]) for look, (text, lines) in enumerate(curves.items())]}
    known = {text: [line for line in lines if len(line[2])] for text, lines in curves.items()}
    return [(y_label, text, lines) for text, lines in known.items() if lines]


def over_steps(name: str, panel: Panel, methods: Sequence[Method]) -> tuple[Figure, str]:
    """A panel's metrics over training steps: of one run in one plot, of several in a plot per metric."""
    runs = all_runs(methods)
    values = {metric: pd.concat([run.series(metric) for run in runs]) for metric in panel.series}
    num_values = {metric: logged.nunique() for metric, logged in values.items() if len(logged)}
    if not num_values:
        raise NoData(f"{', '.join(panel.series)} not logged.")
    texts = {panel.series[one]: [one] for one, num in num_values.items() if num > 1 or name not in ONLY_IF_VARYING}
    if not texts:
        raise NoData("The same at every step of every run.")
    return draw_plots(plots_of(methods, panel.y_label, texts), "training step"), panel.caption


def accuracy(methods: Sequence[Method], counter: str, unit: str, target: float | None) -> tuple[Figure, str]:
    """Held-out score and training reward against a cumulative counter."""
    runs = all_runs(methods)
    if not any(len(run.series(counter)) for run in runs):
        raise NoData(f"{counter} is not logged.")
    names = common_held_out(runs)
    sets = {held_out_set(name) or name: [name] for name in names} if len(runs) == 1 else {}
    sets = sets if len(sets) == 1 else {"mean over the sets": names, **sets}
    scores = plots_of(methods, "held-out score", sets, counter)
    plots = scores + plots_of(methods, "training reward", {"": [REWARD]}, counter)
    if not plots:
        raise NoData(f"Neither val-core/…/mean@n nor {REWARD} is logged.")
    drawn = draw_plots(plots, f"cumulative {unit}", target if scores else None)
    caption = "The point at 0 is the validation before training."
    return drawn, caption + (" Validation time is not included." if counter == SECONDS else "")


def phase_seconds(run: Run) -> pd.DataFrame:
    """Seconds of each step by the phases that matter; those under 0.5% of the time go into `REST`."""
    whole = run.series(STEP_SECONDS)
    times = run.metrics.reindex(index=whole.index, columns=[f"timing_s/{name}" for name in PHASES])
    times = times.set_axis(PHASES, axis=1)
    if times["dispatch_wait"].notna().any():  # prompts are scored beside the update: only the wait belongs to the step
        times["prompt_scoring"] = 0.0
    times = times.fillna(0.0)
    inside = times.drop(columns=[REST, "save_checkpoint", "testing"])
    small = [name for name in inside if inside[name].sum() <= 0.005 * whole.sum()]
    times[REST] = (whole - inside.sum(axis=1)).clip(lower=0) + inside[small].sum(axis=1)
    return times[[name for name in PHASES if name not in small and times[name].any()]]


def step_time(run: Run) -> tuple[Figure, str]:
    """Seconds per step, stacked by phase."""
    seconds = phase_seconds(run)
    if seconds.empty:
        raise NoData(f"{STEP_SECONDS} is not logged.")
    steps = seconds.index.to_numpy(float)
    block = -(-len(steps) // MAX_TIME_BARS)
    bars = seconds.groupby(np.arange(len(steps)) // block).mean()
    edges = np.append(steps[::block], steps[-1] + 1) - 0.5
    share = seconds.sum() / (seconds.to_numpy().sum() or 1.0)
    drawn, (axes,) = figure(height_in=4.4)
    bottom = np.zeros(len(bars))
    for phase in seconds:
        at, top = PHASES.index(phase), bottom + bars[phase].to_numpy()
        axes.stairs(
            top, edges, baseline=bottom, fill=True, label=f"{phase} {share[phase]:.1%}", linewidth=0.4,
            facecolor=colormaps["tab20"](at), hatch=HATCHES[at % len(HATCHES)], edgecolor="#444444",
        )  # fmt: skip
        bottom = top
    axes.grid(axis="x", visible=False)
    axes.set(xlabel="training step", ylabel="seconds per step")
    plain_numbers(axes)
    legend(drawn, axes)
    caption = "Shares are of all steps together. Checkpoint and validation come on top of the step's own time."
    return drawn, caption + (f" Each bar is the mean of {block} steps." if block > 1 else "")
