"""One text and one picture about several comparisons: what the rows save in each setting, and what could be saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.mini_math import oracle, provenance
from benchmarks.mini_math.figures import draw_estimates, draw_rows
from benchmarks.mini_math.numbers import (
    MID_LEVELS,
    REFERENCE,
    Budget,
    Estimate,
    by_row,
    entropy_at,
    entropy_kept,
    group_shares,
    mean_difference,
    paired,
    paired_difference,
    reach_target,
    read_curves,
)
from benchmarks.mini_math.options import Options
from benchmarks.mini_math.report import INTERVALS, estimate_text, spread_text
from benchmarks.mini_math.rows import MEANINGS, read_row
from recipe.prepo.tools.report.style import figure, legend, line, look, plain_numbers, to_png

# A row, and the one that it adds something to: GRESO skips prompts of a dynamic sampling, E3 sizes groups and holds the
# entropy, PREPO weighs rollouts; skipping goes before PREPO, and PREPO (schedule and weights) behind the skipping;
# MoPPS knows more of a prompt than whether to skip it, perplexities tell of prompts not seen yet, and the oracle all.
PAIRS = (
    ("greso", "dapo"),
    ("dapo", "grpo"),
    ("e3", "grpo"),
    ("prepo", "schedule"),
    ("prepo_e3", "prepo"),
    ("prepo_e3_target", "prepo"),
    ("prepo_budget", "prepo"),
    ("prepo_skip", "prepo"),
    ("prepo_skip", "uniform_skip"),
    ("prepo_skip", "prepo_skip50"),
    ("uniform_skip", "uniform_skip50"),
    ("mopps", "uniform_skip"),
    ("mopps_ppl", "mopps"),
    ("mopps_ppl", "uniform_skip"),
    ("mopps_ppl", "prepo"),
    ("oracle", "prepo"),
    ("oracle", "mopps_ppl"),
)

# The rows of the picture of curves, where more would hide one another; the picture of differences has all.
DRAWN = (REFERENCE, "prepo", "low", "greso", "e3", "uniform_skip", "mopps_ppl", "oracle")
# Differences beyond it stand at the edge of the picture, in numbers.
DRAWN_DIFFERENCE = 0.16


@dataclass(frozen=True)
class Comparison:
    """The finished runs of one setting; ``name`` tells it from the same one with another model or task."""

    name: str
    options: Options
    results: Sequence[Mapping[str, Any]]

    @property
    def rows(self) -> dict[str, list[Mapping[str, Any]]]:
        return by_row(self.results)


def render(comparisons: Sequence[Comparison]) -> str:
    """Markdown: where it was measured, and a table for each setting."""
    results = [result for comparison in comparisons for result in comparison.results]
    lines = [
        "# What the methods save in miniature",
        "",
        f"`python -m benchmarks.mini_math.full`; {provenance.text(results)}.",
        "",
        f"Differences and ratios are to `{REFERENCE}` over the same seeds. {INTERVALS} Rollouts, tokens and "
        "shares count the groups that were thrown away.",
        "",
        f"Everything is at equal rollouts: where the row has used as many as `{REFERENCE}` in all. **Area**: mean "
        "accuracy from 0 to that number.",
        "",
        f"**Faster to a quarter, half, three quarters**: rollouts that `{REFERENCE}` needs for so much of its way from "
        "its first to its final accuracy, over those of the row; above 1 the row saves rollouts. A row that never gets "
        "there counts as 0. **By tokens**: the same in response tokens, to three quarters.",
        "",
        *(f"- `{row}`: {MEANINGS[row]}" for row in by_row(results)),
    ]
    for comparison in comparisons:
        lines += ["", *_section(comparison)]
    return "\n".join(lines) + "\n"


def _section(comparison: Comparison) -> list[str]:
    options, rows = comparison.options, comparison.rows
    start = comparison.results[0]["curve"][0]
    lines = [
        f"## Setting `{comparison.name}`: {1 - start['zero_advantage_frac']:.2f} of the groups live at the start",
        "",
        f"Task {options.task}, model {options.model}; {start['all_correct_frac']:.2f} of the groups are all "
        f"right and {start['all_wrong_frac']:.2f} all wrong, at the start. "
        f"{options.steps} steps, K = {options.num_selected}, "
        f"M = {options.rollouts_per_prompt}, pool of {options.pool} prompts, learning rate {options.learning_rate:g}, "
        f"{options.held_out:,} held-out problems ({options.split} split).",
    ]
    if REFERENCE not in rows:
        return [*lines, "", f"Without runs of the row `{REFERENCE}` there is nothing to compare with."]
    limit = 1 / (1 - np.mean([group_shares(run)["zero_advantage_frac"] for run in rows[REFERENCE]]))
    ratio = read_row(
        REFERENCE, num_selected=options.num_selected, rollouts_per_prompt=options.rollouts_per_prompt, seed=0
    ).prepo
    most = ratio.num_candidates / ratio.num_selected
    lines += [
        "",
        f"**What could be saved: {min(limit, most):.2f}** times, if every group of `{REFERENCE}` without an advantage "
        f"were saved and all others were worth the same (at most {most:g}, the candidates of each chosen prompt).",
        "",
        "| row | seeds | accuracy | difference | difference of the area | faster to a quarter | to half | to three "
        "quarters | by tokens | zero advantage | difference | probe entropy (nats) | difference | all right, all wrong "
        "| CPU-s, with evaluations |",
        "|---" * 15 + "|",
    ]
    curves, by_tokens = read_curves(comparison.results), read_curves(comparison.results, cost="tokens")
    reference = curves[REFERENCE]
    budget = Budget.of(reference)
    targets = [reach_target(reference, reference, share) for share in MID_LEVELS]
    rises = targets[0].level > float(reference.accuracy_SE[:, 0].mean())

    def zero_advantage(run: Mapping[str, Any]) -> float:
        return group_shares(run, until=budget.rollouts)["zero_advantage_frac"]

    def entropy_nats(run: Mapping[str, Any]) -> float:
        return entropy_at(run, budget.rollouts)

    for row, runs in rows.items():
        mine = curves[row]

        def cell(found: Estimate | None, spec: str) -> str:
            return estimate_text(found, spec).replace(f" (n={len(mine.seeds)})", "")  # noqa: B023

        cells = [
            f"`{row}`",
            ", ".join(map(str, mine.seeds)),
            spread_text([budget.accuracy(place, mine) for place in range(len(mine.seeds))]),
        ]
        if row == REFERENCE:
            cells += ["", "", "1", "1", "1", "1"]
        else:
            cells += [
                cell(paired_difference(mine, reference, statistic), "+.3f")
                for statistic in (budget.accuracy, budget.area)
            ]
            cells += [
                cell(reach_target(mine, reference, share).ratio, ".2f") if rises else "no target"
                for share in MID_LEVELS
            ]
            by_token = reach_target(by_tokens[row], by_tokens[REFERENCE], MID_LEVELS[-1]).ratio
            cells.append(cell(by_token, ".2f") if rises else "no target")
        for value in (zero_advantage, entropy_nats):
            by_seed, of_reference = ({run["seed"]: value(run) for run in side} for side in (runs, rows[REFERENCE]))
            cells.append(f"{np.mean(list(by_seed.values())):.3f}")
            cells.append("" if row == REFERENCE else cell(paired(by_seed, of_reference), "+.3f"))
        shares = [group_shares(run, until=budget.rollouts) for run in runs]
        for keys, of_runs, spec in (
            (("all_correct_frac", "all_wrong_frac"), shares, ".2f"),
            (("seconds", "seconds_with_evaluation"), runs, ".0f"),
        ):
            cells.append(", ".join(f"{np.mean([each[key] for each in of_runs]):{spec}}" for key in keys))
        lines.append(f"| {' | '.join(cells)} |")
    lines += _pairs(rows, budget)
    lines += _temperatures(rows)
    if oracle.NAME in rows:
        lines += [
            "",
            f"`{oracle.NAME}` picks the largest p(1 - p) by pass rates that {options.oracle_samples} uncounted "
            "samples of each candidate measure: a reference, not a method, and no strict bound.",
        ]
    return lines


def _pairs(rows: Mapping[str, Sequence[Mapping[str, Any]]], budget: Budget) -> list[str]:
    """What a row adds to another one, over the seeds that both have."""
    lines = []
    for row, other in PAIRS:
        curves = [read_curves(rows.get(name, [])).get(name) for name in (row, other)]
        if curves[0] is None or curves[1] is None:
            continue
        ends = [{run["seed"]: entropy_at(run, budget.rollouts) for run in rows[name]} for name in (row, other)]
        found = [paired_difference(curves[0], curves[1], statistic) for statistic in (budget.accuracy, budget.area)]
        cells = [estimate_text(each, "+.3f") for each in [*found, paired(*ends)]]
        lines.append(f"| `{row}` minus `{other}` | {' | '.join(cells)} |")
    heads = ["", "| pair | accuracy | area | probe entropy (nats) |", "|---|---|---|---|"]
    return heads + lines if lines else []


def _temperatures(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What becomes of the rollouts' entropy with E3 (budget and temperature), and in the rows that it is added to."""
    if not {"e3", "prepo_e3", "prepo_e3_target"} & set(rows):
        return []
    lines = [
        "",
        "Mean token entropy of the rollouts that were trained on, at their own temperature: the second half of the "
        "steps over the first step. E3 holds the first step's, from 60% of the steps on less and less of it, down to "
        "0.9: held exactly, the ratio would be about 0.96; `prepo_e3_target` holds a given entropy instead. Student's "
        "95% intervals of the ratio itself.",
        "",
        "| row | entropy, second half over first step | last temperature |",
        "|---|---|---|",
    ]
    for row in ("grpo", "e3", "prepo", "prepo_e3", "prepo_e3_target"):
        if row in rows:
            kept = mean_difference([entropy_kept(run) for run in rows[row]])
            lines.append(
                f"| `{row}` | {estimate_text(kept, '.2f')} | "
                f"{spread_text([run['train']['temperature'][-1] for run in rows[row]])} |"
            )
    return lines


