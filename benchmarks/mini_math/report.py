"""The report of a comparison: DIR/table.md and the figures DIR/*.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mini_math import oracle
from benchmarks.mini_math.figures import write_figures
from benchmarks.mini_math.numbers import (
    GROUP_SHARES,
    MID_LEVELS,
    REFERENCE,
    Budget,
    Curves,
    Estimate,
    TargetResult,
    by_method,
    final_of,
    group_shares,
    paired_difference,
    reach_target,
    read_curves,
)
from benchmarks.mini_math.options import Options
from benchmarks.mini_math.runs import ORACLE_NOTE
from recipe.prepo.run.files import write_atomically

INTERVALS = (
    "Differences have Student's 95% intervals over paired seeds. Ratios of five seeds or more have 95% bootstrap "
    "intervals, which are too narrow for so few seeds (`python -m benchmarks.mini_math.coverage`). An interval that "
    "includes 0 (differences) or 1 (ratios) does not separate the two. Of so many intervals some miss by chance."
)


def write_report(results: Sequence[Mapping[str, Any]], options: Options, out: Path) -> str:
    """Write table and figures; return the table's text."""
    text = render(results, options)
    write_atomically(out / "table.md", text)
    write_figures(results, out)
    return text


def render(results: Sequence[Mapping[str, Any]], options: Options) -> str:
    """The Markdown text of the report."""
    curves = read_curves(results)
    lines = [
        f"# mini-math: task {options.task}, model {options.model}, setting {options.setting}",
        "",
        f"{options.steps} steps, K = {options.num_selected}, M = {options.rollouts_per_prompt}, pool of {options.pool} "
        f"prompts, learning rate {options.learning_rate:g}, {options.mini_batches} mini-batches a step. Accuracy is of "
        f"{options.held_out} held-out problems ({options.split} split), one sample each at temperature 1. Seeds vary "
        f"the order of the data and all sampling; base model, pool and held-out problems are the same. {INTERVALS}",
        "",
        *_costs(results),
        "",
    ]
    if REFERENCE not in curves:
        lines += [f"Without runs of `{REFERENCE}` there is nothing to compare with.", *_levels(curves, None)]
    else:
        lines += [*_levels(curves, curves[REFERENCE]), "", *_targets(curves, curves[REFERENCE])]
    if oracle.NAME in curves:
        lines += ["", f"`{oracle.NAME}`: {ORACLE_NOTE} ({options.oracle_samples} for each candidate)."]
    return "\n".join(lines) + "\n"


def _costs(results: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "## Where the rollouts went",
        "",
        "Shares are of all groups that were rolled out, discarded ones included. 1/(1 - zero) is the most that could "
        "be saved by leaving out groups without an advantage, if all others were worth the same.",
        "",
        "| method | seeds | rollouts | response tokens | zero advantage | all correct | all incorrect | 1/(1 - zero) | "
        "probe entropy at the end (nats) | CPU-s | with evaluations |",
        "|---" * 11 + "|",
    ]
    for method, runs in by_method(results).items():
        last = [run["curve"][-1] for run in runs]
        shares = [group_shares(run) for run in runs]
        zero, correct, incorrect = (_mean([share[name] for share in shares]) for name in GROUP_SHARES)
        limit = f"{1 / (1 - zero):.2f}" if zero < 1 else "–"
        lines.append(
            f"| {method} | {len(runs)} | {_mean([p['rollouts'] for p in last]):,.0f} | "
            f"{_mean([p['tokens'] for p in last]):,.0f} | {zero:.3f} | {correct:.3f} | {incorrect:.3f} | {limit} | "
            f"{_mean([p['entropy_nats'] for p in last]):.3f} | {_mean([run['seconds'] for run in runs]):.0f} | "
            f"{_mean([run['seconds_with_evaluation'] for run in runs]):.0f} |"
        )
    return lines


def _levels(curves: Mapping[str, Curves], reference: Curves | None) -> list[str]:
    lines = [
        "## Accuracy",
        "",
        "Final: mean of the last two evaluations. At equal rollouts: the same after as many rollouts as "
        f"`{REFERENCE}` uses in total. Area: mean accuracy from 0 to that number. ± is the standard deviation over "
        f"seeds, Δ a paired difference to `{REFERENCE}`.",
        "",
        "| method | n | start | final | at equal rollouts | Δ [95%] | area | Δ area [95%] |",
        "|---" * 8 + "|",
    ]
    budget = Budget.of(reference or next(iter(curves.values())))
    for method, mine in curves.items():
        places = range(len(mine.seeds))
        cells = [method, str(len(mine.seeds)), f"{mine.accuracy_SE[:, 0].mean():.3f}"]
        cells.append(spread_text([final_of(i, mine) for i in places]))
        for statistic in (budget.accuracy, budget.area):
            cells.append(spread_text([statistic(i, mine) for i in places]))
            is_pair = reference is not None and method != REFERENCE
            cells.append(estimate_text(paired_difference(mine, reference, statistic), "+.3f") if is_pair else "–")  # type: ignore[arg-type]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _targets(curves: Mapping[str, Curves], reference: Curves) -> list[str]:
    found = {
        method: [reach_target(mine, reference, share) for share in (*MID_LEVELS, 1.0)]
        for method, mine in curves.items()
    }
    targets = found[REFERENCE]
    if targets[-1].level <= targets[0].level:
        return ["## Rollouts to a target", "", f"`{REFERENCE}` ends no higher than it starts: there are no targets."]
    names = [f"{target.level:.3f} ({target.share:.0%} of the way)" for target in targets]
    names[-1] = f"{targets[-1].level:.3f} ({REFERENCE}'s final level)"
    lines = [
        "## Rollouts to a target",
        "",
        f"Targets lie between the start and the final level of `{REFERENCE}`. Rollouts of the mean curve, interpolated "
        "between evaluations (k/n: seeds whose own curve reaches the target). The last target is biased against every "
        f"method: `{REFERENCE}` reaches its own final level by construction, noise included.",
        "",
        f"| method | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
        *(f"| {method} | {' | '.join(map(_rollouts, results))} |" for method, results in found.items()),
        "",
        f"Rollouts of `{REFERENCE}` over rollouts of the method, same seeds: above 1 the method needs fewer. A "
        "resample that never reaches the target counts as 0.",
        "",
        f"| method | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for method, results in found.items():
        if method != REFERENCE:
            lines.append(f"| {method} | {' | '.join(_ratio(result) for result in results)} |")
    return lines


def _rollouts(result: TargetResult) -> str:
    needed = "never" if result.rollouts is None else f"{result.rollouts:,.0f}"
    return f"{needed} ({result.num_reached}/{result.num_seeds})"


def _ratio(result: TargetResult) -> str:
    if result.ratio is not None and result.ratio.value == 0.0:
        return f"never ({result.num_reached}/{result.num_seeds} seeds)"
    return estimate_text(result.ratio, ".2f")


def estimate_text(found: Estimate | None, spec: str) -> str:
    """A value with its interval and number of pairs; the text says so where seeds are too few for an interval."""
    if found is None:
        return "no common seed"
    if found.bounds is None:
        return f"{found.value:{spec}} (n={found.num_seeds}: no interval)"
    low, high = found.bounds
    return f"{found.value:{spec}} [{low:{spec}}, {high:{spec}}] (n={found.num_seeds})"


def spread_text(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
