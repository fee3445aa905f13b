"""What n samples a question say about a model: mean accuracy, pass@k, maj@k, and their intervals over questions.

Each estimator gives one number a question, so that questions may have different numbers of samples; a set's figure is
the mean over its questions, and its interval resamples questions (:func:`mean_interval`, :func:`macro_interval`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from recipe.prepo.maths.rng import make_generator

FloatArray = npt.NDArray[np.float64]

MAX_MAJORITY_SAMPLES = 1000
MAX_DRAWS_AT_ONCE = 4_000_000
NUM_RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over questions and the ends of its interval; NaN ends where there is no interval (under two questions)."""

    mean: float
    low: float
    high: float
    num_questions: int


def pass_at_k(num_samples: Sequence[int], num_right: Sequence[int], k: int) -> FloatArray:
    """Chance that k samples of a question hold a right one: unbiased, from n >= k samples (arXiv 2107.03374, eq. 1).

    ``1 - C(n - c, k) / C(n, k)`` as a product of k ratios, so that nothing overflows.

    Args:
        num_samples: n of each of Q questions.
        num_right: c of each, from 0 to n.
        k: at least 1 and at most the smallest n.

    Returns:
        Shape [Q], in [0, 1].

    Raises:
        ValueError: k is out of range, or a count is.

    >>> pass_at_k([4, 4, 2], [0, 2, 2], k=2).round(4).tolist()
    [0.0, 0.8333, 1.0]
    """
    samples_Q, right_Q = np.asarray(num_samples, dtype=np.int64), np.asarray(num_right, dtype=np.int64)
    _check_counts(samples_Q, right_Q, k)
    all_wrong_Q = np.ones(len(samples_Q))
    for taken in range(k):
        all_wrong_Q *= np.maximum(samples_Q - right_Q - taken, 0) / (samples_Q - taken)
    return 1.0 - all_wrong_Q


def signal_frac(num_samples: Sequence[int], num_right: Sequence[int], group_size: int) -> FloatArray:
    """Chance that a group of rollouts holds right and wrong ones, so that group-relative advantages are not all zero.

    Args:
        num_samples, num_right: as for :func:`pass_at_k`.
        group_size: rollouts of a group, at most the smallest n.

    >>> signal_frac([4, 4, 4], [0, 2, 4], group_size=2).round(4).tolist()
    [0.0, 0.6667, 0.0]
    """
    num_wrong = [n - right for n, right in zip(num_samples, num_right, strict=True)]
    any_right_Q = pass_at_k(num_samples, num_right, group_size)
    return np.clip(any_right_Q + pass_at_k(num_samples, num_wrong, group_size) - 1.0, 0.0, 1.0)


def majority_at_k(
    num_right: int, wrong_counts: Sequence[int], ks: Sequence[int], *, num_abstained: int = 0
) -> FloatArray:
    """Chance that the most frequent answer of k samples is right, for one question and several k.

    The exact expectation over all k-subsets of the n samples, nothing is resampled. Of answers that are equally
    frequent each is chosen with the same chance. Samples without an answer do not vote; when none of the k votes, the
    outcome is wrong.

    Args:
        num_right: samples with the right answer.
        wrong_counts: samples with each wrong answer, one number an answer.
        ks: each from 1 to n = num_right + sum(wrong_counts) + num_abstained.
        num_abstained: samples without an answer.

    Returns:
        Shape [len(ks)].

    Raises:
        ValueError: a k or a count is out of range, or n is above 1,000.

    >>> majority_at_k(2, [1, 1], ks=[1, 2, 4]).round(4).tolist()
    [0.5, 0.5, 1.0]
    """
    num_samples = num_right + sum(wrong_counts) + num_abstained
    if num_samples > MAX_MAJORITY_SAMPLES:
        raise ValueError(f"maj@k of {num_samples} samples: more than {MAX_MAJORITY_SAMPLES} are not supported")
    if min([num_right, num_abstained, *wrong_counts]) < 0:
        raise ValueError("a negative number of samples")
    for k in ks:
        _check_counts(np.array([num_samples]), np.array([num_right]), k)
    favourable = np.zeros(num_samples + 1)  # by the size of the subset
    for votes in range(1, num_right + 1):
        ways = _ways_below(wrong_counts, votes, num_abstained, num_samples - votes)
        share = ways / np.arange(1, ways.shape[1] + 1)  # divided by how many answers are as frequent
        favourable[votes:] += comb(num_right, votes) * share.sum(axis=1)
    return np.array([favourable[k] / comb(num_samples, k) for k in ks])


def _ways_below(counts: Sequence[int], most: int, num_free: int, max_size: int) -> FloatArray:
    """Number of sets of samples by size (0 to max_size) and by the number of answers that have exactly ``most`` votes.

    No answer has more than ``most``; ``num_free`` further samples may be taken freely.
    """
    max_ties = max_size // most
    ways = np.zeros((max_size + 1, max_ties + 1))
    for taken in range(min(num_free, max_size) + 1):
        ways[taken, 0] = comb(num_free, taken)
    for count in counts:
        grown = np.zeros_like(ways)
        for taken in range(min(count, most, max_size) + 1):
            part = comb(count, taken) * ways[: max_size + 1 - taken]
            if taken == most:
                grown[taken:, 1:] += part[:, :-1]
            else:
                grown[taken:] += part
        ways = grown
    return ways