def draw(comparisons: Sequence[Comparison]) -> bytes:
    """Held-out accuracy by rollouts, one panel a setting: means over seeds, and the range of the seeds of two rows."""
    found = {result["row"] for comparison in comparisons for result in comparison.results}
    names = [row for row in MEANINGS if row in found and row in DRAWN] or [row for row in MEANINGS if row in found]
    with look():
        drawn, panels = figure(rows=len(comparisons), height_in=1.2 + 2.4 * len(comparisons))
        for axes, comparison in zip(panels, comparisons, strict=True):
            rows = {row: runs for row, runs in comparison.rows.items() if row in names}
            draw_rows(axes, rows, names, "rollouts", "accuracy", with_range=(REFERENCE, "prepo"))
            axes.set_title(f"setting {comparison.name}")
            axes.set_ylabel("held-out accuracy")
            plain_numbers(axes)
        panels[-1].set_xlabel("rollouts, thrown-away ones included")
        # One legend for all panels: rows that the first one lacks get an entry without a line.
        for row in names:
            if row not in comparisons[0].rows:
                line(panels[0], np.empty(0), np.empty(0), names.index(row), row)
        legend(drawn, panels[0])
        return to_png(drawn)


def draw_differences(comparisons: Sequence[Comparison]) -> bytes:
    """Every row's final accuracy and area minus the reference's, with intervals; one panel a setting."""
    with look():
        compared = [comparison for comparison in comparisons if REFERENCE in comparison.rows]
        sizes = [len(comparison.rows) for comparison in compared] or [1]
        drawn, panels = figure(rows=len(sizes), height_in=1.0 + 0.26 * sum(sizes) + 0.4 * len(sizes))
        panels[0].get_gridspec().set_height_ratios([size + 0.5 for size in sizes])
        for axes, comparison in zip(panels, compared, strict=False):
            curves = read_curves(comparison.results)
            reference = curves.pop(REFERENCE)
            budget = Budget.of(reference)
            axes.axvline(0.0, color="black", linewidth=0.8)
            for index, (name, statistic) in enumerate((("final accuracy", budget.accuracy), ("area", budget.area))):
                found = [paired_difference(mine, reference, statistic) for mine in curves.values()]
                draw_estimates(axes, found, index, name, limit=DRAWN_DIFFERENCE, offset=(index - 0.5) * 0.3)
            axes.set_yticks(range(len(curves)), list(curves))
            axes.set_ylim(len(curves) - 0.4, -0.6)
            axes.set_xlim(-1.25 * DRAWN_DIFFERENCE, 1.05 * DRAWN_DIFFERENCE)
            axes.set_title(f"setting {comparison.name}")
        panels[-1].set_xlabel(f"minus {REFERENCE}, at as many rollouts; 95% intervals")
        legend(drawn, panels[0])
        return to_png(drawn)
