"""Spearman's rank correlation, with a bootstrap interval that resamples whole clusters."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho of N pairs and the ends of its percentile bootstrap interval; NaN where undefined."""

    rho: float
    low: float
    high: float
    num_pairs: int
    num_clusters: int


def _weighted_rho(x_level: npt.NDArray[np.intp], y_level: npt.NDArray[np.intp], count: FloatArray) -> float:
    """Rho of the sample in which pair i occurs `count[i]` times; levels are ranks of the distinct values."""
    ranks = []
    for level in (x_level, y_level):
        per_level = np.bincount(level, weights=count)
        mid_rank = np.cumsum(per_level) - (per_level - 1) / 2
        rank = mid_rank[level]
        ranks.append(rank - np.average(rank, weights=count))
    x_rank, y_rank = ranks
    scale = float(np.sqrt((count * x_rank**2).sum() * (count * y_rank**2).sum()))
    return float((count * x_rank * y_rank).sum() / scale) if scale > 0 else float("nan")


def _levels(values: FloatArray) -> npt.NDArray[np.intp]:
    return np.unique(values, return_inverse=True)[1].astype(np.intp).reshape(-1)


def spearman(x: Sequence[float] | FloatArray, y: Sequence[float] | FloatArray) -> float:
    """Spearman's rho of N pairs, ties at their mean rank; NaN for fewer than two pairs or a constant side.

    Args:
        x, y: N finite numbers each, of any unit.

    Raises:
        ValueError: the lengths differ, or a number is not finite.

    >>> spearman([1, 2, 3, 4], [10, 9, 7, 8])
    -0.8
    """
    x_values, y_values = _checked(x, y)
    if len(x_values) < 2:
        return float("nan")
    return _weighted_rho(_levels(x_values), _levels(y_values), np.ones(len(x_values)))


def spearman_interval(
    x: Sequence[float] | FloatArray,
    y: Sequence[float] | FloatArray,
    clusters: Sequence[Hashable],
    *,
    num_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> RankCorrelation:
    """Spearman's rho with a percentile bootstrap interval over clusters (Efron & Tibshirani 1993, ch. 13).

    Pairs of one cluster (one prompt seen at several steps, say) are not independent, so that clusters are drawn with
    replacement and bring all their pairs along.

    Args:
        x, y: N finite numbers each.
        clusters: N labels.
        confidence: share of the resamples inside the interval, in (0, 1).

    Raises:
        ValueError: the lengths differ, or a number is not finite.
    """
    x_values, y_values = _checked(x, y)
    if len(clusters) != len(x_values):
        raise ValueError(f"{len(clusters)} cluster labels for {len(x_values)} pairs: give one label a pair")
    index: dict[Hashable, int] = {}
    cluster_of_pair = np.array([index.setdefault(label, len(index)) for label in clusters], dtype=np.intp)
    rho = spearman(x_values, y_values)
    low = high = float("nan")
    if np.isfinite(rho):
        generator = np.random.default_rng(seed)
        x_level, y_level = _levels(x_values), _levels(y_values)
        drawn = np.empty(num_resamples)
        for resample in range(num_resamples):
            picks = generator.integers(0, len(index), size=len(index))
            count = np.bincount(picks, minlength=len(index))[cluster_of_pair].astype(np.float64)
            drawn[resample] = _weighted_rho(x_level, y_level, count)
        drawn = drawn[np.isfinite(drawn)]
        if drawn.size:
            tail = (1 - confidence) / 2
            low, high = (float(end) for end in np.quantile(drawn, [tail, 1 - tail]))
    return RankCorrelation(rho, low, high, len(x_values), len(index))


def _checked(x: Sequence[float] | FloatArray, y: Sequence[float] | FloatArray) -> tuple[FloatArray, FloatArray]:
    x_values, y_values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x_values.shape != y_values.shape or x_values.ndim != 1:
        raise ValueError(f"x has shape {x_values.shape} and y {y_values.shape}: give two lists of one length")
    if not (np.isfinite(x_values).all() and np.isfinite(y_values).all()):
        raise ValueError("x or y holds a number that is not finite: leave such pairs out first")
    return x_values, y_values
