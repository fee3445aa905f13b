"""E3's rollout budget (arXiv 2505.18573): difficulty ranks, the bounds' schedule, and the allocation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNRANKED = -100.0
"""Rank of a prompt before the first ranking; counts as 0 (easiest) in an allocation, as in the published code."""


def difficulty_ranks(accuracy_N: NDArray[np.float64], *, average_ties: bool) -> NDArray[np.float64]:
    """Rank ``k_i`` in [0, 1) of each prompt by descending accuracy: 0 is the easiest, towards 1 the hardest.

    Args:
        accuracy_N: pooled accuracy of each prompt, shape [N]; 0 for a prompt without rollouts.
        average_ties: give prompts of equal accuracy their mean rank; otherwise the data set's order decides among
            them, as in the published code.

    >>> difficulty_ranks(np.array([0.0, 1.0, 0.5, 0.0]), average_ties=False).tolist()
    [0.5, 0.0, 0.25, 0.75]
    >>> difficulty_ranks(np.array([0.0, 1.0, 0.5, 0.0]), average_ties=True).tolist()
    [0.625, 0.0, 0.25, 0.625]
    """
    size = len(accuracy_N)
    order_N = np.argsort(-accuracy_N, kind="stable")
    rank_N = np.empty(size)
    positions_N = np.arange(size, dtype=np.float64)
    if average_ties:
        sorted_N = accuracy_N[order_N]
        starts = np.flatnonzero(np.r_[True, sorted_N[1:] != sorted_N[:-1]])
        sizes = np.diff(np.r_[starts, size])
        positions_N = np.repeat(starts + (sizes - 1) / 2.0, sizes)
    rank_N[order_N] = positions_N / size
    return rank_N


def widen_bounds(low: int, high: int, *, step: int, lowest: int, highest: int) -> tuple[int, int]:
    """Bounds of the group size after an epoch; both start at the nominal size M.

    >>> widen_bounds(8, 8, step=2, lowest=4, highest=12), widen_bounds(6, 10, step=5, lowest=4, highest=12)
    ((6, 10), (4, 12))
    """
    return max(low - step, lowest), min(high + step, highest)


def allocate_rollouts(
    rank_P: NDArray[np.float64], *, rollouts_per_prompt: int, low: int, high: int, clip: bool
) -> NDArray[np.int64]:
    """Group size of each prompt of a batch: more for harder prompts, with the batch's total unchanged.

    ``g_i = floor(low + (T - P * low) * k_i / sum_j k_j)`` with ``T = P * M``; what the floors leave is given to the
    hardest prompts in turn, each filled to ``high`` before the next.

    Args:
        rank_P: difficulty ranks, shape [P]; :data:`UNRANKED` counts as 0.
        rollouts_per_prompt: nominal group size M; ``low <= M <= high``.
        clip: cut the proportional part at ``high`` too, so that no group is larger. DEVIATION: the published code
            caps only what it gives to the hardest prompts in turn, so a large rank among small ones breaks the cap.

    Returns:
        Group sizes, shape [P], with sum P * M exactly.

    >>> ranks = np.array([0.05, 0.05, 0.1, 0.95])
    >>> allocate_rollouts(ranks, rollouts_per_prompt=8, low=4, high=12, clip=False).tolist()
    [4, 4, 7, 17]
    >>> allocate_rollouts(ranks, rollouts_per_prompt=8, low=4, high=12, clip=True).tolist()
    [4, 4, 12, 12]
    """
    assert 0 <= low <= rollouts_per_prompt <= high, f"{low=} {rollouts_per_prompt=} {high=}"
    total = len(rank_P) * rollouts_per_prompt
    weight_P = np.maximum(rank_P, 0.0)
    if weight_P.sum() > 0:
        weight_P = weight_P / (weight_P.sum() + 1e-8)  # the published code's epsilon, so that the floors agree
    spare = total - len(rank_P) * low
    size_P = np.floor(low + spare * weight_P).astype(np.int64)
    if clip:
        size_P = np.minimum(size_P, high)
    left = total - int(size_P.sum())
    for i in np.argsort(-weight_P, kind="stable"):
        given = min(left, max(0, high - int(size_P[i])))
        size_P[i] += given
        left -= given
        if not left:
            break
    assert left == 0, "high >= M leaves room for every rollout"
    return size_P
