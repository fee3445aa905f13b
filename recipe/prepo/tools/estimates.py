"""Accuracy of a model from n samples of each question: mean accuracy, pass@k, maj@k, and intervals over questions.

Each estimator gives one number for each question, so numbers of samples may differ. Intervals resample questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, nan
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from recipe.prepo.maths.rng import make_generator

FloatArray = npt.NDArray[np.float64]

MAX_MAJORITY_SAMPLES = 1000
MAX_DRAWS_AT_ONCE = 4_000_000
NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
_TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class Estimate:
    """A mean over questions and the ends of its interval. The ends are NaN for fewer than two questions."""

    mean: float
    low: float
    high: float
    num_questions: int


def pass_at_k(num_samples: Sequence[int], num_correct: Sequence[int], k: int) -> FloatArray:
    """Probability that k samples of a question include a correct one; unbiased (arXiv 2107.03374, eq. 1).

    ``1 - C(n - c, k) / C(n, k)``, computed as a product of k ratios that cannot overflow.

    Args:
        num_samples, num_correct: n and c of each of Q questions.
        k: from 1 to the smallest n; else a ValueError.

    Returns:
        Shape [Q], in [0, 1].

    >>> pass_at_k([4, 4, 2], [0, 2, 2], k=2).round(4).tolist()
    [0.0, 0.8333, 1.0]
    """
    samples_Q, correct_Q = np.asarray(num_samples, dtype=np.int64), np.asarray(num_correct, dtype=np.int64)
    if ((correct_Q < 0) | (correct_Q > samples_Q)).any():
        raise ValueError("a number of correct samples is below 0 or above the number of samples")
    if k < 1 or (samples_Q < k).any():
        raise ValueError(f"k = {k}: it must be at least 1, and every question needs at least k samples")
    taken_K1 = np.arange(k)[:, np.newaxis]
    ratios_KQ = np.maximum(samples_Q - correct_Q - taken_K1, 0) / (samples_Q - taken_K1)
    return 1.0 - ratios_KQ.prod(axis=0)


def signal_frac(num_samples: Sequence[int], num_correct: Sequence[int], group_size: int) -> FloatArray:
    """Probability that a group of rollouts has correct and incorrect ones, so that not all advantages are zero.

    The arguments are those of :func:`pass_at_k`, with k = ``group_size``.

    >>> signal_frac([4, 4, 4], [0, 2, 4], group_size=2).round(4).tolist()
    [0.0, 0.6667, 0.0]
    """
    num_incorrect = [n - c for n, c in zip(num_samples, num_correct, strict=True)]
    any_correct_Q = pass_at_k(num_samples, num_correct, group_size)
    return np.clip(any_correct_Q + pass_at_k(num_samples, num_incorrect, group_size) - 1.0, 0.0, 1.0)


def majority_at_k(
    num_correct: int, incorrect_counts: Sequence[int], ks: Sequence[int], *, num_abstained: int = 0
) -> FloatArray:
    """Probability that the most frequent answer of k samples is correct, for one question and several k.

    This is the exact expectation over all k-subsets of the n samples. Equally frequent answers are chosen with equal
    probability. Samples without an answer do not vote. If none of the k votes, the outcome is incorrect.

    Args:
        num_correct, num_abstained: samples with the correct answer, and without an answer.
        incorrect_counts: samples of each incorrect answer.
        ks: each from 1 to n, the number of all samples; n is at most 1,000. Else a ValueError.

    Returns:
        Shape [len(ks)].

    >>> majority_at_k(2, [1, 1], ks=[1, 2, 4]).round(4).tolist()
    [0.5, 0.5, 1.0]
    """
    num_samples = num_correct + sum(incorrect_counts) + num_abstained
    if num_samples > MAX_MAJORITY_SAMPLES:
        raise ValueError(f"maj@k of {num_samples} samples: more than {MAX_MAJORITY_SAMPLES} are not supported")
    if min(num_correct, num_abstained, *incorrect_counts) < 0:
        raise ValueError("a number of samples is negative")
    if ks and not 1 <= min(ks) <= max(ks) <= num_samples:
        raise ValueError(f"k = {list(ks)}: each must be from 1 to the number of samples, {num_samples}")
    favourable = np.zeros(num_samples + 1)  # by the size of the subset
    for votes in range(1, num_correct + 1):
        ways = _ways_below(incorrect_counts, votes, num_abstained, num_samples - votes)
        share = ways / np.arange(1, ways.shape[1] + 1)  # divided by the number of answers that tie
        favourable[votes:] += comb(num_correct, votes) * share.sum(axis=1)
    return np.array([favourable[k] / comb(num_samples, k) for k in ks])


def _ways_below(counts: Sequence[int], most: int, num_free: int, max_size: int) -> FloatArray:
    """Number of subsets in which no answer has more than ``most`` votes, by size and by number of answers that have it.

    ``num_free`` further samples may be taken freely. Shape [max_size + 1, max_size // most + 1].
    """
    ways = np.zeros((max_size + 1, max_size // most + 1))
    ways[: num_free + 1, 0] = [comb(num_free, taken) for taken in range(min(num_free, max_size) + 1)]
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
    values: Sequence[float] | FloatArray, *, shares: bool = False, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean over Q questions with a BCa bootstrap interval (Efron 1987; Efron & Tibshirani 1993, ch. 14).

    Args:
        values: one number for each question.
        shares: the values are shares in [0, 1]. If all are 0, or all are 1, resampling shows no spread. The interval
            is then the exact binomial one (Clopper & Pearson 1934), valid for every distribution on [0, 1].
        seed: of the resampling. The same seed and number of questions draw the same questions.

    Raises:
        ValueError: there is no value, or one is not finite.

    >>> found = mean_interval([0.0, 0.5, 1.0, 0.5], shares=True)
    >>> found.mean, 0 <= found.low < 0.5 < found.high <= 1
    (0.5, True)
    """
    values_Q = np.asarray(values, dtype=np.float64)
    if values_Q.ndim != 1 or not values_Q.size or not np.isfinite(values_Q).all():
        raise ValueError(f"give one finite number for each question, and at least one question: {values!r}")
    mean, num_questions = float(values_Q.mean()), len(values_Q)
    if num_questions < 2:
        low = high = nan
    elif np.ptp(values_Q) == 0:
        reach = 1 - _TAILS[0] ** (1 / num_questions) if shares else 0.0
        low, high = mean - reach * (mean == 1), mean + reach * (mean == 0)
    else:
        means_B = _resampled_means(values_Q, num_resamples, seed)
        low, high = map(float, np.quantile(means_B, _bca_levels(values_Q, means_B)))
    return Estimate(mean, low, high, num_questions)


def macro_interval(
    values_by_set: Sequence[Sequence[float] | FloatArray], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean of the sets' means with equal weights; percentile bootstrap of the questions within each set.

    Raises:
        ValueError: there is no set, or an empty one.
    """
    if not values_by_set or not all(len(values) for values in values_by_set):
        raise ValueError("give at least one set, each with at least one question")
    sets = [np.asarray(values, dtype=np.float64) for values in values_by_set]
    mean = float(np.mean([values_Q.mean() for values_Q in sets]))
    low = high = nan
    if min(map(len, sets)) > 1:
        # Each set has its own random stream: two sets of one size must not be resampled alike.
        means_SB = [_resampled_means(values_Q, num_resamples, seed, f"set {i}") for i, values_Q in enumerate(sets)]
        low, high = map(float, np.quantile(np.mean(means_SB, axis=0), _TAILS))
    return Estimate(mean, low, high, sum(map(len, sets)))


def _resampled_means(values_Q: FloatArray, num_resamples: int, seed: int, purpose: str = "questions") -> FloatArray:
    generator, num_questions = make_generator(seed, f"bootstrap of {purpose}"), len(values_Q)
    num_blocks = -(-num_resamples * num_questions // MAX_DRAWS_AT_ONCE)  # bounds the memory
    blocks = np.array_split(np.arange(num_resamples), num_blocks)
    draws = (generator.integers(0, num_questions, size=(len(block), num_questions)) for block in blocks)
    return np.concatenate([values_Q[drawn].mean(axis=1) for drawn in draws])


def _bca_levels(values_Q: FloatArray, means_B: FloatArray) -> list[float]:
    """Which quantiles of the resampled means are the interval's ends: bias-corrected and accelerated."""
    normal = NormalDist()
    below = np.mean(means_B < values_Q.mean()) + np.mean(means_B == values_Q.mean()) / 2
    bias = normal.inv_cdf(float(np.clip(below, 0.5 / len(means_B), 1 - 0.5 / len(means_B))))
    centred_Q = values_Q - values_Q.mean()
    # The jackknife's acceleration. For a mean it is the skewness / (6 sqrt(Q)).
    acceleration = float((centred_Q**3).sum() / (6 * (centred_Q**2).sum() ** 1.5))
    shifted = [bias + normal.inv_cdf(tail) for tail in _TAILS]
    return [normal.cdf(bias + shift / (1 - acceleration * shift)) for shift in shifted]
