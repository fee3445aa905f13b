"""GRESO's memory of each prompt (arXiv 2506.02177), and the probability of skipping a prompt that follows from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recipe.prepo.rules.base import Stateful
from recipe.prepo.types import FloatArray, IntArray, RunFacts, StepOutcome


def skip_probability(run_P: IntArray, *, p_easy: float, p_hard: float, explore: float) -> FloatArray:
    """Probability of skipping each prompt, shape [P]: ``1 - max(p^z, explore)`` after z groups without a signal.

    Args:
        run_P: length of the trailing run of groups without a signal, shape [P]: positive if all their rollouts were
            correct, negative if none was, 0 for a new prompt or one whose last group had both.
        p_easy, p_hard: probability of keeping a prompt after one such group.
        explore: least probability of keeping a prompt.

    >>> skip_probability(np.array([0, 1, 3, -2, 7]), p_easy=0.5, p_hard=0.5, explore=0.01).tolist()
    [0.0, 0.5, 0.875, 0.75, 0.99]
    """
    base_P = np.where(run_P > 0, p_easy, p_hard)
    kept_P = np.maximum(base_P ** np.abs(run_P).astype(np.float64), explore)
    return np.where(run_P == 0, 0.0, 1.0 - kept_P)


def next_run(run_P: IntArray, num_correct_P: IntArray, size_P: IntArray) -> IntArray:
    """The trailing run after one more group. It counts groups, so that their size does not matter.

    >>> next_run(np.array([2, 2, 2, -1]), np.array([8, 3, 0, 0]), np.array([8, 8, 8, 4])).tolist()
    [3, 0, -1, -2]
    """
    after_easy_P = np.maximum(run_P, 0) + 1
    after_hard_P = np.minimum(run_P, 0) - 1
    return np.where(num_correct_P == size_P, after_easy_P, np.where(num_correct_P == 0, after_hard_P, 0))


def skip_reasons(is_skipped_C: NDArray[np.bool_], run_C: IntArray) -> dict[int, str]:
    """Reason for each skipped candidate, by its position, from its trailing run; arrays of shape [C]."""
    reasons = dict.fromkeys(np.flatnonzero(is_skipped_C & (run_C > 0)).tolist(), "all_right_before")
    return reasons | dict.fromkeys(np.flatnonzero(is_skipped_C & (run_C < 0)).tolist(), "all_wrong_before")


class SignalHistory(Stateful):
    """Trailing run of each prompt: n > 0 after n all-correct groups in a row, n < 0 after all-incorrect ones, else 0.

    The published code keeps the mean reward of every group and uses only this run of it.
    """

    saved = ("run_N",)

    def bind(self, run: RunFacts) -> None:
        self._index = run.prompts
        self._run_N = np.zeros(len(run.prompts), dtype=np.int32)

    def runs(self, prompt_ids: tuple[str, ...]) -> IntArray:
        """Trailing run of each prompt, shape [P]."""
        return self._run_N[self._index.rows(prompt_ids)].astype(np.int64)

    def observe(self, outcome: StepOutcome) -> tuple[float, float]:
        """Extend the runs by a step's groups; returns the shares of rollouts in all-correct and all-incorrect ones."""
        groups = outcome.prompts(self._index)
        for now in groups.rounds():
            rows = groups.rows_G[now]
            self._run_N[rows] = next_run(
                self._run_N[rows].astype(np.int64), groups.num_correct_G[now], groups.size_G[now]
            )
        total = max(int(groups.size_G.sum()), 1)
        num_easy = int(groups.size_G[groups.num_correct_G == groups.size_G].sum())
        return num_easy / total, int(groups.size_G[groups.num_correct_G == 0].sum()) / total
