"""Figures of a comparison, in the look of the recipe's own report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipe.prepo.notation import FloatArray
from recipe.prepo.report.style import LOOKS, figure, legend, line, look, plain_numbers, to_png

PICTURES: tuple[tuple[str, str, str, str, str], ...] = (
    ("accuracy_by_rollouts", "rollouts", "accuracy", "rollouts, thrown-away ones included", "held-out accuracy"),
    ("accuracy_by_tokens", "tokens", "accuracy", "response tokens, thrown-away ones included", "held-out accuracy"),
    ("zero_advantage", "rollouts", "zero_advantage_frac", "rollouts", "groups without an advantage"),
    ("entropy", "rollouts", "entropy_nats", "rollouts", "probe entropy (nats)"),
)
"""File, horizontal and vertical key of the curve's points, and their labels."""


def write_figures(results: Sequence[Mapping[str, Any]], out: Path) -> None:
    """DIR/<file>.png for each of PICTURES: means over seeds, and the range of the seeds behind them."""
    rows = list(dict.fromkeys(result["row"] for result in results))
    for name, x_key, y_key, x_label, y_label in PICTURES:
        with look():
            drawn, (axes,) = figure(height_in=4.2)
            for index, row in enumerate(rows):
                curves = [result["curve"] for result in results if result["row"] == row]
                x, y = curve_columns(curves, x_key), curve_columns(curves, y_key)
                if y_key == "zero_advantage_frac":  # the first point is a measurement of the pool, the same for all
                    x, y = x[:, 1:], y[:, 1:]
                line(axes, x.mean(0), y.mean(0), index, row)
                if len(curves) > 1:
                    colour = LOOKS[index % len(LOOKS)][0]
                    axes.fill_between(x.mean(0), y.min(0), y.max(0), color=colour, alpha=0.1, linewidth=0)
            axes.set_xlabel(x_label)
            axes.set_ylabel(y_label)
            plain_numbers(axes)
            legend(drawn, axes)
            (out / f"{name}.png").write_bytes(to_png(drawn))


def curve_columns(curves: Sequence[Sequence[Mapping[str, Any]]], key: str) -> FloatArray:
    """One key of the points of several curves, shape [S, E]: seeds by evaluations."""
    return np.array([[point[key] for point in curve] for curve in curves], dtype=np.float64)
