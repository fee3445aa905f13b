"""Figures out of the logged metrics: accuracy against cost, zero-advantage shares, entropy, where the time goes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recipe.prepo.report.load import FloatArray, Run
from recipe.prepo.report.style import Drawing, figure, legend, line, plain_numbers, to_png
from recipe.prepo.report.summary import (
    ROLLOUTS,
    TOKENS,
    ZERO_ADVANTAGE,
    common_held_out,
    cumulative,
    held_out,
    held_out_names,
    short_name,
)

REWARD = "critic/score/mean"
ENTROPY = "prepo/entropy_nats/mean"
SHARES = (
    (ZERO_ADVANTAGE, "zero advantage"),
    ("prepo/all_correct_frac/mean", "all correct"),
    ("prepo/all_wrong_frac/mean", "all wrong"),
)
REST = ""
# (verl's timer, text, fill, hatch): timers that hold no other one; all but `testing` lie inside `step`.
PHASES = (
    ("prompt_scoring", "scoring prompts", "#222222", ""),
    ("gen", "waiting for rollouts", "#E8E8E8", ""),
    ("reward", "reward model", "#56B4E9", "||"),
    ("old_log_prob", "old log-probs", "#D55E00", "//"),
    ("ref", "reference log-probs", "#E69F8A", "++"),
    ("values", "critic values", "#A6A6D8", "--"),
    ("adv", "advantages, weights", "#9ECAE9", ".."),
    ("update_critic", "critic update", "#5A9E6F", "xx"),
    ("update_actor", "actor update", "#F0C05A", "\\\\"),
    ("update_weights", "weight sync", "#7F7F7F", "xx"),
    ("switch_wait", "waiting to switch", "#FFFFFF", "//"),
    ("switch_to_trainer", "switch to training", "#C9B28B", "||"),
    ("switch_to_rollout", "switch to rollout", "#8B6F47", "--"),
    ("save_checkpoint", "checkpoint", "#CC79A7", "oo"),
    (REST, "everything else", "#FFFFFF", ""),
    ("testing", "validation", "#0072B2", "..."),
)
MAX_BARS = 40


def smoothing_note(width: int) -> str:
    return f" Faint: every step; line: running mean over up to {width} steps." if width > 1 else ""


def accuracy(runs: Sequence[Run], counter: str, name: str, unit: str) -> Drawing:
    """Held-out score and training reward against a cumulative counter; against steps where no run logged it."""
    title = f"Held-out score and training reward against {unit}"
    counted = all(run.series(counter)[1].size for run in runs)
    curves = _held_out_curves(runs)
    rewards = [(run.name, *run.series(REWARD), run) for run in runs]
    rewards = [entry for entry in rewards if entry[1].size]
    among = " in every run" if len(runs) > 1 else ""
    if not counted and counter == TOKENS:
        return Drawing(name, title, f"{TOKENS} is not logged{among}.")
    if not curves and not rewards:
        return Drawing(name, title, f"Neither val-core/…/mean@n nor {REWARD} is logged.")
    drawn, axes = figure(2 if curves and rewards else 1, 5.2 if curves and rewards else 3.6)
    width = 1
    if curves:
        for index, (text, steps, values, run) in enumerate(curves):
            line(axes[0], *_against(run, counter if counted else None, steps, values), index, text)
        axes[0].set_ylabel("held-out score")
    if rewards:
        for index, (text, steps, values, run) in enumerate(rewards):
            look = runs.index(run) if len(runs) > 1 else index
            against = _against(run, counter if counted else None, steps, values)
            width = max(
                width, line(axes[-1], *against, look, text if len(runs) > 1 else "training reward", smooth=True)
            )
        axes[-1].set_ylabel("training reward")
    axes[-1].set_xlabel(f"cumulative {unit}" if counted else "training step")
    plain_numbers(axes[-1])
    legend(drawn, axes[0])
    no_curves = "The runs share no held-out score." if len(runs) > 1 else "No validation is logged."
    caption = "The point at 0 is the validation before training." if curves else no_curves
    if not rewards:
        caption += f" {REWARD} is not logged."
    if not counted:
        caption += f" {counter} is not logged{among}: drawn against steps instead."
    if len(runs) > 1 and curves:
        caption += " The score is the plain mean over the sets that all runs have."
    return Drawing(name, title, caption + smoothing_note(width), to_png(drawn))


def _held_out_curves(runs: Sequence[Run]) -> list[tuple[str, FloatArray, FloatArray, Run]]:
    if len(runs) > 1:
        names = common_held_out(runs)
        curves = [(run.name, *held_out(run, names), run) for run in runs]
    else:
        run, names = runs[0], held_out_names(runs[0])
        curves = [(short_name(name), *held_out(run, [name]), run) for name in names]
        if len(names) > 1:
            curves.insert(0, ("mean over the sets", *held_out(run, names), run))
    return [curve for curve in curves if curve[1].size]


def _against(run: Run, counter: str | None, steps: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    x = steps if counter is None else cumulative(run, steps, counter)
    known = np.isfinite(x)
    return x[known], values[known]


def shares(runs: Sequence[Run]) -> Drawing:
    """Shares of groups whose rewards are all equal, all 1, all 0; one run in one panel, several in a panel a share."""
    title = "Groups without an advantage"
    present = [(metric, text) for metric, text in SHARES if any(run.series(metric)[1].size for run in runs)]
    if not present:
        return Drawing("zero_advantage", title, f"{', '.join(metric for metric, _ in SHARES)} are not logged.")
    panels = len(present) if len(runs) > 1 else 1
    drawn, axes = figure(panels, 1.2 + 1.7 * panels if panels > 1 else 3.4)
    width = 1
    for place, (metric, text) in enumerate(present):
        for index, run in enumerate(runs):
            steps, values = run.series(metric)
            if steps.size and len(runs) > 1:
                width = max(width, line(axes[place], steps, values, index, run.name, smooth=True))
                axes[place].set_ylabel(text)
            elif steps.size:
                width = max(width, line(axes[0], steps, values, place, text, smooth=True))
                axes[0].set_ylabel("share of groups")
    for panel in axes:
        panel.set_ylim(-0.03, 1.03)
    axes[-1].set_xlabel("training step")
    plain_numbers(axes[-1])
    legend(drawn, axes[0])
    caption = "Share of all groups that were rolled out, thrown-away ones too; equal rewards give no gradient."
    absent = [metric for metric, text in SHARES if (metric, text) not in present]
    caption += f" Not logged: {', '.join(absent)}." if absent else ""
    return Drawing("zero_advantage", title, caption + smoothing_note(width), to_png(drawn))


def entropy(runs: Sequence[Run]) -> Drawing:
    """Mean token entropy of the rollouts, in nats, over steps."""
    title = "Entropy over steps"
    present = [(index, run) for index, run in enumerate(runs) if run.series(ENTROPY)[1].size]
    if not present:
        return Drawing("entropy", title, f"{ENTROPY} is not logged.")
    drawn, (axes,) = figure()
    width = max(line(axes, *run.series(ENTROPY), index, run.name, smooth=True) for index, run in present)
    axes.set_ylabel("entropy (nats a token)")
    axes.set_xlabel("training step")
    plain_numbers(axes)
    axes.set_ylim(bottom=0)
    if len(runs) > 1:
        legend(drawn, axes)
    caption = "Mean over the step's rollouts of their mean token entropy, under the policy that generated them."
    absent = [run.name for run in runs if not run.series(ENTROPY)[1].size]
    caption += f" Not logged in: {', '.join(absent)}." if absent else ""
    return Drawing("entropy", title, caption + smoothing_note(width), to_png(drawn))


def step_time(run: Run) -> Drawing:
    """Seconds a step, stacked by phase; what no phase covers is `step` less their sum."""
    title = "Where the time of a step goes"
    steps = run.series("timing_s/step")[0]
    if not steps.size:
        return Drawing("step_time", title, "timing_s/step is not logged.")
    seconds, overlap = phase_seconds(run, steps)
    block = -(-len(steps) // MAX_BARS)
    starts = np.arange(0, len(steps), block)
    lengths = np.diff(np.append(starts, len(steps)))
    edges = np.append(steps[starts], steps[-1] + 1) - 0.5
    drawn, (axes,) = figure(height_in=4.4)
    bottom = np.zeros(len(starts))
    whole = sum(values.sum() for values in seconds.values())
    for timer, text, fill, hatch in PHASES:
        if timer not in seconds:
            continue
        share = f" {100 * seconds[timer].sum() / whole:.1f}%" if whole else ""
        heights = np.add.reduceat(seconds[timer], starts) / lengths
        top = bottom + heights
        axes.stairs(
            top, edges, baseline=bottom, fill=True, facecolor=fill, hatch=hatch, label=text + share,
            edgecolor="#444444", linewidth=0.4,
        )  # fmt: skip
        bottom = top
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("seconds a step")
    axes.set_xlabel("training step")
    plain_numbers(axes)
    legend(drawn, axes)
    caption = "Shares are of all steps together. Validation comes on top of the step's own seconds."
    if block > 1:
        caption += f" Each bar is the mean of {block} steps."
    if overlap:
        caption += " In some steps phases overlap, and their sum exceeds the step's own time."
    return Drawing("step_time", title, caption, to_png(drawn))


def phase_seconds(run: Run, steps: FloatArray) -> tuple[dict[str, FloatArray], bool]:
    """Seconds at each of `steps` of the timers in `PHASES` that matter; those under 0.5% go into `REST`.

    Returns:
        The seconds by timer, and whether the phases of some step add up to more than the step took.
    """

    def at_steps(timer: str) -> FloatArray:
        return np.array([run.metrics[int(step)].get(f"timing_s/{timer}", 0.0) for step in steps], float)

    whole = at_steps("step")
    inside = {timer: at_steps(timer) for timer, *_ in PHASES if timer not in (REST, "testing")}
    shown = {timer: values for timer, values in inside.items() if values.sum() > 0.005 * whole.sum()}
    unnamed = whole - np.sum(list(inside.values()), axis=0)
    small = np.sum([values for timer, values in inside.items() if timer not in shown] or [np.zeros(len(steps))], axis=0)
    shown[REST] = np.clip(unnamed, 0, None) + small
    if at_steps("testing").any():
        shown["testing"] = at_steps("testing")
    return shown, bool((unnamed < -0.01 * whole).any())


def metric_drawings(runs: Sequence[Run]) -> list[Drawing]:
    """The figures that can lay several runs over each other."""
    return [
        accuracy(runs, ROLLOUTS, "accuracy_rollouts", "rollouts"),
        accuracy(runs, TOKENS, "accuracy_tokens", "response tokens"),
        shares(runs),
        entropy(runs),
    ]
