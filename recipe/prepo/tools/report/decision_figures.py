"""What the rules decided over the run: prompts skipped, rollouts thrown away, group sizes, temperature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recipe.prepo.tools.report.figures import is_single, over_steps, smoothing_note, spread_note
from recipe.prepo.tools.report.load import Run
from recipe.prepo.tools.report.rows import Row
from recipe.prepo.tools.report.style import Drawing, figure, legend, line, plain_numbers, spread, to_png

NATS, TARGET_ENTROPY = "nats a token", "prepo/entropy_target_nats/mean"
# (axis label, metrics with their texts). A panel is drawn where one of its metrics changes within some run.
PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("share of candidates", (("prepo/skipped_frac/mean", "not chosen, or skipped"),)),
    ("share of candidates", (("prepo/left_out_frac/mean", "left out: no signal lately"),)),
    (
        "pass rate",
        (
            ("prepo/pass_rate/mean", "of the step's groups"),
            ("prepo/predicted_pass_rate/mean", "as it was predicted"),
            ("prepo/pass_rate_error/mean", "error of a prompt's prediction"),
        ),
    ),
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
        NATS,
        (("prepo/token_entropy_nats/mean", "entropy"), (TARGET_ENTROPY, "its target")),
    ),
    ("share of rollouts", (("prepo/length_biased_frac/mean", "with a length bias"),)),
)


def decisions(rows: Sequence[Row]) -> Drawing:
    """A panel for each decision that changed; of several rows the first metric of each panel is compared."""
    title, single = "What the rules decided", is_single(rows)
    runs = [run for row in rows for run in row.runs]
    panels = [
        panel
        for panel in PANELS
        if any(_changes(run, metric) for run in runs for metric, _ in panel[1]) and (panel[0] != NATS or _held(runs))
    ]
    if not panels:
        return Drawing(
            "decisions", title, "Every step had as many rollouts, the same group size and the same temperature."
        )
    drawn, axes = figure(len(panels), 1.2 + 1.7 * len(panels))
    width = 1
    for panel, (unit, metrics) in zip(axes, panels, strict=True):
        panel.set_ylabel(unit)
        if single:
            for index, (metric, text) in enumerate(metrics):
                if runs[0].series(metric)[1].size:
                    line(panel, *runs[0].series(metric), index, text)
        else:
            for index, row in enumerate(rows):
                found = over_steps(row, metrics[0][0])
                if found.x.size:
                    width = max(width, spread(panel, found, index, row.label(found.num_runs), smooth=True))
        if single and len(metrics) > 1:
            panel.legend(loc="best", fontsize=8)
        else:
            panel.set_title(metrics[0][1])
    axes[-1].set_xlabel("training step")
    plain_numbers(axes[-1])
    if not single:
        legend(drawn, axes[0])
    caption = "Panels of what stayed the same all the time are left out." + spread_note(rows)
    return Drawing("decisions", title, caption + smoothing_note(width), to_png(drawn))


def _held(runs: Sequence[Run]) -> bool:
    """Whether some run holds its entropy at a target; without one, the entropy has its own figure."""
    return any(run.series(TARGET_ENTROPY)[1].size for run in runs)


def _changes(run: Run, metric: str) -> bool:
    values = run.series(metric)[1]
    return bool(values.size) and bool(np.ptp(values) > 0)
