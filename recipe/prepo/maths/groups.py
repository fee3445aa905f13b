"""Statistics of ragged rollout groups. Groups are never reshaped by their nominal size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipe.prepo.maths import FloatArray, IntArray

CORRECT_REWARD = 1.0
"""A rollout is correct when its raw reward is at least this."""


@dataclass(frozen=True)
class Groups:
    """Statistics of each group, shape [G], in ascending order of the group index.

    Attributes:
        first_G: position of the group's first rollout.
        size_G, num_correct_G: rollouts of the group, and how many of them are correct.
        is_flat_G: all rewards of the group are equal, so every group-relative advantage is 0. verl 0.9.1 gives a group
            of one rollout its reward as advantage.
    """

    first_G: IntArray
    size_G: IntArray
    num_correct_G: IntArray
    is_flat_G: NDArray[np.bool_]


def group_statistics(reward_R: FloatArray, group_R: IntArray) -> Groups:
    """Statistics of ragged groups, from scalar rewards and group indices (not necessarily dense), shape [R].

    >>> group_statistics(np.array([1.0, 0.0, 1.0]), np.array([7, 3, 7]))
    Groups(first_G=array([1, 0]), size_G=array([1, 2]), num_correct_G=array([0, 2]), is_flat_G=array([ True,  True]))
    """
    _, first_G, dense_R, size_G = np.unique(group_R, return_index=True, return_inverse=True, return_counts=True)
    low_G, high_G = np.full(len(first_G), np.inf), np.full(len(first_G), -np.inf)
    np.minimum.at(low_G, dense_R, reward_R)
    np.maximum.at(high_G, dense_R, reward_R)
    return Groups(
        first_G=first_G,
        size_G=size_G,
        num_correct_G=np.bincount(dense_R[reward_R >= CORRECT_REWARD], minlength=len(first_G)),
        is_flat_G=(low_G == high_G) & ((size_G > 1) | (high_G == 0.0)),
    )
