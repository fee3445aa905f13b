"""The short table and the two pictures that docs/results and the README show."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.mini_math import oracle
from benchmarks.mini_math.figures import draw_methods
from benchmarks.mini_math.methods import METHODS, read_method
from benchmarks.mini_math.numbers import MID_LEVELS, REFERENCE, Budget, Estimate, by_method, reach_target, read_curves
from benchmarks.mini_math.summary import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTINGS = ("early", "mid", "late")
CURVES = (REFERENCE, "prepo", "greso", "e3", "uniform_skip", "mopps_ppl")
BARS = {"greso": "#b8b8b8", "prepo": "#0072b2", "uniform_skip": "#009e73", "mopps_ppl": "#d55e00"}
SCORING = "6%"
"""Time of scoring, of a step without it: docs/results/costs.md."""


def main_settings(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons of SETTINGS that have a reference; all of them where there is none of these."""
    found = [comparison for comparison in comparisons if REFERENCE in comparison.methods]
    return [comparison for comparison in found if comparison.name in SETTINGS] or found


def overview(comparisons: Sequence[Comparison]) -> str:
    """Markdown: a method a line, a number a cell. Variants of a method are left out."""
    shown = main_settings(comparisons)
    heads = ["method", *(f"`{each.name}`" for each in shown), "final accuracy", "scoring"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for method in METHODS:
        runs = [comparison.methods.get(method) for comparison in shown]
        if not all(runs) or (method != METHODS[method].method and method != oracle.NAME):
            continue
        cells, finals = [], []
        for comparison in shown:
            curves = read_curves(comparison.results)
            mine, budget = curves[method], Budget.of(curves[REFERENCE])
            cells.append("1" if method == REFERENCE else _ratio(saved(comparison, method)))
            finals.append(np.mean([budget.accuracy(place, mine) for place in range(len(mine.seeds))]))
        scores = read_method(method, num_selected=16, rollouts_per_prompt=8, seed=0).prepo.score_prompts
        cost = "n/a" if method == oracle.NAME else SCORING if scores else "0"
        cells += [f"{np.mean(finals):.3f}", cost]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def saved(comparison: Comparison, method: str) -> Estimate | None:
    """Times fewer rollouts to three quarters of the reference's way."""
    curves = read_curves(comparison.results)
    return reach_target(curves[method], curves[REFERENCE], MID_LEVELS[-1]).ratio


def _ratio(found: Estimate | None) -> str:
    """Bold where the interval excludes 1."""
    if found is None or found.value == 0.0:
        return "never"
    is_separated = found.bounds is not None and not found.bounds[0] <= 1.0 <= found.bounds[1]
    return f"**{found.value:.2f}**" if is_separated else f"{found.value:.2f}"


def draw_curves(comparisons: Sequence[Comparison]) -> bytes:
    """Held-out accuracy by rollouts: a panel for each main setting, means over seeds."""
    from matplotlib.figure import Figure

    shown = main_settings(comparisons)
    found = by_method([run for comparison in shown for run in comparison.results])
    names = [method for method in CURVES if method in found]
    drawn = Figure(figsize=(8.6, 3.1), dpi=130, layout="constrained")
    panels = np.atleast_1d(drawn.subplots(1, max(1, len(shown))))
    for axes, comparison in zip(panels, shown, strict=False):
        methods = {name: comparison.methods[name] for name in names if name in comparison.methods}
        draw_methods(axes, methods, names, "rollouts", "accuracy", with_range=())
        start = comparison.results[0]["curve"][0]
        axes.set_title(f"{comparison.name}: {1 - start['zero_advantage_frac']:.0%} of groups live", fontsize=10)
        axes.set_xlabel("rollouts", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
        axes.grid(color="#e4e4e4")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("held-out accuracy", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return to_png(drawn)


def draw_savings(comparisons: Sequence[Comparison]) -> bytes:
    """How many times fewer rollouts than the reference some methods need, with 95% intervals."""
    from matplotlib.figure import Figure

    shown = main_settings(comparisons)
    drawn = Figure(figsize=(6.4, 2.7), dpi=130, layout="constrained")
    axes = drawn.subplots()
    width = 0.8 / len(BARS)
    for index, (method, colour) in enumerate(BARS.items()):
        for place, comparison in enumerate(shown):
            found = saved(comparison, method) if method in comparison.methods else None
            if found is None:
                continue
            at = place + (index - (len(BARS) - 1) / 2) * width
            axes.bar(at, found.value, 0.9 * width, color=colour, label=method if place == 0 else "")
            if found.bounds is not None:
                axes.plot([at, at], found.bounds, color="#333333", linewidth=1)
            axes.text(at, 0.06, f"{found.value:.1f}", ha="center", color="white" if index else "black", fontsize=8)
    axes.axhline(1.0, color="black", linewidth=1, linestyle=":")
    axes.text(-0.48, 1.05, REFERENCE, fontsize=8)
    live = [1 - comparison.results[0]["curve"][0]["zero_advantage_frac"] for comparison in shown]
    axes.set_xticks(
        range(len(shown)), [f"{each.name}\n{share:.0%} live" for each, share in zip(shown, live, strict=True)]
    )
    axes.set_ylabel("times fewer rollouts", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper left")
    return to_png(drawn)


def to_png(drawn: Figure) -> bytes:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
