"""The figures of the report."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from recipe.prepo.run.jsonl import read_lines
from recipe.prepo.run.metric_names import REWARD, STEP_SECONDS, ZERO_ADVANTAGE, held_out_set
from recipe.prepo.tools.report.compare import (
    COSTS,
    Method,
    all_runs,
    common_held_out,
    curve,
    rule_panels,
)
from recipe.prepo.tools.report.load import DAMAGE, SECONDS, Run
from recipe.prepo.tools.report.style import Chart, Line, Plot, numbers_of, picture
from recipe.prepo.tools.stats import interval_text, spearman_interval
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
MAX_TIME_BARS, MAX_POINTS = 40, 4000
# verl's timers, for checkpoint and validation outside of the step's time. REST is what none of them measures.
REST = "rest"
PHASES = (
    "prompt_scoring", "dispatch_wait", "gen", "reward", "old_log_prob", "ref", "values", "adv", "update_critic",
    "update_actor", "update_weights", "switch_wait", "switch_to_trainer", "switch_to_rollout", REST, "save_checkpoint",
    "testing",
)  # fmt: skip


class NoData(Exception):
    """There is nothing to draw; the message says why."""


class Drawing(NamedTuple):
    """One figure of the page: a picture, and the same as numbers. Without them, `caption` says why there are none."""

    name: str
    title: str
    caption: str
    png: bytes | None = None
    numbers: dict[str, Any] | None = None


def drawing(name: str, title: str, draw: Callable[..., Chart], *arguments: Any) -> Drawing:
    """The figure that `draw(*arguments)` returns, or the reason why there is none."""
    try:
        chart = draw(*arguments)
    except NoData as reason:
        return Drawing(name, title, str(reason))
    return Drawing(name, title, chart.caption, picture(chart), numbers_of(chart))


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


def run_drawings(run: Run, suffix: str = "") -> list[Drawing]:
    """The figures of one run by itself; `suffix` tells their names apart."""
    return [
        drawing(f"perplexity_pass_rate{suffix}", "Perplexity and pass rate of the chosen prompts", pass_rate, run),
        drawing(f"step_time{suffix}", "Where the time of a step goes", step_time, run),
    ]


def plots_of(
    methods: Sequence[Method], y_label: str, quantities: Mapping[str, Sequence[str]], counter: str | None = None
) -> list[Plot]:
    """One run: a plot with a line per quantity. Several: a plot per quantity with a line per method.

    Quantities are means of metrics, by name. Lines and plots without a value are left out.
    """
    curves = {
        text: [Line(look, method.label, curve(method, metrics, counter)) for look, method in enumerate(methods)]
        for text, metrics in quantities.items()
    }
    if len(all_runs(methods)) == 1:
        curves = {"": [Line(look, text, lines[0].found) for look, (text, lines) in enumerate(curves.items())]}
    known = {text: [line for line in lines if len(line.found)] for text, lines in curves.items()}
    return [Plot(y_label, text, lines) for text, lines in known.items() if lines]


def over_steps(name: str, panel: Panel, methods: Sequence[Method]) -> Chart:
    """A panel's metrics over training steps: of one run in one plot, of several in a plot per metric."""
    runs = all_runs(methods)
    values = {metric: pd.concat([run.series(metric) for run in runs]) for metric in panel.series}
    num_values = {metric: logged.nunique() for metric, logged in values.items() if len(logged)}
    if not num_values:
        raise NoData(f"{', '.join(panel.series)} not logged.")
    texts = {panel.series[one]: [one] for one, num in num_values.items() if num > 1 or name not in ONLY_IF_VARYING}
    if not texts:
        raise NoData("The same at every step of every run.")
    return Chart(plots_of(methods, panel.y_label, texts), "training step", panel.caption)


