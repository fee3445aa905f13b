"""One text and one picture about several comparisons: what the rows save in each setting, and what could be saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.mini_math import oracle, provenance
from benchmarks.mini_math.figures import curve_columns
from benchmarks.mini_math.numbers import (
    REFERENCE,
    Curves,
    Estimate,
    accuracy_at,
    area,
    final_accuracy,
    group_shares,
    mean_difference,
    paired_difference,
    reach_target,
    read_curves,
)
from benchmarks.mini_math.options import Options
from benchmarks.mini_math.report import INTERVALS, estimate_text
from benchmarks.mini_math.rows import read_row
from recipe.prepo.report.style import LOOKS, figure, legend, line, look, plain_numbers, to_png

SHARES = (0.5, 0.75)
"""Targets of the summary, as shares of uniform's way."""


@dataclass(frozen=True)
class Comparison:
    """The finished runs of one setting."""

    options: Options
    results: Sequence[Mapping[str, Any]]

    @property
    def rows(self) -> dict[str, list[Mapping[str, Any]]]:
        found: dict[str, list[Mapping[str, Any]]] = {}
        for result in self.results:
            found.setdefault(result["row"], []).append(result)
        return found


def render(comparisons: Sequence[Comparison]) -> str:
    """Markdown: where it was measured, and a table for each setting."""
    results = [result for comparison in comparisons for result in comparison.results]
    lines = [
        "# What the methods save in miniature",
        "",
        f"`python -m benchmarks.mini_math.full`; {provenance.text(results)}.",
        "",
        f"Differences and ratios are to `{REFERENCE}` over the same seeds. {INTERVALS} Rollouts, tokens and "
        "shares count "
        "the groups that were thrown away.",
        "",
        "- **At equal rollouts**: where the row has used as many as "
        f"`{REFERENCE}` in all. **Area**: mean accuracy from 0 to that number of rollouts.",
        f"- **Faster to half**: rollouts that `{REFERENCE}` needs for half of its way from its first to its final "
        "accuracy, over those of the row; above 1 the row saves rollouts. A row that never gets there counts as 0.",
    ]
    for comparison in comparisons:
        lines += ["", *_section(comparison)]
    return "\n".join(lines) + "\n"


