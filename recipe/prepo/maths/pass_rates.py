"""MoPPS (arXiv 2507.04632): pass rates predicted from earlier rollouts, as Beta posteriors whose evidence ages."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]

TINY = 1e-9
HIGHEST_ICC = 0.98
"""Intraclass correlation of a fitted prior; at 1 it would be no distribution."""


def add_evidence(count_P: FloatArray, new_P: NDArray[np.int64], *, discount: float) -> FloatArray:
    """Right (or wrong) rollouts counted for each prompt after one more group, shape [P]: ``discount * count + new``.

    The paper's ``alpha' = discount * alpha + (1 - discount) * alpha_0 + s`` is this with ``alpha = alpha_0 + count``.

    >>> add_evidence(np.array([0.0, 8.0]), np.array([3, 2]), discount=0.5).tolist()
    [3.0, 6.0]
    """
    return discount * count_P + new_P


def nearest(rate_C: FloatArray, *, target: float, num: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Positions of the ``num`` rates nearest to ``target``, ascending; of equally near ones any, by the generator.

    >>> nearest(np.array([0.9, 0.4, 0.55, 0.0, 0.6]), target=0.5, num=3, generator=np.random.default_rng(0)).tolist()
    [1, 2, 4]
    """
    shuffled_C = generator.permutation(len(rate_C))
    ranked_C = shuffled_C[np.argsort(np.abs(rate_C[shuffled_C] - target), kind="stable")]
    return np.sort(ranked_C[:num])


def prior_of_near(
    right_H: FloatArray,
    size_H: FloatArray,
    before_C: NDArray[np.int64],
    *,
    num_near: int,
    prior_right: float,
    prior_wrong: float,
    max_rollouts: float,
) -> tuple[FloatArray, FloatArray]:
    """Beta priors that fit the groups around each place of an ordered history: moments of the beta-binomial.

    Of the ``num_near`` groups around a place, half of them before it, the mean m is the share of right rollouts, with
    ``prior_right`` and ``prior_wrong`` added. The intraclass correlation is ``icc = (v - 1/n) / (1 - 1/n)``, with v the
    variance of the groups' pass rates over m (1 - m) and n the rollouts of a group in the mean; then
    ``alpha + beta = 1/icc - 1`` and ``alpha = m (alpha + beta)``. A mixture of groups that are all right and of groups
    that are all wrong has an icc near 1, and a prior at both ends; groups of like pass rates a prior that is worth
    ``max_rollouts`` rollouts, as have groups of one rollout, whose icc nobody knows.

    Args:
        right_H, size_H: right rollouts and all rollouts of each group of the history, shape [H].
        before_C: how many groups of the history stand before each place, shape [C].
        num_near: groups that a fit is made of, at most H.
        max_rollouts: upper bound of alpha + beta.

    Returns:
        alpha and beta, shape [C] each.

    >>> right, size = np.array([4.0, 4, 0, 0, 2, 2, 2, 2]), np.full(8, 4.0)
    >>> alpha, beta = prior_of_near(
    ...     right, size, np.array([0, 8]), num_near=4, prior_right=1, prior_wrong=1, max_rollouts=6.0
    ... )
    >>> alpha.round(2).tolist(), beta.round(2).tolist()
    ([0.01, 3.0], [0.01, 3.0])
    """
    first_C = np.clip(before_C - num_near // 2, 0, len(right_H) - num_near)
    rate_H = right_H / size_H
    columns = (right_H, size_H, rate_H, rate_H**2)
    sums = np.concatenate([np.zeros((1, len(columns))), np.cumsum(np.stack(columns, axis=1), axis=0)])
    right_C, size_C, rate_C, square_C = (sums[first_C + num_near] - sums[first_C]).T
    mean_C = (right_C + prior_right) / (size_C + prior_right + prior_wrong)
    variance_C = np.maximum(square_C / num_near - (rate_C / num_near) ** 2, 0.0) / (mean_C * (1.0 - mean_C))
    chance_C = num_near / size_C  # 1/n, the variance of groups whose prompts have one pass rate
    icc_C = np.where(chance_C < 1.0, (variance_C - chance_C) / np.maximum(1.0 - chance_C, TINY), 0.0)
    total_C = 1.0 / np.clip(icc_C, 1.0 / (1.0 + max_rollouts), HIGHEST_ICC) - 1.0
    return total_C * mean_C, total_C * (1.0 - mean_C)
