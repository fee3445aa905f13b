"""One text about several comparisons: what each method saves in each setting, and what could be saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.mini_math import oracle, provenance
from benchmarks.mini_math.methods import meaning_of, read_method
from benchmarks.mini_math.numbers import (
    MID_LEVELS,
    REFERENCE,
    Budget,
    Estimate,
    by_method,
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

# A method, and the one that it adds something to: GRESO skips prompts of dynamic sampling, E3 sizes groups and holds
# the entropy, PREPO adds a schedule and weights, MoPPS predicts pass rates where others only skip.
PAIRS = (
    ("greso", "dapo"),
    ("dapo", "grpo"),
    ("e3", "grpo"),
    ("prepo", "schedule_only"),
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
    ("forecast", "mopps_ppl"),
    ("oracle", "prepo"),
    ("oracle", "mopps_ppl"),
    ("oracle", "forecast"),
)


@dataclass(frozen=True)
class Comparison:
    """The finished runs of one setting; ``name`` includes the model or task where they are not the default."""

    name: str
    options: Options
    results: Sequence[Mapping[str, Any]]

    @property
    def methods(self) -> dict[str, list[Mapping[str, Any]]]:
        return by_method(self.results)


def render(comparisons: Sequence[Comparison]) -> str:
    """Markdown: where it was measured, and tables for each setting."""
    results = [result for comparison in comparisons for result in comparison.results]
    lines = [
        "# What the methods save in miniature",
        "",
        f"`python -m benchmarks.mini_math.full`; {provenance.text(results)}.",
        "",
        f"Differences and ratios are to `{REFERENCE}` over the same seeds. {INTERVALS} Rollouts, tokens and shares "
        "include discarded groups.",
        "",
        f"All values are at equal rollouts: after as many as `{REFERENCE}` uses in total. **Area**: mean accuracy from "
        "0 to that number.",
        "",
        f"**Times fewer rollouts**: rollouts that `{REFERENCE}` needs for a quarter, half or three quarters of its way "
        "from its first to its final accuracy, over those of the method. Above 1 the method saves rollouts; a method "
        "that never gets there has 0. **By tokens**: the same in response tokens, to three quarters.",
        "",
        *(f"- `{method}`: {meaning_of(method)}" for method in by_method(results)),
    ]
    for comparison in comparisons:
        lines += ["", *_section(comparison)]
    return "\n".join(lines) + "\n"


def _section(comparison: Comparison) -> list[str]:
    options, methods = comparison.options, comparison.methods
    start = comparison.results[0]["curve"][0]
    seeds = {method: ", ".join(str(run["seed"]) for run in runs) for method, runs in methods.items()}
    usual = max(seeds.values(), key=list(seeds.values()).count)
    others = "".join(f"; `{method}` {of}" for method, of in seeds.items() if of != usual)
    lines = [
        f"## Setting `{comparison.name}`: {1 - start['zero_advantage_frac']:.2f} of the groups live at the start",
        "",
        f"Task {options.task}, model {options.model}; {start['all_correct_frac']:.2f} of the groups are all correct "
        f"and {start['all_wrong_frac']:.2f} all incorrect at the start. {options.steps} steps, "
        f"K = {options.num_selected}, M = {options.rollouts_per_prompt}, pool of {options.pool} prompts, learning rate "
        f"{options.learning_rate:g}, {options.held_out:,} held-out problems ({options.split} split). "
        f"Seeds {usual}{others}.",
    ]
    if REFERENCE not in methods:
        return [*lines, "", f"Without runs of `{REFERENCE}` there is nothing to compare with."]
    limit = 1 / (1 - np.mean([group_shares(run)["zero_advantage_frac"] for run in methods[REFERENCE]]))
    sizes = read_method(
        REFERENCE, num_selected=options.num_selected, rollouts_per_prompt=options.rollouts_per_prompt, seed=0
    ).prepo
    assert sizes.num_candidates is not None
    most = sizes.num_candidates / sizes.num_selected
    lines += [
        "",
        f"**What could be saved: {min(limit, most):.2f}** times, if every group of `{REFERENCE}` without an advantage "
        f"were saved and all others were worth the same (at most {most:g}, the candidates of each chosen prompt).",
    ]
    budget = Budget.of(read_curves(comparison.results)[REFERENCE])
    for table in (_accuracy(comparison), _savings(comparison), _groups(comparison), _pairs(methods, budget)):
        lines += ["", *table] if table else []
    lines += _temperatures(methods)
    if oracle.NAME in methods:
        lines += [
            "",
            f"`{oracle.NAME}` picks the largest p(1 - p) by pass rates that {options.oracle_samples} uncounted samples "
            "of each candidate measure. It is a reference, not a method, and no strict bound.",
        ]
    return lines


def _cell(found: Estimate | None, spec: str) -> str:
    text = estimate_text(found, spec)
    return text if found is None or found.bounds is None else text[: text.index(" (n=")]


def _accuracy(comparison: Comparison) -> list[str]:
    curves = read_curves(comparison.results)
    reference = curves[REFERENCE]
    budget = Budget.of(reference)
    lines = ["| method | final accuracy | difference | difference of the area |", "|---|---|---|---|"]
    for method, mine in curves.items():
        cells = [spread_text([budget.accuracy(place, mine) for place in range(len(mine.seeds))])]
        for statistic in (budget.accuracy, budget.area):
            cells.append("" if mine is reference else _cell(paired_difference(mine, reference, statistic), "+.3f"))
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return lines


def _savings(comparison: Comparison) -> list[str]:
    curves, by_tokens = read_curves(comparison.results), read_curves(comparison.results, cost="tokens")
    reference = curves[REFERENCE]
    start, end = (reach_target(reference, reference, share).level for share in (0.0, 1.0))
    if start >= end:
        return [f"`{REFERENCE}` ends no higher than it starts: there are no targets, and no rollouts to reach them."]
    lines = [
        "| method | times fewer rollouts to a quarter | to half | to three quarters | by tokens |",
        "|---|---|---|---|---|",
    ]
    for method, mine in curves.items():
        if mine is reference:
            continue
        ratios = [reach_target(mine, reference, share).ratio for share in MID_LEVELS]
        ratios.append(reach_target(by_tokens[method], by_tokens[REFERENCE], MID_LEVELS[-1]).ratio)
        lines.append(f"| `{method}` | {' | '.join(_cell(ratio, '.2f') for ratio in ratios)} |")
    return lines


def _groups(comparison: Comparison) -> list[str]:
    methods = comparison.methods
    budget = Budget.of(read_curves(comparison.results)[REFERENCE])
    lines = [
        "| method | zero advantage | difference | all correct, all incorrect | probe entropy (nats) | difference "
        "| CPU-s, with evaluations |",
        "|---" * 7 + "|",
    ]
    zero, entropy = (
        {method: {run["seed"]: value(run) for run in runs} for method, runs in methods.items()}
        for value in (
            lambda run: group_shares(run, until=budget.rollouts)["zero_advantage_frac"],
            lambda run: entropy_at(run, budget.rollouts),
        )
    )
    for method, runs in methods.items():
        shares = [group_shares(run, until=budget.rollouts) for run in runs]
        cells = []
        for by_seed in (zero, entropy):
            cells.append(f"{np.mean(list(by_seed[method].values())):.3f}")
            difference = _cell(paired(by_seed[method], by_seed[REFERENCE]), "+.3f")
            cells.append("" if method == REFERENCE else difference)
        cells.insert(2, _means(shares, ("all_correct_frac", "all_wrong_frac"), ".2f"))
        cells.append(_means(runs, ("seconds", "seconds_with_evaluation"), ".0f"))
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return lines


def _means(values: Sequence[Mapping[str, Any]], keys: Sequence[str], spec: str) -> str:
    return ", ".join(f"{np.mean([each[key] for each in values]):{spec}}" for key in keys)


def _pairs(methods: Mapping[str, Sequence[Mapping[str, Any]]], budget: Budget) -> list[str]:
    """What a method adds to another one, over the seeds that both have."""
    lines = []
    for pair in PAIRS:
        if not set(pair) <= set(methods):
            continue
        mine, other = (read_curves(methods[name])[name] for name in pair)
        ends = [{run["seed"]: entropy_at(run, budget.rollouts) for run in methods[name]} for name in pair]
        found = [paired_difference(mine, other, statistic) for statistic in (budget.accuracy, budget.area)]
        cells = [_cell(each, "+.3f") for each in [*found, paired(*ends)]]
        lines.append(f"| `{pair[0]}` minus `{pair[1]}` | {' | '.join(cells)} |")
    heads = ["| pair | accuracy | area | probe entropy (nats) |", "|---|---|---|---|"]
    return heads + lines if lines else []


def _temperatures(methods: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """How E3's temperature changes the entropy of rollouts, beside the methods that it is added to."""
    if not {"e3", "prepo_e3", "prepo_e3_target"} & set(methods):
        return []
    lines = [
        "",
        "Mean token entropy of the training rollouts at their own temperature: the second half of the steps over the "
        "first step. E3 holds the first step's entropy; from 60% of the steps on it lets its target fall to 0.9 of "
        "that, so exact control gives about 0.96. `prepo_e3_target` holds a given entropy instead. Student's 95% "
        "intervals of the ratio itself.",
        "",
        "| method | entropy, second half over first step | last temperature |",
        "|---|---|---|",
    ]
    for method in ("grpo", "e3", "prepo", "prepo_e3", "prepo_e3_target"):
        if method in methods:
            kept = mean_difference([entropy_kept(run) for run in methods[method]])
            last = spread_text([run["train"]["temperature"][-1] for run in methods[method]])
            lines.append(f"| `{method}` | {_cell(kept, '.2f')} | {last} |")
    return lines