def _section(comparison: Comparison) -> list[str]:
    options, rows = comparison.options, comparison.rows
    start = comparison.results[0]["curve"][0]
    lines = [
        f"## Setting `{options.setting}`: {1 - start['zero_advantage_frac']:.2f} of the groups live at the start",
        "",
        f"Task {options.task}, model {options.model}; {start['all_correct_frac']:.2f} of the groups are all "
        f"right and {start['all_wrong_frac']:.2f} all wrong, at the start. "
        f"{options.steps} steps, K = {options.num_selected}, "
        f"M = {options.rollouts_per_prompt}, pool of {options.pool} prompts, learning rate {options.learning_rate:g}, "
        f"{options.held_out:,} held-out problems.",
    ]
    if REFERENCE not in rows:
        return [*lines, "", f"Without runs of the row `{REFERENCE}` there is nothing to compare with."]
    limit = 1 / (1 - np.mean([_zero_advantage(run) for run in rows[REFERENCE]]))
    ratio = read_row(REFERENCE, num_selected=options.num_selected, rollouts_per_prompt=2, seed=0).prepo
    most = ratio.num_candidates / ratio.num_selected
    lines += [
        "",
        f"**What could be saved: {min(limit, most):.2f}** times, if every group of `{REFERENCE}` without an advantage "
        f"were saved and all others were worth the same (at most {most:g}, the candidates of each chosen prompt).",
        "",
        "| row | seeds | rollouts | accuracy at its end | difference at equal rollouts | difference of the area | "
        "faster to half | faster to three quarters | the same by response tokens | zero advantage | difference | "
        "probe entropy at the end (nats) | difference |",
        "|---" * 13 + "|",
    ]
    curves, by_tokens = read_curves(comparison.results), read_curves(comparison.results, cost="tokens")
    reference = curves[REFERENCE]
    ends = reference.rollouts_SE.mean(0)
    until, evaluation_rollouts = float(ends[-1]), float(ends[-1] - ends[-2])

    def equal_of(place: int, of: Curves) -> float:
        return accuracy_at(until, of.rollouts_SE[place], of.accuracy_SE[place], evaluation_rollouts=evaluation_rollouts)

    def area_of(place: int, of: Curves) -> float:
        return area(of.rollouts_SE[place], of.accuracy_SE[place], until=until)

    targets = [reach_target(reference, reference, share) for share in SHARES]
    rises = targets[0].level > float(reference.accuracy_SE[:, 0].mean())
    for row, runs in rows.items():
        mine = curves[row]

        def cell(found: Estimate | None, spec: str) -> str:
            return estimate_text(found, spec).replace(f" (n={len(mine.seeds)})", "")  # noqa: B023

        final = [final_accuracy(accuracy_E) for accuracy_E in mine.accuracy_SE]
        cells = [
            f"`{row}`",
            ", ".join(map(str, mine.seeds)),
            f"{mine.rollouts_SE[:, -1].mean():,.0f}",
            f"{np.mean(final):.3f}" + (f" ± {np.std(final, ddof=1):.3f}" if len(final) > 1 else ""),
        ]
        if row == REFERENCE:
            cells += ["", "", "1", "1", "1"]
        else:
            cells += [cell(paired_difference(mine, reference, statistic), "+.3f") for statistic in (equal_of, area_of)]
            cells += [
                cell(reach_target(mine, reference, share).ratio, ".2f") if rises else "no target" for share in SHARES
            ]
            by_token = reach_target(by_tokens[row], by_tokens[REFERENCE], SHARES[-1]).ratio
            cells.append(cell(by_token, ".2f") if rises else "no target")
        for value in (_zero_advantage, _last_entropy_nats):
            cells.append(f"{np.mean([value(run) for run in runs]):.3f}")
            cells.append("" if row == REFERENCE else cell(_paired(runs, rows[REFERENCE], value), "+.3f"))
        lines.append(f"| {' | '.join(cells)} |")
    if oracle.NAME in rows:
        lines += [
            "",
            f"`{oracle.NAME}` picks the largest p(1 - p) by pass rates that {options.oracle_samples} uncounted "
            "samples of "
            "each candidate measure: a reference, not a method, and no strict bound.",
        ]
    return lines


def draw(comparisons: Sequence[Comparison]) -> bytes:
    """Held-out accuracy by rollouts, one panel a setting: means over seeds, and the range of the seeds behind them."""
    names = list(dict.fromkeys(result["row"] for comparison in comparisons for result in comparison.results))
    with look():
        drawn, panels = figure(rows=len(comparisons), height_in=1.2 + 2.4 * len(comparisons))
        for axes, comparison in zip(panels, comparisons, strict=True):
            for row, runs in comparison.rows.items():
                index = names.index(row)
                curves = [run["curve"] for run in runs]
                x, y = curve_columns(curves, "rollouts"), curve_columns(curves, "accuracy")
                line(axes, x.mean(0), y.mean(0), index, row)
                if len(curves) > 1:
                    colour = LOOKS[index % len(LOOKS)][0]
                    axes.fill_between(x.mean(0), y.min(0), y.max(0), color=colour, alpha=0.1, linewidth=0)
            axes.set_title(f"setting {comparison.options.setting}")
            axes.set_ylabel("held-out accuracy")
            plain_numbers(axes)
        panels[-1].set_xlabel("rollouts, thrown-away ones included")
        legend(drawn, max(panels, key=lambda axes: len(axes.lines)))
        return to_png(drawn)


def _zero_advantage(run: Mapping[str, Any]) -> float:
    return group_shares(run)["zero_advantage_frac"]


def _last_entropy_nats(run: Mapping[str, Any]) -> float:
    return float(run["curve"][-1]["entropy_nats"])


def _paired(
    mine: Sequence[Mapping[str, Any]],
    reference: Sequence[Mapping[str, Any]],
    value: Callable[[Mapping[str, Any]], float],
) -> Estimate | None:
    """Mean difference of a figure of the runs over common seeds; None where there are none."""
    theirs = {run["seed"]: value(run) for run in reference}
    differences = np.array([value(run) - theirs[run["seed"]] for run in mine if run["seed"] in theirs])
    if not differences.size:
        return None
    return mean_difference(differences)
