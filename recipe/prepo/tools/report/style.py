"""The look of all pictures: phone width, lines told apart by dashes and markers as well as by colour.

matplotlib is imported inside functions, and used through its object interface: no window, no global state.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from recipe.prepo.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_IN, LEGEND_LINE_IN, DPI, MAX_LABEL = 5.2, 0.2, 150, 42
# Okabe and Ito's colours, ordered so that neighbours differ in lightness too, and sixteen more.
COLORS = (
    "#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#8C6D00", "#56B4E9", "#666666", "#7A0019", "#4B3F9E",
    "#8F8F00", "#00A3A3", "#C2185B", "#F0A500", "#1B5E20", "#A0522D", "#1F3A93", "#FF6F91", "#4E8A00", "#7B1FE0",
    "#A30000", "#00609C", "#9E7B9B", "#2E8B57",
)  # fmt: skip
LineStyle = str | tuple[int, tuple[int, ...]]
DASHES: tuple[LineStyle, ...] = ("-", "--", "-.", ":", (0, (6, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (9, 3)))
LOOKS: tuple[tuple[str, LineStyle, str], ...] = tuple(zip(COLORS, cycle(DASHES), cycle("osD^vPX*<>ph8"), strict=False))
LOG_SCALE_FROM = 8.0


SETTINGS = {
    "font.size": 10, "axes.titlesize": 10, "axes.grid": True, "grid.color": "#dddddd", "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "legend.fontsize": 9, "legend.frameon": False,
    "text.parse_math": False,  # `$` in a run's name is text, not a formula
    "figure.constrained_layout.use": True, "hatch.linewidth": 0.6,
}  # fmt: skip


@contextmanager
def look() -> Iterator[None]:
    """Settings for all figures."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        yield


def figure(rows: int = 1, height_in: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` axes, one above the other, that share the x-axis."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI)
    return drawn, list(drawn.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])


def to_png(drawn: Figure) -> bytes:
    """The picture's bytes, through the canvas: `Figure.savefig` would draw everything twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(drawn).print_png(buffer)
    return buffer.getvalue()


def label(text: str) -> str:
    """Text for a legend: one short line without a leading underscore, which would hide the entry."""
    clean = "".join(char if char.isprintable() else "?" for char in text)
    clean = clean if len(clean) <= MAX_LABEL else f"…{clean[1 - MAX_LABEL :]}"
    return f" {clean}" if clean.startswith("_") else clean


def smoothing_width(num_points: int) -> int:
    """1 (none) up to 30 points, then an odd number near a twentieth of them."""
    return 1 if num_points <= 30 else 2 * (num_points // 40) + 1


def smoothed(values: FloatArray, width: int) -> FloatArray:
    """Centred mean over `width` neighbours, over fewer at the ends."""
    return pd.Series(values).rolling(width, center=True, min_periods=1).mean().to_numpy()


def line(axes: Axes, x: FloatArray, y: FloatArray, index: int, text: str, *, smooth: bool = False) -> int:
    """Draw one line in look number `index`; with `smooth`, the running mean over the faint raw line.

    Returns:
        The width of the running mean, 1 for none.
    """
    color, dashes, marker = LOOKS[index % len(LOOKS)]
    width = smoothing_width(len(x)) if smooth else 1
    if width > 1:
        axes.plot(x, y, color=color, linewidth=0.6, alpha=0.3)
        y = smoothed(y, width)
    every = max(1, len(x) // 10)
    axes.plot(
        x, y, color=color, linestyle=dashes, marker=marker, markersize=4, markevery=(index % every, every),
        linewidth=1.5, label=label(text),
    )  # fmt: skip
    return width


def spread(axes: Axes, found: pd.DataFrame, index: int, text: str) -> int:
    """`line` for the mean of a method, over a band from its lowest to its highest run, smoothed alike.

    Args:
        found: columns x, mean, low, high and num_runs, as `compare.curve` returns them.
    """
    x, mean, low, high = (found[name].to_numpy(float) for name in ("x", "mean", "low", "high"))
    if found["num_runs"].max() > 1:
        color, dashes, _ = LOOKS[index % len(LOOKS)]
        if len(x) == 1:
            axes.vlines(x, low, high, color=color, linewidth=1.0)
        low, high = (smoothed(ends, smoothing_width(len(x))) for ends in (low, high))
        axes.fill_between(x, low, high, color=color, alpha=0.13, linewidth=0)
        for ends in (low, high):
            axes.plot(x, ends, color=color, linestyle=dashes, linewidth=0.5, alpha=0.8)
    return line(axes, x, mean, index, text, smooth=True)


def legend(drawn: Figure, axes: Axes) -> None:
    """The entries of `axes` below the whole figure, which grows by them, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        longest = max(map(len, labels))
        columns = 3 if longest <= 14 else 2 if longest <= 28 else 1
        lines = -(-len(labels) // columns)
        drawn.set_figheight(drawn.get_figheight() + LEGEND_LINE_IN * (lines - 1))
        drawn.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


def plain_numbers(axes: Axes) -> None:
    """Whole numbers on the x-axis, as 12,000 rather than 1.2e4; a single step stands in the middle."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    low, high = axes.get_xlim()
    if high - low < 2:
        middle = round((low + high) / 2)
        axes.set_xlim(min(low, middle - 1), max(high, middle + 1))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def log_scale(axes: Axes, which: str, values: FloatArray) -> None:
    """A logarithmic x- or y-axis when the values differ by a large factor, labelled in plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    if np.max(values) < LOG_SCALE_FROM * np.min(values):
        return
    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
