"""How the pictures look: sized for a phone, told apart by line style and marker as well as by grey level.

matplotlib is imported inside functions only, and through its object interface: no window, no global figure list.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recipe.prepo.tools.report.load import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from recipe.prepo.tools.report.rows import Curve

WIDTH_IN, LEGEND_LINE_IN, DPI, MAX_LABEL = 5.2, 0.2, 150, 42
# Okabe and Ito's colours, ordered so that neighbours differ in lightness too, and fourteen more: one for each row.
LineStyle = str | tuple[int, tuple[int, ...]]
LOOKS: tuple[tuple[str, LineStyle, str], ...] = (
    ("#000000", "-", "o"),
    ("#D55E00", "--", "s"),
    ("#0072B2", "-.", "^"),
    ("#009E73", ":", "D"),
    ("#CC79A7", "-", "v"),
    ("#8C6D00", "--", "P"),
    ("#56B4E9", "-.", "X"),
    ("#666666", ":", "*"),
    ("#7A0019", (0, (6, 1)), "<"),
    ("#4B3F9E", (0, (3, 1, 1, 1, 1, 1)), ">"),
    ("#8F8F00", (0, (1, 3)), "p"),
    ("#00A3A3", (0, (9, 3)), "h"),
    ("#C2185B", "-", "d"),
    ("#F0A500", "--", "8"),
    ("#1B5E20", "-.", "H"),
    ("#A0522D", ":", "X"),
    ("#1F3A93", (0, (6, 1)), "s"),
    ("#FF6F91", (0, (3, 1, 1, 1, 1, 1)), "o"),
    ("#4E8A00", (0, (1, 3)), "v"),
    ("#7B1FE0", (0, (9, 3)), "^"),
    ("#A30000", "-", "D"),
    ("#00609C", "--", "*"),
    ("#9E7B9B", "-.", "P"),
    ("#2E8B57", (0, (6, 1)), "X"),
)


@dataclass(frozen=True)
class Drawing:
    """One figure of the page; `png` is None where the run lacks what it shows, and `caption` says what."""

    name: str
    title: str
    caption: str
    png: bytes | None = None


@contextmanager
def look() -> Iterator[None]:
    """Settings for all figures; `$` in a run's names is text, not a formula."""
    import matplotlib

    with matplotlib.rc_context(
        {
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.grid": True,
            "grid.color": "#dddddd",
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.fontsize": 9,
            "legend.frameon": False,
            "text.parse_math": False,
            "figure.constrained_layout.use": True,
            "hatch.linewidth": 0.6,
        }
    ):
        yield


def figure(rows: int = 1, height_in: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` axes with one x-axis, one above the other."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI)
    axes = drawn.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    return drawn, list(axes)


def to_png(drawn: Figure) -> bytes:
    """The picture's bytes; through the canvas, because `Figure.savefig` would draw everything twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(drawn).print_png(buffer)
    return buffer.getvalue()


def label(text: str) -> str:
    """Text fit for a legend: one line, not too long, no leading underscore (which would hide the entry)."""
    clean = "".join(char if char.isprintable() else "?" for char in text)
    clean = clean if len(clean) <= MAX_LABEL else f"…{clean[1 - MAX_LABEL :]}"
    return f" {clean}" if clean.startswith("_") else clean


def running_mean(values: FloatArray, width: int) -> FloatArray:
    """Centred mean over `width` (odd) neighbours, over fewer at the ends.

    >>> running_mean(np.array([0.0, 3.0, 6.0]), 3).tolist()
    [1.5, 3.0, 4.5]
    """
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def smoothing_width(num_points: int) -> int:
    """1 (none) up to 30 points, then an odd number near a twentieth of them."""
    return 1 if num_points <= 30 else 2 * (num_points // 40) + 1


def line(axes: Axes, x: FloatArray, y: FloatArray, index: int, text: str, *, smooth: bool = False) -> int:
    """Draws one line in look number `index`; with `smooth`, the running mean over the faint raw line.

    Returns:
        The width of the running mean, 1 for none.
    """
    color, style, marker = LOOKS[index % len(LOOKS)]
    width = smoothing_width(len(x)) if smooth else 1
    every = max(1, len(x) // 10)
    if width > 1:
        axes.plot(x, y, color=color, linewidth=0.6, alpha=0.3)
    axes.plot(
        x,
        running_mean(y, width) if width > 1 else y,
        color=color,
        linestyle=style,
        marker=marker,
        markersize=4,
        markevery=(index % every, every),
        linewidth=1.5,
        label=label(text),
    )
    return width


def spread(axes: Axes, found: Curve, index: int, text: str, *, smooth: bool = False) -> int:
    """`line` for the mean of a row, over the range of its runs: a light band with thin edges in the line's style.

    Returns:
        The width of the running mean, 1 for none; the edges are smoothed like the line.
    """
    width = smoothing_width(len(found.x)) if smooth else 1
    if found.num_runs > 1:
        color, style, _ = LOOKS[index % len(LOOKS)]
        low, high = (running_mean(ends, width) if width > 1 else ends for ends in (found.low, found.high))
        axes.fill_between(found.x, low, high, color=color, alpha=0.13, linewidth=0)
        for ends in (low, high):
            axes.plot(found.x, ends, color=color, linestyle=style, linewidth=0.5, alpha=0.8)
        if len(found.x) == 1:
            axes.vlines(found.x, found.low, found.high, color=color, linewidth=1.0)
    return line(axes, found.x, found.mean, index, text, smooth=smooth)


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