def mean_interval(
    values: Sequence[float] | FloatArray,
    *,
    bounds: tuple[float, float] | None = None,
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Mean over Q questions with a BCa bootstrap interval (Efron 1987; Efron & Tibshirani 1993, ch. 14).

    Args:
        values: one number a question.
        bounds: the range of a value, where it has one. When all values lie at the same end of it, resampling shows no
            spread at all, and the interval is the exact binomial one (Clopper & Pearson 1934), which holds for every
            distribution on that range.
        confidence: nominal coverage, in (0, 1).
        seed: of the resampling; the same seed and number of questions draw the same questions.

    Raises:
        ValueError: no value, or one that is not finite.

    >>> found = mean_interval([0.0, 0.5, 1.0, 0.5], bounds=(0, 1))
    >>> found.mean, 0 <= found.low < 0.5 < found.high <= 1
    (0.5, True)
    """
    values_Q = np.asarray(values, dtype=np.float64)
    if values_Q.ndim != 1 or not values_Q.size or not np.isfinite(values_Q).all():
        raise ValueError(f"give one finite number a question, at least one question: {values!r}")
    mean, num_questions = float(values_Q.mean()), len(values_Q)
    if num_questions < 2:
        return Estimate(mean, float("nan"), float("nan"), num_questions)
    if np.ptp(values_Q) == 0:
        low, high = _interval_without_spread(mean, num_questions, bounds, confidence)
        return Estimate(mean, low, high, num_questions)
    means_B = _resampled_means(values_Q, num_resamples, seed)
    low, high = np.quantile(means_B, _bca_levels(values_Q, means_B, confidence))
    return Estimate(mean, float(low), float(high), num_questions)


def macro_interval(
    values_by_set: Sequence[Sequence[float] | FloatArray],
    *,
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Mean of the sets' means, every set weighing the same; percentile bootstrap of the questions within each set.

    A set all of whose values are equal adds no spread.

    Raises:
        ValueError: no set, or an empty one.
    """
    if not values_by_set or not all(len(values) for values in values_by_set):
        raise ValueError("give at least one set, each with at least one question")
    sets = [np.asarray(values, dtype=np.float64) for values in values_by_set]
    mean = float(np.mean([values_Q.mean() for values_Q in sets]))
    num_questions = sum(len(values_Q) for values_Q in sets)
    if min(len(values_Q) for values_Q in sets) < 2:
        return Estimate(mean, float("nan"), float("nan"), num_questions)
    # One stream a set: two sets of one size must not be resampled alike.
    means_SB = [_resampled_means(values_Q, num_resamples, seed, f"set {i}") for i, values_Q in enumerate(sets)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.mean(means_SB, axis=0), [tail, 1 - tail])
    return Estimate(mean, float(low), float(high), num_questions)


def _resampled_means(values_Q: FloatArray, num_resamples: int, seed: int, purpose: str = "questions") -> FloatArray:
    generator = make_generator(seed, f"bootstrap of {purpose}")
    num_questions = len(values_Q)
    rows = max(1, MAX_DRAWS_AT_ONCE // num_questions)
    parts = []
    for first in range(0, num_resamples, rows):
        shape = (min(rows, num_resamples - first), num_questions)
        parts.append(values_Q[generator.integers(0, num_questions, size=shape)].mean(axis=1))
    return np.concatenate(parts)


def _bca_levels(values_Q: FloatArray, means_B: FloatArray, confidence: float) -> list[float]:
    """Which quantiles of the resampled means are the interval's ends: bias-corrected and accelerated."""
    normal = NormalDist()
    below = np.mean(means_B < values_Q.mean()) + np.mean(means_B == values_Q.mean()) / 2
    bias = normal.inv_cdf(float(np.clip(below, 0.5 / len(means_B), 1 - 0.5 / len(means_B))))
    centred_Q = values_Q - values_Q.mean()
    # The jackknife's acceleration; for a mean it is the skewness / (6 sqrt(Q)).
    acceleration = float((centred_Q**3).sum() / (6 * (centred_Q**2).sum() ** 1.5))
    levels = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        shifted = bias + normal.inv_cdf(tail)
        levels.append(normal.cdf(bias + shifted / (1 - acceleration * shifted)))
    return levels


def _interval_without_spread(
    mean: float, num_questions: int, bounds: tuple[float, float] | None, confidence: float
) -> tuple[float, float]:
    if bounds is None or mean not in bounds:
        return mean, mean
    reach = (bounds[1] - bounds[0]) * (1 - ((1 - confidence) / 2) ** (1 / num_questions))
    return (mean, mean + reach) if mean == bounds[0] else (mean - reach, mean)


def _check_counts(samples_Q: npt.NDArray[np.int64], right_Q: npt.NDArray[np.int64], k: int) -> None:
    if samples_Q.shape != right_Q.shape or samples_Q.ndim != 1:
        raise ValueError(f"{samples_Q.shape} numbers of samples for {right_Q.shape} numbers of right ones")
    if ((right_Q < 0) | (right_Q > samples_Q)).any():
        raise ValueError("a number of right samples is below 0 or above the number of samples")
    if k < 1 or (samples_Q < k).any():
        raise ValueError(f"k = {k}: it must be at least 1, and every question needs at least k samples")
