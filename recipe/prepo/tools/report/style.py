"""The look of all pictures: phone width, lines told apart by dashes and markers as well as by colour.

matplotlib is used through its object interface: no window, no global state.
"""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from itertools import cycle

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recipe.prepo.types import FloatArray

WIDTH_IN, LEGEND_LINE_IN, MAX_LABEL, NUM_LOOKS = 5.2, 0.2, 42, 24
# Okabe and Ito's colours, ordered so that neighbours differ in lightness too.
COLORS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#8C6D00", "#56B4E9", "#666666", "#7A0019")
DASHES = ("-", "--", "-.", ":", (0, (6, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (9, 3)))
LOOKS = list(zip(range(NUM_LOOKS), cycle(COLORS), cycle(DASHES), cycle("osD^vPX*<>ph8"), strict=False))
SETTINGS = {
    "figure.dpi": 150, "font.size": 10, "axes.titlesize": 10, "axes.grid": True, "grid.color": "#dddddd",
    "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False, "legend.fontsize": 9,
    "legend.frameon": False, "figure.constrained_layout.use": True, "hatch.linewidth": 0.6,
    "text.parse_math": False,  # `$` in a run's name is text, not a formula
}  # fmt: skip


def look() -> AbstractContextManager[None]:
    """Settings for all figures."""
    return matplotlib.rc_context(SETTINGS)


def figure(rows: int = 1, height_in: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` axes, one above the other, that share the x-axis."""
    drawn = Figure(figsize=(WIDTH_IN, height_in))
    return drawn, list(drawn.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])


def to_png(drawn: Figure) -> bytes:
    """The picture's bytes, through the canvas: `Figure.savefig` would draw everything twice."""
    buffer = io.BytesIO()
    FigureCanvasAgg(drawn).print_png(buffer)
    return buffer.getvalue()


def label(text: str) -> str:
    """Text for a legend: one short line without a leading underscore, which would hide the entry."""
    clean = "".join(char if char.isprintable() else "?" for char in text)[-MAX_LABEL:]
    return f" {clean}" if clean.startswith("_") else clean


def smoothing_width(num_points: int) -> int:
    """1 (none) up to 30 points, then an odd number near a twentieth of them."""
    return 1 if num_points <= 30 else 2 * (num_points // 40) + 1


def smoothed(values: FloatArray) -> FloatArray:
    """Centred running mean, over fewer neighbours at the ends."""
    return pd.Series(values).rolling(smoothing_width(len(values)), center=True, min_periods=1).mean().to_numpy()


def line(axes: Axes, x: FloatArray, y: FloatArray, index: int, text: str, *, smooth: bool = False) -> None:
    """Draw one line in look number `index`; with `smooth`, the running mean over the faint raw line."""
    _, color, dashes, marker = LOOKS[index % NUM_LOOKS]
    if smooth and smoothing_width(len(x)) > 1:
        axes.plot(x, y, color=color, linewidth=0.6, alpha=0.3)
        y = smoothed(y)
    every = max(1, len(x) // 10)
    axes.plot(
        x, y, color=color, linestyle=dashes, marker=marker, markersize=4, markevery=(index % every, every),
        linewidth=1.5, label=label(text),
    )  # fmt: skip


def spread(axes: Axes, found: pd.DataFrame, index: int, text: str) -> None:
    """Draw a method's `compare.curve`: its mean, over a band from its lowest to its highest run."""
    x, mean, low, high = (found[name].to_numpy(float) for name in ("x", "mean", "low", "high"))
    if found["num_runs"].max() > 1:
        axes.fill_between(x, smoothed(low), smoothed(high), color=LOOKS[index % NUM_LOOKS][1], alpha=0.15)
    line(axes, x, mean, index, text, smooth=True)


def legend(drawn: Figure, axes: Axes) -> None:
    """The entries of `axes` below the whole figure, which grows by them, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        longest = max(map(len, labels))
        columns = 3 if longest <= 14 else 2 if longest <= 28 else 1
        drawn.set_figheight(drawn.get_figheight() + LEGEND_LINE_IN * (-(-len(labels) // columns) - 1))
        drawn.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


def plain_numbers(axes: Axes) -> None:
    """Whole numbers on the x-axis, as 12,000 rather than 1.2e4."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
