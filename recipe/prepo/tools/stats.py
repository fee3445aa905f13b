"""Estimates from samples: pass@k, maj@k, means over questions and rank correlations, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import comb, nan
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from recipe.prepo.maths import FloatArray, IntArray
from recipe.prepo.maths.rng import make_generator

MAX_SAMPLES = 1000  # of a question: more overflow majority_at_k
CONFIDENCE = 0.95
_TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


class Estimate(NamedTuple):
    """A mean over questions and the ends of its 95% interval, NaN if a set has fewer than two questions."""

    mean: float
    low: float
    high: float
    num_questions: int


class RankCorrelation(NamedTuple):
    """Spearman's rho of N pairs and the ends of its 95% interval; NaN where undefined."""

    rho: float
    low: float
    high: float
    num_pairs: int
    num_clusters: int


def pass_at_k(num_samples: ArrayLike, num_correct: ArrayLike, k: int) -> FloatArray:
    """Probability that k samples of a question include a correct one; unbiased (arXiv 2107.03374, eq. 1). Shape [Q].

    ``1 - C(n - c, k) / C(n, k)``, computed as a product of k ratios that cannot overflow.

    Args:
        num_samples, num_correct: n and c of each of Q questions; n may be one number for all.

    Raises:
        ValueError: k is not from 1 to the smallest n, or c is not from 0 to n.

    >>> pass_at_k([4, 4, 2], [0, 2, 2], k=2).round(4).tolist()
    [0.0, 0.8333, 1.0]
    """
    samples_Q, correct_Q = np.asarray(num_samples), np.asarray(num_correct)
    if k < 1 or (correct_Q < 0).any() or (samples_Q < np.maximum(correct_Q, k)).any():
        raise ValueError(f"k = {k}, or a number of correct samples, is not between its limits")
    incorrect_Q = samples_Q - correct_Q
    ratios_KQ = [np.maximum(incorrect_Q - taken, 0) / (samples_Q - taken) for taken in range(k)]
    return 1.0 - np.prod(ratios_KQ, axis=0)


def signal_frac(num_samples: ArrayLike, num_correct: ArrayLike, group_size: int) -> FloatArray:
    """Probability that a group of rollouts has correct and incorrect ones; arguments as in :func:`pass_at_k`.

    >>> signal_frac([4, 4, 4], [0, 2, 4], group_size=2).round(4).tolist()
    [0.0, 0.6667, 0.0]
    """
    any_correct_Q = pass_at_k(num_samples, num_correct, group_size)
    any_incorrect_Q = pass_at_k(num_samples, np.subtract(num_samples, num_correct), group_size)
    return np.clip(any_correct_Q + any_incorrect_Q - 1.0, 0.0, 1.0)


