"""Where the time of a step goes, by verl's timers."""

from __future__ import annotations

import numpy as np

from recipe.prepo.tools.report.load import FloatArray, Run
from recipe.prepo.tools.report.style import Drawing, figure, legend, plain_numbers, to_png
from recipe.prepo.tools.report.summary import STEP_SECONDS

REST = ""
# After the step's own seconds.
OUTSIDE = ("save_checkpoint", "testing")
# Where prompts are scored and submitted beside the update, only the wait for it is the step's.
WAIT = "dispatch_wait"
# (verl's timer, text, fill, hatch): timers that hold no other one; all but `OUTSIDE` lie inside `step`.
PHASES = (
    ("prompt_scoring", "scoring prompts", "#222222", ""),
    (WAIT, "waiting for scoring", "#222222", "//"),
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
    (REST, "everything else", "#FFFFFF", ""),
    ("save_checkpoint", "checkpoint", "#CC79A7", "oo"),
    ("testing", "validation", "#0072B2", "..."),
)
MAX_BARS = 40


def step_time(run: Run) -> Drawing:
    """Seconds a step, stacked by phase; what no phase covers is `step` less their sum."""
    title = "Where the time of a step goes"
    steps = run.series(STEP_SECONDS)[0]
    if not steps.size:
        return Drawing("step_time", title, f"{STEP_SECONDS} is not logged.")
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
    caption = "Shares are of all steps together. Checkpoint and validation come on top of the step's own seconds."
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
    inside = {timer: at_steps(timer) for timer, *_ in PHASES if timer not in (REST, *OUTSIDE)}
    if any(f"timing_s/{WAIT}" in run.metrics[int(step)] for step in steps):
        del inside["prompt_scoring"]
    shown = {timer: values for timer, values in inside.items() if values.sum() > 0.005 * whole.sum()}
    unnamed = whole - np.sum(list(inside.values()), axis=0)
    small = np.sum([values for timer, values in inside.items() if timer not in shown] or [np.zeros(len(steps))], axis=0)
    shown[REST] = np.clip(unnamed, 0, None) + small
    shown |= {timer: at_steps(timer) for timer in OUTSIDE if at_steps(timer).any()}
    return shown, bool((unnamed < -0.01 * whole).any())
