"""What the samples say: figures of each set with their intervals, as JSON and as a table."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipe.prepo.errors import ConfigError
from recipe.prepo.tools.estimates import (
    CONFIDENCE,
    Estimate,
    FloatArray,
    macro_interval,
    majority_at_k,
    mean_interval,
    pass_at_k,
)
from recipe.prepo.tools.evaluation.answers import vote
from recipe.prepo.tools.evaluation.store import Sample

RESULTS, TABLE = "results.json", "results.md"
AVERAGE = "average"
MEAN_TOKENS, TRUNCATED = "mean_tokens", "truncated_frac"
_DEFAULT_KS = (4, 8, 16)


@dataclass(frozen=True)
class SetResult:
    """Figures of one set by name; ``num_timed_out`` answers took the grader's time limit and count as wrong."""

    metrics: dict[str, Estimate]
    num_questions: int
    num_samples: int
    num_timed_out: int


def default_ks(num_samples: int) -> list[int]:
    """4, 8 and 16 as far as there are so many samples, and all of them.

    >>> default_ks(16), default_ks(6), default_ks(1)
    ([4, 8, 16], [4, 6], [1])
    """
    return sorted({k for k in _DEFAULT_KS if k <= num_samples} | {num_samples})


def parse_ks(text: str | None, num_samples: int) -> list[int]:
    """``--k 1,4,8`` as numbers.

    Raises:
        ConfigError: not whole numbers from 1 to the number of samples.

    >>> parse_ks("8,1,8", 16)
    [1, 8]
    """
    if text is None:
        return default_ks(num_samples)
    try:
        ks = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise ConfigError(f"--k {text}: it must be whole numbers with commas between them, such as 1,4,8.") from error
    if ks[0] < 1:
        raise ConfigError(f"--k {text}: {ks[0]} is below 1.")
    if ks[-1] > num_samples:
        raise ConfigError(
            f"--k {text}: pass@{ks[-1]} needs {ks[-1]} samples a question, but --samples is {num_samples}. Set"
            f" --samples {ks[-1]}, or a smaller --k."
        )
    return ks


def values_by_question(groups: Sequence[Sequence[Sample]], ks: Sequence[int]) -> dict[str, FloatArray]:
    """Each figure's value for each of Q questions, from the samples of each question; figure -> shape [Q].

    ``passrate@n`` is named after the largest number of samples.
    """
    num_samples = [len(group) for group in groups]
    num_right = [sum(sample.reward == 1.0 for sample in group) for group in groups]
    values = {
        f"passrate@{max(num_samples)}": np.array([c / n for c, n in zip(num_right, num_samples, strict=True)]),
        **{f"pass@{k}": pass_at_k(num_samples, num_right, k) for k in ks},
    }
    majority_QK = np.array([_majority(group, ks) for group in groups])
    values |= {f"maj@{k}": majority_QK[:, column] for column, k in enumerate(ks)}
    values[MEAN_TOKENS] = np.array([np.mean([sample.num_tokens for sample in group]) for group in groups])
    values[TRUNCATED] = np.array([np.mean([sample.finish_reason == "length" for sample in group]) for group in groups])
    return values


def _majority(group: Sequence[Sample], ks: Sequence[int]) -> FloatArray:
    """Right answers count as one answer; samples that mark no answer, and are wrong, do not vote."""
    wrong = [vote(sample.answer) for sample in group if sample.reward != 1.0]
    counts = Counter(answer for answer in wrong if answer is not None)
    return majority_at_k(len(group) - len(wrong), list(counts.values()), ks, num_abstained=wrong.count(None))


def summarise(
    groups_by_set: Mapping[str, Sequence[Sequence[Sample]]], ks: Sequence[int], *, seed: int
) -> dict[str, Any]:
    """The content of ``results.json``, but for what the call adds: each set's figures, and their average over sets.

    Args:
        groups_by_set: set -> the samples of each of its questions.

    Returns:
        ``sets`` (name -> :class:`SetResult` as a dict), ``average`` (figure -> estimate; None for a single set),
        ``confidence``, ``ks``.
    """
    values_by_set = {name: values_by_question(groups, ks) for name, groups in groups_by_set.items()}
    sets = {}
    for name, groups in groups_by_set.items():
        metrics = {
            metric: mean_interval(values_Q, bounds=None if metric == MEAN_TOKENS else (0.0, 1.0), seed=seed)
            for metric, values_Q in values_by_set[name].items()
        }
        samples = [sample for group in groups for sample in group]
        timed_out = sum(sample.timed_out for sample in samples)
        sets[name] = asdict(SetResult(metrics, len(groups), len(samples), timed_out))
    average = None
    if len(values_by_set) > 1:
        names = next(iter(values_by_set.values()))
        average = {
            metric: asdict(macro_interval([values[metric] for values in values_by_set.values()], seed=seed))
            for metric in names
        }
    return {"ks": list(ks), "confidence": CONFIDENCE, "sets": sets, AVERAGE: average}


def table(results: Mapping[str, Any]) -> str:
    """The figures as a Markdown table: a row a set, shares in percent, each with its interval."""
    sets, average = results["sets"], results[AVERAGE]
    metrics = list(next(iter(sets.values()))["metrics"])
    lines = [f"| set | questions | {' | '.join(map(_heading, metrics))} |", "|---|---|" + "---|" * len(metrics)]
    for name, found in sets.items():
        cells = [_cell(metric, found["metrics"][metric]) for metric in metrics]
        lines.append(f"| {name} | {found['num_questions']:,} | {' | '.join(cells)} |")
    if average:
        cells = [_cell(metric, average[metric]) for metric in metrics]
        lines.append(
            f"| average of the sets | {sum(s['num_questions'] for s in sets.values()):,} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def _heading(metric: str) -> str:
    return {MEAN_TOKENS: "tokens", TRUNCATED: "truncated %"}.get(metric, f"{metric} %")


def _cell(metric: str, found: Mapping[str, float]) -> str:
    scale, digits = (1.0, 1) if metric == MEAN_TOKENS else (100.0, 2)
    mean, low, high = (scale * found[name] for name in ("mean", "low", "high"))
    interval = f" ({low:.{digits}f} to {high:.{digits}f})" if math.isfinite(low) else ""
    return f"{mean:.{digits}f}{interval}"


def write_json(path: Path, content: Any) -> None:
    """JSON without NaN, which is no JSON: null stands in its place."""
    path.write_text(json.dumps(_without_nan(content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
