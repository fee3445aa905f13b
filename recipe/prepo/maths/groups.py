"""Statistics of ragged rollout groups. Groups are never reshaped by their nominal size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CORRECT_REWARD = 1.0
"""A rollout is correct when its raw reward is at least this; everything below is wrong."""


@dataclass(frozen=True)
class GroupOutcomes:
    """Shares of the step's groups, each in [0, 1].

    zero_advantage_frac: all rewards of the group are equal, so every group-relative advantage is 0. A group of one
        rollout has its reward as advantage (verl 0.9.1).
    all_correct_frac, all_wrong_frac: every rollout is correct, or none.
    """

    zero_advantage_frac: float
    all_correct_frac: float
    all_wrong_frac: float


@dataclass(frozen=True)
class GroupCounts:
    """Counts of each group, in ascending order of the group index.

    first_G: position of the group's first rollout, shape [G].
    size_G: rollouts of the group; num_correct_G: how many of them are correct.
    """

    first_G: NDArray[np.int64]
    size_G: NDArray[np.int64]
    num_correct_G: NDArray[np.int64]


def group_counts(reward_R: NDArray[np.float64], group_R: NDArray[np.int64]) -> GroupCounts:
    """Sizes and correct rollouts of ragged groups.

    >>> group_counts(np.array([1.0, 0.0, 1.0]), np.array([7, 3, 7]))
    GroupCounts(first_G=array([1, 0]), size_G=array([1, 2]), num_correct_G=array([0, 2]))
    """
    _, first_G, dense_R = np.unique(group_R, return_index=True, return_inverse=True)
    correct_R = (reward_R >= CORRECT_REWARD).astype(np.int64)
    return GroupCounts(
        first_G=first_G.astype(np.int64),
        size_G=np.bincount(dense_R, minlength=len(first_G)).astype(np.int64),
        num_correct_G=np.bincount(dense_R, weights=correct_R, minlength=len(first_G)).astype(np.int64),
    )


def group_outcomes(reward_R: NDArray[np.float64], group_R: NDArray[np.int64]) -> GroupOutcomes:
    """Share of groups without a learning signal.

    Args:
        reward_R: scalar rewards, shape [R].
        group_R: group index of each rollout, shape [R]; indices need not be dense.

    >>> group_outcomes(np.array([1.0, 1.0, 0.0, 1.0, 0.0]), np.array([0, 0, 1, 1, 2]))
    GroupOutcomes(zero_advantage_frac=0.6666666666666666, all_correct_frac=0.3333333333333333, \
all_wrong_frac=0.3333333333333333)
    """
    if not reward_R.size:
        return GroupOutcomes(0.0, 0.0, 0.0)
    _, dense_R = np.unique(group_R, return_inverse=True)
    num_groups = int(dense_R.max()) + 1
    low_P = np.full(num_groups, np.inf)
    high_P = np.full(num_groups, -np.inf)
    np.minimum.at(low_P, dense_R, reward_R)
    np.maximum.at(high_P, dense_R, reward_R)
    return GroupOutcomes(
        zero_advantage_frac=float(((low_P == high_P) & ((np.bincount(dense_R) > 1) | (high_P == 0.0))).mean()),
        all_correct_frac=float((low_P >= CORRECT_REWARD).mean()),
        all_wrong_frac=float((high_P < CORRECT_REWARD).mean()),
    )
