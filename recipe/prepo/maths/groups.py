"""Statistics of ragged rollout groups. Groups are never reshaped by their nominal size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipe.prepo.maths import FloatArray, IntArray


@dataclass(frozen=True)
class Groups:
    """Statistics of each group, shape [G], in ascending order of the group index.

    Attributes:
        first_G: position of the group's first rollout.
        size_G: rollouts of the group.
        num_correct_G: how many of them are correct; a fraction where correctness is graded.
        is_flat_G: all rewards of the group are equal, so every group-relative advantage is 0. verl 0.9.1 gives a group
            of one rollout its reward as advantage.
    """

    first_G: IntArray
    size_G: IntArray
    num_correct_G: FloatArray
    is_flat_G: NDArray[np.bool_]
    spread_G: FloatArray  # of the rewards: largest minus smallest


def group_statistics(reward_R: FloatArray, group_R: IntArray, correct_R: FloatArray) -> Groups:
    """Statistics of ragged groups, from rewards, group indices (not necessarily dense) and correctness, shape [R].

    >>> group_statistics(np.array([0.9, 0.0, 0.9]), np.array([7, 3, 7]), np.array([1.0, 0.0, 1.0])).num_correct_G
    array([0., 2.])
    """
    _, first_G, dense_R, size_G = np.unique(group_R, return_index=True, return_inverse=True, return_counts=True)
    low_G, high_G = np.full(len(first_G), np.inf), np.full(len(first_G), -np.inf)
    np.minimum.at(low_G, dense_R, reward_R)
    np.maximum.at(high_G, dense_R, reward_R)
    return Groups(
        first_G=first_G,
        size_G=size_G,
        num_correct_G=np.bincount(dense_R, weights=correct_R, minlength=len(first_G)).astype(np.float64),
        is_flat_G=(low_G == high_G) & ((size_G > 1) | (high_G == 0.0)),
        spread_G=high_G - low_G,
    )
