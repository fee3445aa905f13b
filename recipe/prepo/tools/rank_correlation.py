"""Spearman's rank correlation, with a bootstrap interval that resamples whole clusters."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho of N pairs and the ends of its 95% percentile bootstrap interval; NaN where undefined."""

    rho: float
    low: float
    high: float
    num_pairs: int
    num_clusters: int


def spearman(x: Sequence[float] | FloatArray, y: Sequence[float] | FloatArray) -> float:
    """Spearman's rho of N pairs, ties at their mean rank. NaN for fewer than two pairs or a constant side.

    Raises:
        ValueError: the lengths differ, or a number is not finite.

    >>> spearman([1, 2, 3, 4], [10, 9, 7, 8])
    -0.8
    """
    x_level, y_level = _levels(x, y)
    return _weighted_rho(x_level, y_level, np.ones(len(x_level)))


def spearman_interval(
    x: Sequence[float] | FloatArray,
    y: Sequence[float] | FloatArray,
    clusters: Sequence[Hashable],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> RankCorrelation:
    """Spearman's rho with a percentile bootstrap interval over clusters (Efron & Tibshirani 1993, ch. 13).

    Pairs of one cluster, such as one prompt seen at several steps, are not independent. So clusters are drawn with
    replacement, each with all its pairs.

    Raises:
        ValueError: the lengths of x, y and clusters differ, or a number is not finite.
    """
    x_level, y_level = _levels(x, y)
    if len(clusters) != len(x_level):
        raise ValueError(f"{len(clusters)} cluster labels for {len(x_level)} pairs: give one label for each pair")
    cluster_of_pair, labels = pd.factorize(pd.Series(list(clusters), dtype=object))
    rho = _weighted_rho(x_level, y_level, np.ones(len(x_level)))
    low = high = float("nan")
    if np.isfinite(rho):
        generator = np.random.default_rng(seed)
        drawn = np.empty(num_resamples)
        for resample in range(num_resamples):
            picks = generator.integers(0, len(labels), size=len(labels))
            count = np.bincount(picks, minlength=len(labels))[cluster_of_pair].astype(np.float64)
            drawn[resample] = _weighted_rho(x_level, y_level, count)
        if np.isfinite(drawn).any():
            low, high = (float(end) for end in np.nanquantile(drawn, [(1 - 0.95) / 2, (1 + 0.95) / 2]))
    return RankCorrelation(rho, low, high, len(x_level), len(labels))


def _weighted_rho(x_level: npt.NDArray[np.intp], y_level: npt.NDArray[np.intp], count: FloatArray) -> float:
    """Rho of the sample in which pair i occurs ``count[i]`` times; levels are ranks of the distinct values."""
    if len(count) < 2:
        return float("nan")
    ranks = []
    for level in (x_level, y_level):
        per_level = np.bincount(level, weights=count)
        mid_rank = np.cumsum(per_level) - (per_level - 1) / 2
        rank = mid_rank[level]
        ranks.append(rank - np.average(rank, weights=count))
    x_rank, y_rank = ranks
    scale = float(np.sqrt((count * x_rank**2).sum() * (count * y_rank**2).sum()))
    return float((count * x_rank * y_rank).sum() / scale) if scale > 0 else float("nan")


def _levels(*sides: Sequence[float] | FloatArray) -> list[npt.NDArray[np.intp]]:
    x, y = (np.asarray(side, dtype=np.float64) for side in sides)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"x has shape {x.shape} and y {y.shape}: give two lists of one length")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("x or y has a number that is not finite: leave such pairs out first")
    return [np.unique(values, return_inverse=True)[1].reshape(-1) for values in (x, y)]
