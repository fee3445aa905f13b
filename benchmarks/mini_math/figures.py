"""Figures of one comparison."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.mini_math.numbers import by_method
from recipe.prepo.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES: tuple[tuple[str, str, str, str, str], ...] = (
    ("accuracy_by_rollouts", "rollouts", "accuracy", "rollouts, discarded ones included", "held-out accuracy"),
    ("accuracy_by_tokens", "tokens", "accuracy", "response tokens, discarded ones included", "held-out accuracy"),
    ("zero_advantage", "rollouts", "zero_advantage_frac", "rollouts", "groups without an advantage"),
    ("entropy", "rollouts", "entropy_nats", "rollouts", "probe entropy (nats)"),
)
"""File, horizontal and vertical key of the curve's points, and their labels."""

_COLOURS = ("#000000", "#0072b2", "#999999", "#cc79a7", "#009e73", "#d55e00", "#8c6d00", "#56b4e9")
STYLES = tuple((colour, dash) for dash in ("-", "--", ":", "-.") for colour in _COLOURS)
"""Colour and line of each method of a picture, no two alike."""


def write_figures(results: Sequence[Mapping[str, Any]], out: Path) -> None:
    """DIR/<file>.png for each of PICTURES."""
    from matplotlib.figure import Figure

    methods = by_method(results)
    for name, x_key, y_key, x_label, y_label in PICTURES:
        drawn = Figure(figsize=(6.4, 4.2), dpi=130, layout="constrained")
        axes = drawn.subplots()
        draw_methods(axes, methods, list(methods), x_key, y_key)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(color="#e4e4e4")
        axes.spines[["top", "right"]].set_visible(False)
        drawn.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        drawn.savefig(out / f"{name}.png")


def draw_methods(
    axes: Axes,
    methods: Mapping[str, Sequence[Mapping[str, Any]]],
    names: Sequence[str],
    x_key: str,
    y_key: str,
    *,
    with_range: Collection[str] | None = None,
) -> None:
    """A line for the mean over a method's seeds, and the range of the seeds behind it.

    Args:
        methods: the runs of each method.
        names: all methods of the picture; a method's place there decides its style.
        with_range: methods whose range is drawn; None for all.
    """
    for method, runs in methods.items():
        x, y = (_columns([run["curve"] for run in runs], key) for key in (x_key, y_key))
        if y_key == "zero_advantage_frac":  # the first point is a measurement of the pool, the same for all
            x, y = x[:, 1:], y[:, 1:]
        colour, dash = STYLES[names.index(method) % len(STYLES)]
        axes.plot(x.mean(0), y.mean(0), color=colour, linestyle=dash, linewidth=1.6, label=method)
        if len(runs) > 1 and (with_range is None or method in with_range):
            axes.fill_between(x.mean(0), y.min(0), y.max(0), color=colour, alpha=0.1, linewidth=0)


def _columns(curves: Sequence[Sequence[Mapping[str, Any]]], key: str) -> FloatArray:
    """One key of the points of several curves, shape [S, E]: seeds by evaluations."""
    return np.array([[point[key] for point in curve] for curve in curves], dtype=np.float64)
