"""GRESO (arXiv 2506.02177): probabilities of skipping a prompt before its rollouts, and sizes of refill rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def skip_probability(run_P: IntArray, *, p_easy: float, p_hard: float, explore: float) -> NDArray[np.float64]:
    """Probability of skipping each prompt, shape [P]: ``1 - max(p^z, explore)`` after z groups without a signal.

    Args:
        run_P: length of the trailing run of groups without a signal, shape [P]: positive when all their rollouts were
            right, negative when all were wrong, 0 for a new prompt or one whose last group had both.
        p_easy, p_hard: probability of keeping a prompt after one such group.
        explore: least probability of keeping a prompt.

    >>> skip_probability(np.array([0, 1, 3, -2, 7]), p_easy=0.5, p_hard=0.5, explore=0.01).tolist()
    [0.0, 0.5, 0.875, 0.75, 0.99]
    """
    base_P = np.where(run_P > 0, p_easy, p_hard)
    kept_P = np.maximum(base_P ** np.abs(run_P).astype(np.float64), explore)
    return np.where(run_P == 0, 0.0, 1.0 - kept_P)


def next_run(run_P: IntArray, num_correct_P: NDArray[np.int64], size_P: NDArray[np.int64]) -> NDArray[np.int64]:
    """The trailing run after one more group; counts, so that the group size does not matter.

    >>> next_run(np.array([2, 2, 2, -1]), np.array([8, 3, 0, 0]), np.array([8, 8, 8, 4])).tolist()
    [3, 0, -1, -2]
    """
    easy_P = num_correct_P == size_P
    hard_P = num_correct_P == 0
    run_after_easy = np.maximum(run_P, 0) + 1
    run_after_hard = np.minimum(run_P, 0) - 1
    return np.where(easy_P, run_after_easy, np.where(hard_P, run_after_hard, 0))


def adjust_probability(p: float, *, share: float, target: float, step: float, lowest: float, highest: float) -> float:
    """Keep fewer prompts of a kind while too many rollouts are spent on it, more otherwise.

    >>> round(adjust_probability(0.5, share=0.2, target=0.1, step=0.01, lowest=0.05, highest=0.95), 2)
    0.49
    """
    return max(p - step, lowest) if share >= target else min(p + step, highest)


@dataclass(frozen=True)
class Refill:
    """Size of the next round of a step, in prompts.

    estimate: prompts that should give the missing groups; None when no estimate is possible (no group had a signal).
    is_last: the estimate is at most a full round, so that this round should be the last one.
    """

    num_prompts: int
    estimate: int | None
    is_last: bool


def refill_size(
    num_missing: int, *, zero_variance_frac: float, full_round: int, min_round: int, safety: float
) -> Refill:
    """Prompts to roll out next: ``min(B_default, beta * B_missing / (1 - alpha))``, at least ``min_round``.

    Args:
        num_missing: groups with a signal that the step still lacks.
        zero_variance_frac: alpha, the share of groups without a signal in the round before; 1 asks for a full round
            (DEVIATION: the published code divides by zero).
        full_round: B_default. DEVIATION: ``min_round`` never raises a round above it.
        safety: beta.

    >>> refill_size(64, zero_variance_frac=0.5, full_round=384, min_round=64, safety=1.25)
    Refill(num_prompts=160, estimate=160, is_last=True)
    >>> refill_size(64, zero_variance_frac=1.0, full_round=384, min_round=64, safety=1.25)
    Refill(num_prompts=384, estimate=None, is_last=False)
    """
    assert num_missing > 0 and 0.0 <= zero_variance_frac <= 1.0
    if zero_variance_frac == 1.0:
        return Refill(full_round, None, False)
    estimate = math.floor(safety * num_missing / (1.0 - zero_variance_frac))
    size = max(min(estimate, full_round), min(min_round, full_round))
    return Refill(size, estimate, estimate <= full_round)