def majority_at_k(
    num_correct: int, incorrect_counts: Sequence[int], ks: Sequence[int], *, num_abstained: int = 0
) -> FloatArray:
    """Probability that the most frequent answer of k samples is correct, for one question and several k. Shape [K].

    This is the exact expectation over all k-subsets of the n samples. Ties are broken at random. Samples without an
    answer do not vote. If none of the k votes, the outcome is incorrect. n is at most ``MAX_SAMPLES``.

    Args:
        num_correct, num_abstained: samples with the correct answer, and without an answer.
        incorrect_counts: samples of each incorrect answer.

    >>> majority_at_k(2, [1, 1], ks=[1, 2, 4]).round(4).tolist()
    [0.5, 0.5, 1.0]
    """
    num_samples = num_correct + sum(incorrect_counts) + num_abstained
    favourable = np.zeros(num_samples + 1)  # subsets in which the correct answer wins, by size
    for votes in range(1, num_correct + 1):
        # With t other answers of as many votes, it wins once in t + 1 times. That is the integral of y^t over [0, 1],
        # for which Gauss' rule is exact. So each count of ties becomes a power of y, and subsets are polynomials.
        num_ties = sum(count >= votes for count in incorrect_counts)
        nodes, weights = np.polynomial.legendre.leggauss(num_ties // 2 + 1)
        for y, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            ways = _ways(num_abstained, num_abstained)
            for count in incorrect_counts:
                of_answer = _ways(count, min(count, votes))
                of_answer[votes:] *= y
                ways = np.convolve(ways, of_answer)
            favourable[votes : votes + len(ways)] += weight * comb(num_correct, votes) * ways
    return np.array([favourable[k] / comb(num_samples, k) for k in ks])


def _ways(count: int, most: int) -> FloatArray:
    """Ways to take 0 to ``most`` of ``count`` samples."""
    return np.array([comb(count, taken) for taken in range(most + 1)], dtype=np.float64)


def mean_interval(*sets: ArrayLike, shares: bool = False, num_resamples: int = 2000, seed: int = 0) -> Estimate:
    """Mean over questions with a percentile bootstrap interval; several sets have equal weights.

    Args:
        sets: the questions' values, shape [Q] for each set. Questions are resampled within their set.
        shares: the values are shares in [0, 1]. If all of a single set are 0, or all are 1, resampling shows no spread.
            The interval is then the exact binomial one (Clopper & Pearson 1934), valid for every distribution.

    >>> round(mean_interval([0.0] * 30, shares=True).high, 3)
    0.116
    """
    values_by_set = [np.asarray(values, dtype=np.float64) for values in sets]
    sizes = [len(values_Q) for values_Q in values_by_set]
    mean = float(np.mean([values_Q.mean() for values_Q in values_by_set]))
    low = high = nan
    if shares and len(sets) == 1 and sizes[0] > 1 and mean in (0.0, 1.0):
        reach = 1 - _TAILS[0] ** (1 / sizes[0])
        low, high = (0.0, reach) if mean == 0 else (1 - reach, 1.0)
    elif min(sizes) > 1:
        # Each set has its own random stream: two sets of one size must not be resampled alike.
        generators = [make_generator(seed, f"bootstrap of set {index}") for index in range(len(sets))]
        means_SB = [
            values_Q[generator.integers(0, len(values_Q), (num_resamples, len(values_Q)))].mean(axis=1)
            for values_Q, generator in zip(values_by_set, generators, strict=True)
        ]
        low, high = percentile_interval(np.mean(means_SB, axis=0))
    return Estimate(mean, low, high, sum(sizes))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rho of N pairs, ties at their mean rank. NaN for fewer than two pairs or a constant side.

    Raises:
        ValueError: the lengths differ, or a number is not finite.

    >>> spearman([1, 2, 3, 4], [10, 9, 7, 8])
    -0.8
    """
    return spearman_interval(x, y, range(np.size(x)), num_resamples=0).rho


def spearman_interval(
    x: ArrayLike, y: ArrayLike, clusters: Sequence[Hashable], *, num_resamples: int = 1000, seed: int = 0
) -> RankCorrelation:
    """Spearman's rho with a percentile bootstrap interval over clusters (Efron & Tibshirani 1993, ch. 13).

    Pairs of one cluster, such as one prompt seen at several steps, are not independent. So clusters are drawn with
    replacement, each with all its pairs. ``clusters`` has one label for each pair.

    Raises:
        ValueError: as :func:`spearman`.
    """
    sides = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if sides[0].shape != sides[1].shape or sides[0].ndim != 1 or not np.isfinite(sides).all():
        raise ValueError("x and y: give two lists of one length, of finite numbers")
    levels = [np.unique(side, return_inverse=True)[1].reshape(-1) for side in sides]
    cluster_of_pair, labels = pd.factorize(pd.Series(list(clusters), dtype=object))
    num_pairs, num_clusters, generator = len(levels[0]), len(labels), np.random.default_rng(seed)
    rho, low, high = _weighted_rho(levels, np.ones(num_pairs)), nan, nan
    if num_resamples and np.isfinite(rho):
        picks = (generator.integers(0, num_clusters, num_clusters) for _ in range(num_resamples))
        counts = (np.bincount(picked, minlength=num_clusters)[cluster_of_pair].astype(np.float64) for picked in picks)
        low, high = percentile_interval([_weighted_rho(levels, count) for count in counts])
    return RankCorrelation(rho, low, high, num_pairs, num_clusters)


def _weighted_rho(levels: Sequence[IntArray], count: FloatArray) -> float:
    """Rho of the sample in which pair i occurs ``count[i]`` times; levels are ranks of the distinct values."""
    if len(count) < 2:
        return nan
    ranks = []
    for level in levels:
        per_level = np.bincount(level, weights=count)
        rank = (np.cumsum(per_level) - (per_level - 1) / 2)[level]
        ranks.append(rank - np.average(rank, weights=count))
    x_rank, y_rank = ranks
    scale = float(np.sqrt((count * x_rank**2).sum() * (count * y_rank**2).sum()))
    return float((count * x_rank * y_rank).sum() / scale) if scale > 0 else nan


def percentile_interval(resampled_B: Sequence[float] | FloatArray) -> tuple[float, float]:
    """The ends of the 95% interval of a statistic's resampled values, without undefined ones; NaN if all are."""
    defined = np.asarray(resampled_B)[~np.isnan(resampled_B)]
    low, high = np.quantile(defined, _TAILS) if len(defined) else (nan, nan)
    return float(low), float(high)


def interval_text(found: Mapping[str, float], form: str = ".3f", scale: float = 1) -> str:
    """An estimate, as a dictionary, and its interval if it has one: "0.250 (0.000 to 0.500)"."""
    mean, low, high, *_ = (f"{scale * number:{form}}" for number in found.values())
    return f"{mean} ({low} to {high})" if np.isfinite(found["low"]) else mean
