"""``python -m recipe.prepo.evaluate --model … --data … --out DIR``: accuracy of a model on sets of questions."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from recipe.prepo.errors import ConfigError
from recipe.prepo.reward.notation import compact
from recipe.prepo.reward.quantity import exact_number
from recipe.prepo.tools.evaluation.options import make_parser, run_command, value
from recipe.prepo.tools.evaluation.session import collect
from recipe.prepo.tools.evaluation.store import Sample, write_json
from recipe.prepo.tools.stats import CONFIDENCE, interval_text, majority_at_k, mean_interval, pass_at_k

DESCRIPTION = """
Samples each question through vLLM and grades as in training. Writes passrate@n, pass@k, maj@k, mean length and the
share of truncated responses, with bootstrap intervals over questions. A call over the same folder continues.
"""
MEAN_TOKENS, TRUNCATED = "mean_tokens", "truncated_frac"
DEFAULT_KS = (4, 8, 16)


def main() -> int:
    """Entry point; returns the exit status."""
    parser = make_parser("evaluate", DESCRIPTION)
    ks = value(
        lambda text: sorted({int(part) for part in text.split(",")}),
        lambda ks: ks[0] >= 1,
        "whole numbers of at least 1 with commas between them, such as 1,4,8",
    )
    parser.add_argument("--k", type=ks, metavar="K,K", help="of pass@k and maj@k (default: 4,8,16 up to --samples)")
    return run_command(parser, evaluate)


def evaluate(options: argparse.Namespace) -> None:
    """Make the missing samples, then write and print the results.

    Raises:
        PrepoError: bad input; nothing expensive was started.
    """
    ks = options.k or sorted({k for k in DEFAULT_KS if k <= options.samples} | {options.samples})
    if ks[-1] > options.samples:
        raise ConfigError(
            f"--k {ks[-1]}: it is more than --samples {options.samples}. Set more --samples or another --k."
        )
    found = collect(options)
    results = summarise(found.groups, ks, seed=options.seed)
    content = {"settings": found.settings, "generating_s": found.seconds, **results}
    write_json(options.out / "results.json", content)
    (options.out / "results.md").write_text(table(results), encoding="utf-8")
    print(table(results), end="")
    print(f"95% intervals over questions; {found.seconds:.1f} s of generating. Written to {options.out}")


def summarise(
    groups_by_set: Mapping[str, Sequence[Sequence[Sample]]], ks: Sequence[int], *, seed: int
) -> dict[str, Any]:
    """The content of ``results.json``: each set's metrics with intervals, and their average over sets.

    Args:
        groups_by_set: set -> the samples of each of its questions, n of each.

    Returns:
        ``ks``, ``confidence``, ``sets`` (name -> metrics and counts) and ``average`` (metric -> estimate; None for a
        single set). ``num_timed_out`` answers reached the grader's time limit; they count as incorrect.
    """

    def estimates(*frames: pd.DataFrame) -> dict[str, dict[str, float]]:
        return {
            metric: mean_interval(*(each[metric] for each in frames), shares=metric != MEAN_TOKENS, seed=seed)._asdict()
            for metric in frames[0]
        }

    values = {name: pd.DataFrame([_values(group, ks) for group in groups]) for name, groups in groups_by_set.items()}
    sets = {}
    for name, groups in groups_by_set.items():
        samples = [sample for group in groups for sample in group]
        counts = {"num_questions": len(groups), "num_samples": len(samples)}
        counts["num_timed_out"] = sum(sample.timed_out for sample in samples)
        sets[name] = {"metrics": estimates(values[name]), **counts}
    average = estimates(*values.values()) if len(sets) > 1 else None
    return {"ks": list(ks), "confidence": CONFIDENCE, "sets": sets, "average": average}


def _values(group: Sequence[Sample], ks: Sequence[int]) -> dict[str, float]:
    """The metrics of one question. For maj@k, correct answers are one answer; samples without an answer do not vote."""
    votes = [vote(sample.answer) for sample in group if not sample.is_correct]
    counts = Counter(answer for answer in votes if answer is not None)
    num_correct = len(group) - len(votes)
    majority = majority_at_k(num_correct, list(counts.values()), ks, num_abstained=votes.count(None))
    return {
        f"passrate@{len(group)}": num_correct / len(group),
        **{f"pass@{k}": float(pass_at_k(len(group), num_correct, k)) for k in ks},
        **{f"maj@{k}": share for k, share in zip(ks, majority, strict=True)},
        MEAN_TOKENS: float(np.mean([sample.num_tokens for sample in group])),
        TRUNCATED: float(np.mean([sample.finish_reason == "length" for sample in group])),
    }


def vote(answer: str | None) -> str | None:
    r"""What incorrect answers are counted by: equal exact numbers, or equal characters without spaces, are one answer.

    >>> vote("0.5") == vote(r"\frac12"), vote("x + 1") == vote("x+1"), vote(None)
    (True, True, None)
    """
    if answer is None:
        return None
    number = exact_number(answer)
    return compact(answer) if number is None else str(number)


def table(results: Mapping[str, Any]) -> str:
    """The metrics as a Markdown table: one line for each set, shares in percent, each with its interval."""
    sets, average = results["sets"], results["average"]
    rows = [(name, found["num_questions"], found["metrics"]) for name, found in sets.items()]
    if average:
        rows.append(("average of the sets", sum(found["num_questions"] for found in sets.values()), average))
    names = {MEAN_TOKENS: "tokens", TRUNCATED: "truncated %"}
    heads = [names.get(metric, f"{metric} %") for metric in rows[0][2]]
    lines = [f"| set | questions | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
    for name, num_questions, metrics in rows:
        cells = [
            interval_text(found, ".1f") if metric == MEAN_TOKENS else interval_text(found, ".2f", scale=100)
            for metric, found in metrics.items()
        ]
        lines.append(f"| {name} | {num_questions:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
