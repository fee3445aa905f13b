"""``python -m recipe.prepo.evaluate --model … --data … --out DIR``: accuracy of a model on sets of questions.

Samples each question through vLLM and grades as in training. Writes passrate@n, pass@k, maj@k, mean length and the
share of truncated responses, with bootstrap intervals over questions. A call over the same folder continues.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from recipe.prepo.errors import ConfigError
from recipe.prepo.reward.notation import compact
from recipe.prepo.reward.quantity import exact_number
from recipe.prepo.tools.estimates import (
    CONFIDENCE,
    FloatArray,
    macro_interval,
    majority_at_k,
    mean_interval,
    pass_at_k,
)
from recipe.prepo.tools.evaluation.options import run_command
from recipe.prepo.tools.evaluation.session import fill, prepare
from recipe.prepo.tools.evaluation.store import Sample, open_store, write_json

RESULTS, TABLE = "results.json", "results.md"
MEAN_TOKENS, TRUNCATED = "mean_tokens", "truncated_frac"
DEFAULT_KS = (4, 8, 16)


def main() -> int:
    """Entry point; returns the exit status."""
    return run_command("recipe.prepo.evaluate", __doc__, _add_k, evaluate)


def _add_k(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--k", metavar="K,K", help="of pass@k and maj@k (default: 4,8,16 up to --samples)")


def evaluate(options: argparse.Namespace) -> None:
    """Make the missing samples, then write and print the results. ``options`` are checked ones.

    Raises:
        PrepoError: bad input; nothing expensive was started.
    """
    ks = parse_ks(options.k, options.samples)
    session = prepare(options)
    with open_store(options.out, session.settings) as store:
        seconds = fill(session, store, score_prompts=False)
        groups_by_set = {
            one.name: [[store.samples[q.prompt_id, i] for i in range(options.samples)] for q in one.questions]
            for one in session.sets
        }
        results = summarise(groups_by_set, ks, seed=options.seed)
        write_json(options.out / RESULTS, {"settings": session.settings, "generating_s": seconds, **results})
        (options.out / TABLE).write_text(table(results), encoding="utf-8")
    print(table(results), end="")
    print(f"95% intervals over questions; {seconds:.1f} s of generating. Written to {options.out}")


def parse_ks(text: str | None, num_samples: int) -> list[int]:
    """``--k 1,4,8`` as sorted numbers; the default is 4, 8 and 16 up to the number of samples, and that number.

    Raises:
        ConfigError: they are not whole numbers from 1 to the number of samples.

    >>> parse_ks("8,1,8", 16), parse_ks(None, 16), parse_ks(None, 6), parse_ks(None, 1)
    ([1, 8], [4, 8, 16], [4, 6], [1])
    """
    if text is None:
        return sorted({k for k in DEFAULT_KS if k <= num_samples} | {num_samples})
    try:
        ks = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise ConfigError(f"--k {text}: it must be whole numbers with commas between them, such as 1,4,8.") from error
    if not 1 <= ks[0] <= ks[-1] <= num_samples:
        raise ConfigError(
            f"--k {text}: each must be from 1 to --samples {num_samples}. Set more --samples or another --k."
        )
    return ks


def summarise(
    groups_by_set: Mapping[str, Sequence[Sequence[Sample]]], ks: Sequence[int], *, seed: int
) -> dict[str, Any]:
    """The content of ``results.json``: each set's metrics with intervals, and their average over sets.

    Args:
        groups_by_set: set -> the samples of each of its questions.

    Returns:
        ``ks``, ``confidence``, ``sets`` (name -> metrics and counts) and ``average`` (metric -> estimate; None for a
        single set). ``num_timed_out`` answers reached the grader's time limit; they count as incorrect.
    """
    values_by_set = {name: values_by_question(groups, ks) for name, groups in groups_by_set.items()}
    sets, average = {}, None
    for name, groups in groups_by_set.items():
        metrics = {
            metric: asdict(mean_interval(values_Q, shares=metric != MEAN_TOKENS, seed=seed))
            for metric, values_Q in values_by_set[name].items()
        }
        samples = [sample for group in groups for sample in group]
        counts = {"num_questions": len(groups), "num_samples": len(samples)}
        sets[name] = {"metrics": metrics, **counts, "num_timed_out": sum(sample.timed_out for sample in samples)}
    if len(sets) > 1:
        average = {
            metric: asdict(macro_interval([values[metric] for values in values_by_set.values()], seed=seed))
            for metric in metrics
        }
    return {"ks": list(ks), "confidence": CONFIDENCE, "sets": sets, "average": average}


def values_by_question(groups: Sequence[Sequence[Sample]], ks: Sequence[int]) -> dict[str, FloatArray]:
    """Each metric's values of Q questions: metric -> shape [Q]. ``passrate@n`` is named after the largest n."""
    num_samples = [len(group) for group in groups]
    num_correct = [sum(sample.reward == 1.0 for sample in group) for group in groups]
    majority_QK = np.array([_majority(group, ks) for group in groups])
    return {
        f"passrate@{max(num_samples)}": np.array(num_correct) / num_samples,
        **{f"pass@{k}": pass_at_k(num_samples, num_correct, k) for k in ks},
        **{f"maj@{k}": majority_QK[:, column] for column, k in enumerate(ks)},
        MEAN_TOKENS: np.array([np.mean([sample.num_tokens for sample in group]) for group in groups]),
        TRUNCATED: np.array([np.mean([sample.finish_reason == "length" for sample in group]) for group in groups]),
    }


def _majority(group: Sequence[Sample], ks: Sequence[int]) -> FloatArray:
    """Correct answers count as one answer. Incorrect samples that mark no answer do not vote."""
    incorrect = [vote(sample.answer) for sample in group if sample.reward != 1.0]
    counts = Counter(answer for answer in incorrect if answer is not None)
    return majority_at_k(len(group) - len(incorrect), list(counts.values()), ks, num_abstained=incorrect.count(None))


def vote(answer: str | None) -> str | None:
    r"""What incorrect answers are counted by: equal exact numbers, or equal characters without spaces, are one answer.

    >>> vote("0.5") == vote(r"\frac12"), vote("x + 1") == vote("x+1"), vote(None)
    (True, True, None)
    """
    if answer is None:
        return None
    value = exact_number(answer)
    return compact(answer) if value is None else str(value)


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
        cells = [_cell(found, metric == MEAN_TOKENS) for metric, found in metrics.items()]
        lines.append(f"| {name} | {num_questions:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(found: Mapping[str, float], is_length: bool) -> str:
    scale, digits = (1, 1) if is_length else (100, 2)
    mean, low, high = (f"{scale * found[name]:.{digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})" if math.isfinite(found["low"]) else mean