def accuracy(methods: Sequence[Method], counter: str, unit: str, target: float | None) -> Chart:
    """Held-out score and training reward against a cumulative counter."""
    runs = all_runs(methods)
    if not any(len(run.series(counter)) for run in runs):
        raise NoData(f"{counter} is not logged.")
    names = common_held_out(runs)
    sets = {held_out_set(name) or name: [name] for name in names} if len(runs) == 1 else {}
    sets = sets if len(sets) == 1 else {"mean over the sets": names, **sets}
    scores = plots_of(methods, "held-out score", sets, counter)
    plots = scores + plots_of(methods, "training reward", {"training reward": [REWARD]}, counter)
    if not plots:
        raise NoData(f"Neither val-core/…/mean@n nor {REWARD} is logged.")
    caption = "The point at 0 is the validation before training."
    caption += " Validation time is not included." if counter == SECONDS else ""
    return Chart(plots, f"cumulative {unit}", caption, level=target if scores else None)


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


def step_time(run: Run) -> Chart:
    """Seconds per step, stacked by phase."""
    seconds = phase_seconds(run)
    if seconds.empty:
        raise NoData(f"{STEP_SECONDS} is not logged.")
    block = -(-len(seconds) // MAX_TIME_BARS)
    at = np.arange(len(seconds)) // block
    share = seconds.sum() / (seconds.to_numpy().sum() or 1.0)
    x = seconds.index.to_series().groupby(at).mean()
    lines = [
        Line(look, f"{phase} {share[phase]:.1%}", pd.DataFrame({"x": x, "mean": seconds[phase].groupby(at).mean()}))
        for look, phase in enumerate(seconds)
    ]
    caption = "Shares are of all steps together. Checkpoint and validation come on top of the step's own time."
    caption += f" Each bar is the mean of {block} steps." if block > 1 else ""
    return Chart([Plot("seconds per step", "", lines)], "training step", caption, "stack")


def perplexities_and_rewards(run: Run) -> pd.DataFrame:
    """Mean reward of each trained group, with its prompt's perplexity at the latest choice up to that step."""
    choices = read_lines(run.path / "audit" / "selection.jsonl")
    scored = [(line["step"], each["prompt_id"], each["ppl"]) for line in choices for each in line["candidates"]]
    rollouts = read_lines(run.path / "audit" / "rollouts.jsonl")
    trained = [(line["step"], line["prompt_id"], line["reward"]) for line in rollouts]
    ppl = pd.DataFrame(scored, columns=["step", "prompt", "ppl"]).dropna()
    groups = (
        pd.DataFrame(trained, columns=["step", "prompt", "reward"]).groupby(["step", "prompt"], as_index=False).mean()
    )
    found = pd.merge_asof(groups.sort_values("step"), ppl.sort_values("step"), on="step", by="prompt")
    return found.astype({"ppl": float, "reward": float}).dropna()


def pass_rate(run: Run) -> Chart:
    """Scatter of perplexity and pass rate, with Spearman's rank correlation (arXiv 2511.00794, figure 1)."""
    try:
        pairs = perplexities_and_rewards(run)
    except FileNotFoundError as error:
        raise NoData(f"{error.filename} is missing.") from error
    except DAMAGE as error:
        raise NoData(f"The audit files are damaged ({error!r}).") from error
    if pairs.empty:
        raise NoData("No trained prompt was scored.")
    rho = spearman_interval(pairs["ppl"].to_numpy(), pairs["reward"].to_numpy(), pairs["prompt"].tolist())
    text = interval_text(rho._asdict()) if np.isfinite(rho.rho) else "undefined: all values of one side are equal"
    caption = (
        f"Spearman's rho {text}; {rho.num_pairs:,} groups of {rho.num_clusters:,} prompts, bootstrap over prompts."
    )
    every = -(-len(pairs) // MAX_POINTS)
    caption += f" One group in {every} is drawn." if every > 1 else ""
    points = pairs.rename(columns={"ppl": "x", "reward": "mean"})[::every]
    plot = Plot("mean reward of its rollouts", "", [Line(0, "a group", points)])
    return Chart([plot], "prompt perplexity when chosen", caption, "points")
