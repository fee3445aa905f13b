"""Figures of a comparison, in the look of the recipe's own report."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.mini_math.numbers import Estimate, by_row
from recipe.prepo.tools.report.style import LOOKS, figure, legend, line, look, plain_numbers, to_png
from recipe.prepo.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES: tuple[tuple[str, str, str, str, str], ...] = (
    ("accuracy_by_rollouts", "rollouts", "accuracy", "rollouts, thrown-away ones included", "held-out accuracy"),
    ("accuracy_by_tokens", "tokens", "accuracy", "response tokens, thrown-away ones included", "held-out accuracy"),
    ("zero_advantage", "rollouts", "zero_advantage_frac", "rollouts", "groups without an advantage"),
    ("entropy", "rollouts", "entropy_nats", "rollouts", "probe entropy (nats)"),
)
"""File, horizontal and vertical key of the curve's points, and their labels."""


def write_figures(results: Sequence[Mapping[str, Any]], out: Path) -> None:
    """DIR/<file>.png for each of PICTURES."""
    rows = by_row(results)
    for name, x_key, y_key, x_label, y_label in PICTURES:
        with look():
            drawn, (axes,) = figure(height_in=4.2)
            draw_rows(axes, rows, list(rows), x_key, y_key)
            axes.set_xlabel(x_label)
            axes.set_ylabel(y_label)
            plain_numbers(axes)
            legend(drawn, axes)
            (out / f"{name}.png").write_bytes(to_png(drawn))


def draw_rows(
    axes: Axes,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    names: Sequence[str],
    x_key: str,
    y_key: str,
    *,
    with_range: Collection[str] | None = None,
) -> None:
    """A line for the mean over a row's seeds, and the range of the seeds behind it.

    Args:
        rows: the runs of each row.
        names: all rows of the picture; a row's place there decides its look.
        with_range: rows whose range is drawn, where those of all would hide one another.
    """
    for row, runs in rows.items():
        x, y = (_columns([run["curve"] for run in runs], key) for key in (x_key, y_key))
        if y_key == "zero_advantage_frac":  # the first point is a measurement of the pool, the same for all
            x, y = x[:, 1:], y[:, 1:]
        index = names.index(row)
        line(axes, x.mean(0), y.mean(0), index, row)
        if len(runs) > 1 and (with_range is None or row in with_range):
            colour = LOOKS[index % len(LOOKS)][0]
            axes.fill_between(x.mean(0), y.min(0), y.max(0), color=colour, alpha=0.1, linewidth=0)


def draw_estimates(
    axes: Axes, found: Sequence[Estimate | None], index: int, text: str, *, limit: float, offset: float
) -> None:
    """One mark for each estimate that there is, from top to bottom, with its interval.

    Args:
        index: look of the marks.
        limit: a value below -limit is written at the edge instead of drawn.
        offset: of the marks from whole places on the y-axis.
    """
    color, _, marker = LOOKS[index]
    is_labelled = False
    for place, estimate in enumerate(found):
        if estimate is None:
            continue
        at = place + offset
        if estimate.value < -limit:
            axes.text(-1.22 * limit, at, f"◂ {estimate.value:+.2f}", color=color, va="center", fontsize=7)
            continue
        if estimate.bounds is not None:
            axes.plot(np.clip(estimate.bounds, -limit, limit), [at, at], color=color, linewidth=1.2)
        axes.plot(
            estimate.value, at, color=color, marker=marker, markersize=4.5, label="" if is_labelled else text, ls=""
        )
        is_labelled = True


def _columns(curves: Sequence[Sequence[Mapping[str, Any]]], key: str) -> FloatArray:
    """One key of the points of several curves, shape [S, E]: seeds by evaluations."""
    return np.array([[point[key] for point in curve] for curve in curves], dtype=np.float64)
