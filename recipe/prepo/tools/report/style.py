"""The look of all pictures: phone width, lines told apart by dashes and markers as well as by colour.

matplotlib is used through its object interface: no window, no global state. `page.js` draws in the same looks.
"""

from __future__ import annotations

import io
from itertools import cycle
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from recipe.prepo.types import FloatArray

WIDTH_IN, LEGEND_LINE_IN, MAX_LABEL, NUM_LOOKS = 5.2, 0.2, 42, 24
# Okabe and Ito's colours, ordered so that neighbours differ in lightness too; and those of the page on a dark ground.
COLORS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#8C6D00", "#56B4E9", "#666666", "#7A0019")
DARK_COLORS = ("#f2f2f2", "#ff8a3d", "#4fb0f0", "#2fd3a2", "#e59ac4", "#d8b84a", "#9ad5ff", "#a6a6a6", "#ff7d8a")
# Lengths on and off, in widths of the line.
DASHES = ((), (4, 1.6), (6.4, 1.6, 1, 1.6), (1, 1.65), (6, 1), (3, 1, 1, 1, 1, 1), (1, 3), (9, 3))
LOOKS = list(zip(range(NUM_LOOKS), cycle(COLORS), cycle(DASHES), cycle("osD^vPX*<>ph8"), strict=False))
HATCHES = ("", "//", "..", "xx", "\\\\", "||", "oo")
SETTINGS = {
    "figure.dpi": 150, "font.size": 10, "axes.titlesize": 10, "axes.grid": True, "grid.color": "#dddddd",
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "legend.fontsize": 9,
    "legend.frameon": False, "figure.constrained_layout.use": True, "hatch.linewidth": 0.6,
    "text.parse_math": False,  # `$` in a run's name is text, not a formula
}  # fmt: skip


class Line(NamedTuple):
    """A look, a legend entry, and a curve with columns x and mean, and of "lines" low and high (`compare.curve`)."""

    look: int
    text: str
    found: pd.DataFrame


class Plot(NamedTuple):
    """One pair of axes. A label that begins with "share" has the range 0 to 1; "perplexity" is logarithmic."""

    y_label: str
    heading: str
    lines: list[Line]


class Chart(NamedTuple):
    """Plots one above the other that share the x-axis.

    `kind` is "lines", "points" (logarithmic in x) or "stack" (bars); `level` is a value to mark in the first plot.
    """

    plots: list[Plot]
    x_label: str
    caption: str
    kind: str = "lines"
    level: float | None = None


def picture(chart: Chart) -> bytes:
    """The chart as a PNG file, drawn through the canvas: `Figure.savefig` would draw everything twice."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(SETTINGS):
        FigureCanvasAgg(paint(chart)).print_png(buffer)
    return buffer.getvalue()


def label(text: str) -> str:
    """Text for a legend: one short line without a leading underscore, which would hide the entry."""
    clean = "".join(char if char.isprintable() else "?" for char in text)[-MAX_LABEL:]
    return f" {clean}" if clean.startswith("_") else clean


def smoothed(values: FloatArray) -> FloatArray:
    """Centred running mean of an odd number near a twentieth of the values, fewer at the ends; none up to 30 values."""
    width = 1 if len(values) <= 30 else 2 * (len(values) // 40) + 1
    return pd.Series(values).rolling(width, center=True, min_periods=1).mean().to_numpy()


def label_powers(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_locator(NullLocator())


def paint(chart: Chart) -> Figure:
    """The chart as a figure, which grows by its legend."""
    num = len(chart.plots)
    drawn = Figure(figsize=(WIDTH_IN, 1.8 + 1.7 * num if chart.kind == "lines" else 4.1))
    axes = drawn.subplots(num, 1, sharex=True, squeeze=False)[:, 0]
    draw = {"lines": _lines, "points": _points, "stack": _stack}[chart.kind]
    for each, plot in zip(axes, chart.plots, strict=True):
        draw(each, plot)
        each.set_ylabel(plot.y_label)
        each.set_title(plot.heading, loc="left")
        if plot.y_label.startswith("share"):
            each.set_ylim(-0.03, 1.03)
        elif plot.y_label == "perplexity":
            each.set_yscale("log")
            label_powers(each.yaxis)
    if chart.level is not None:
        text = f"target {chart.level:.4g}" if chart.level else None
        axes[0].axhline(chart.level, color="#000000", linestyle=(0, (1, 2)), linewidth=1.0, label=text)
    axes[-1].set_xlabel(chart.x_label)
    if chart.kind == "points":
        axes[-1].set_xscale("log")
        label_powers(axes[-1].xaxis)
    else:  # whole numbers, as 12,000 rather than 1.2e4
        axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes[-1].xaxis.set_major_formatter("{x:,.0f}")
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:  # below the whole figure, in as many columns as fit
        longest = max(map(len, labels))
        columns = 3 if longest <= 14 else 2 if longest <= 28 else 1
        drawn.set_figheight(drawn.get_figheight() + LEGEND_LINE_IN * (-(-len(labels) // columns) - 1))
        drawn.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))
    return drawn


def _lines(axes: Axes, plot: Plot) -> None:
    """Each line's running mean over its faint values, and over a band from its lowest to its highest run."""
    for look, text, found in plot.lines:
        _, color, dashes, marker = LOOKS[look % NUM_LOOKS]
        x, mean, low, high = (found[name].to_numpy(float) for name in ("x", "mean", "low", "high"))
        if (high > low).any():
            axes.fill_between(x, smoothed(low), smoothed(high), color=color, alpha=0.15)
        if len(x) >= 40:
            axes.plot(x, mean, color=color, linewidth=0.6, alpha=0.3)
        every = max(1, len(x) // 10)
        axes.plot(
            x, smoothed(mean), color=color, linestyle=(0, dashes or None), marker=marker, markersize=4,
            markevery=(look % every, every), linewidth=1.5, label=label(text),
        )  # fmt: skip


def _points(axes: Axes, plot: Plot) -> None:
    for _, text, found in plot.lines:
        axes.scatter(found["x"], found["mean"], s=12, color="#777777", alpha=0.6, linewidth=0, label=text)


def _stack(axes: Axes, plot: Plot) -> None:
    """Bars whose parts are the lines' values, in order."""
    bottom: FloatArray | float = 0.0
    for look, text, found in plot.lines:
        x, top = found["x"].to_numpy(float), bottom + found["mean"].to_numpy(float)
        half = (x[1] - x[0] if len(x) > 1 else 1.0) / 2
        axes.stairs(
            top, np.append(x - half, x[-1] + half), baseline=bottom, fill=True, label=text, linewidth=0.4,
            facecolor=colormaps["tab20"](look % 20), hatch=HATCHES[look % len(HATCHES)], edgecolor="#444444",
        )  # fmt: skip
        bottom = top
    axes.grid(axis="x", visible=False)


def numbers_of(chart: Chart) -> dict[str, Any]:
    """The chart for `page.js`: values of five digits, None for unknown ones; `low` and `high` where runs differ."""

    def column(values: pd.Series) -> list[float | None]:
        return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.to_numpy(float)]

    plots = []
    for plot in chart.plots:
        lines = []
        for look, text, found in plot.lines:
            band = ("low", "high") if "low" in found and (found["high"] > found["low"]).any() else ()
            values = {name: column(found[name]) for name in ("x", "mean", *band)}
            lines.append({"look": look % NUM_LOOKS, "text": label(text), **values})
        plots.append({"y": plot.y_label, "heading": label(plot.heading), "lines": lines})
    return {"kind": chart.kind, "x": chart.x_label, "level": chart.level, "plots": plots}
