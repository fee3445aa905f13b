"""What the rules decided over the run: prompts skipped, rollouts thrown away, group sizes, temperature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recipe.prepo.report.load import Run
from recipe.prepo.report.style import Drawing, figure, legend, line, plain_numbers, to_png

# (axis label, metrics with their texts). A panel is drawn where one of its metrics changes within some run.
PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("share of candidates", (("prepo/skipped_frac/mean", "not chosen, or skipped"),)),
    ("probability", (("prepo/p_easy/mean", "p, all right"), ("prepo/p_hard/mean", "p, all wrong"))),
    (
        "rollouts a step",
        (("prepo/rollouts/sum", "generated"), ("prepo/discarded_rollouts/sum", "of them thrown away")),
    ),
    (
        "rollouts a prompt",
        (
            ("prepo/rollouts_per_prompt/max", "largest group"),
            ("prepo/rollouts_per_prompt/mean", "mean"),
            ("prepo/rollouts_per_prompt/min", "smallest group"),
        ),
    ),
    ("temperature", (("prepo/temperature/mean", "temperature"),)),
    (
        "nats a token",
        (("prepo/token_entropy_nats/mean", "entropy"), ("prepo/entropy_target_nats/mean", "its target")),
    ),
    ("share of rollouts", (("prepo/length_biased_frac/mean", "with a length bias"),)),
)


def decisions(runs: Sequence[Run]) -> Drawing:
    """A panel for each decision that changed; of several runs the first metric of each panel is compared."""
    title = "What the rules decided"
    panels = [panel for panel in PANELS if any(_changes(run, metric) for run in runs for metric, _ in panel[1])]
    if not panels:
        return Drawing(
            "decisions", title, "Every step had as many rollouts, the same group size and the same temperature."
        )
    drawn, axes = figure(len(panels), 1.2 + 1.7 * len(panels))
    width = 1
    for place, (label, metrics) in enumerate(panels):
        axes[place].set_ylabel(label)
        if len(runs) > 1:
            metric, text = metrics[0]
            axes[place].set_title(text)
            for index, run in enumerate(runs):
                if run.series(metric)[1].size:
                    width = max(width, line(axes[place], *run.series(metric), index, run.name, smooth=True))
        else:
            for index, (metric, text) in enumerate(metrics):
                if runs[0].series(metric)[1].size:
                    line(axes[place], *runs[0].series(metric), index, text)
            if len(metrics) > 1:
                axes[place].legend(loc="best", fontsize=8)
            else:
                axes[place].set_title(metrics[0][1])
    axes[-1].set_xlabel("training step")
    plain_numbers(axes[-1])
    if len(runs) > 1:
        legend(drawn, axes[0])
    caption = "Panels of what stayed the same all the time are left out."
    if len(runs) > 1 and width > 1:
        caption += f" Faint: every step; line: running mean over up to {width} steps."
    return Drawing("decisions", title, caption, to_png(drawn))


def _changes(run: Run, metric: str) -> bool:
    values = run.series(metric)[1]
    return bool(values.size) and bool(np.ptp(values) > 0)
