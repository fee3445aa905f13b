"""Statistics of ragged rollout groups. Groups are never reshaped by their nominal size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recipe.prepo.maths import FloatArray, IntArray

CORRECT_REWARD = 1.0
"""A rollout is correct when its raw reward is at least this."""


@dataclass(frozen=True)
class GroupOutcomes:
    """Shares of the step's groups, each in [0, 1].

    zero_advantage_frac: all rewards of the group are equal, so every group-relative advantage is 0. verl 0.9.1 gives
        a group of one rollout its reward as advantage.
    all_correct_frac, all_wrong_frac: every rollout is correct, or none.
    """

    zero_advantage_frac: float
    all_correct_frac: float
    all_wrong_frac: float


@dataclass(frozen=True)
class GroupCounts:
    """Counts of each group, in ascending order of the group index.

    first_G: position of the group's first rollout, shape [G].
    size_G, num_correct_G: rollouts of the group, and how many of them are correct.
    """

    first_G: IntArray
    size_G: IntArray
    num_correct_G: IntArray


def group_counts(reward_R: FloatArray, group_R: IntArray) -> GroupCounts:
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


def group_outcomes(reward_R: FloatArray, group_R: IntArray) -> GroupOutcomes:
    """Shares of groups without a learning signal.

    Args:
        reward_R: scalar rewards, shape [R].
        group_R: group index of each rollout, shape [R]; indices need not be dense.

    >>> group_outcomes(np.array([1.0, 1.0, 0.0, 1.0]), np.array([0, 0, 1, 1]))
    GroupOutcomes(zero_advantage_frac=0.5, all_correct_frac=0.5, all_wrong_frac=0.0)
    """
    if not reward_R.size:
        return GroupOutcomes(0.0, 0.0, 0.0)
    _, dense_R = np.unique(group_R, return_inverse=True)
    num_groups = int(dense_R.max()) + 1
    low_G = np.full(num_groups, np.inf)
    high_G = np.full(num_groups, -np.inf)
    np.minimum.at(low_G, dense_R, reward_R)
    np.maximum.at(high_G, dense_R, reward_R)
    return GroupOutcomes(
        zero_advantage_frac=float(((low_G == high_G) & ((np.bincount(dense_R) > 1) | (high_G == 0.0))).mean()),
        all_correct_frac=float((low_G >= CORRECT_REWARD).mean()),
        all_wrong_frac=float((high_G < CORRECT_REWARD).mean()),
    )
