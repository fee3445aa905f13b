"""Which rollouts count as correct: one definition for every rule, metric and report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recipe.prepo.maths import FloatArray

CORRECT_ABOVE = 0.5
"""A rollout is correct above this: right for rewards 1 and 0, 1 and -1, 0.9 and points for the format, [0, 1]."""


def correctness(
    reward_R: FloatArray,
    acc_R: FloatArray | None = None,
    *,
    correct_above: float | None = None,
    reward_range: Sequence[float] | None = None,
) -> FloatArray:
    """How correct each rollout is, shape [R]: 1 or 0, or its place in ``reward_range``.

    Args:
        acc_R: what the reward function returned as ``acc``, which then decides; NaN where it returned none.
        correct_above: a reward above it is correct; None for ``CORRECT_ABOVE``.
        reward_range: rewards of a worthless and of a perfect answer, which then are 0 and 1, linear in between.

    >>> correctness(np.array([0.95, 0.05, -1.0, 0.0]), np.array([np.nan, np.nan, np.nan, 1.0])).tolist()
    [1.0, 0.0, 0.0, 1.0]
    >>> correctness(np.array([0.0, 7.5, 12.0]), reward_range=(5.0, 10.0)).tolist()
    [0.0, 0.5, 1.0]
    """
    if reward_range is not None:
        low, high = reward_range
        return np.clip((reward_R - low) / (high - low), 0.0, 1.0)
    above = CORRECT_ABOVE if correct_above is None else correct_above
    is_correct_R = reward_R.astype(np.float32) > np.float32(above)  # verl holds rewards in this precision
    if acc_R is not None:
        is_correct_R = np.where(np.isnan(acc_R), is_correct_R, acc_R > CORRECT_ABOVE)
    return is_correct_R.astype(np.float64)
