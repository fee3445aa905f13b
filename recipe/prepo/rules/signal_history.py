"""GRESO's memory of each prompt (arXiv 2506.02177): how many groups in a row gave no learning signal."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipe.prepo.maths.skipping import next_run
from recipe.prepo.rules.base import require_like
from recipe.prepo.types import IntArray, RunFacts, StepOutcome


def skip_reasons(is_skipped_C: NDArray[np.bool_], run_C: IntArray) -> dict[int, str]:
    """Why each skipped candidate was, by its position, from its trailing run; arrays of shape [C]."""
    reasons = dict.fromkeys(np.flatnonzero(is_skipped_C & (run_C > 0)).tolist(), "all_right_before")
    return reasons | dict.fromkeys(np.flatnonzero(is_skipped_C & (run_C < 0)).tolist(), "all_wrong_before")


class SignalHistory:
    """The trailing run of each prompt: n > 0 after n all-right groups in a row, n < 0 after all-wrong ones, else 0.

    The published code keeps every group's mean reward and reads only this from it.
    """

    def bind(self, run: RunFacts) -> None:
        self._index = run.prompts
        self._run_N = np.zeros(len(run.prompts), dtype=np.int32)

    def runs(self, prompt_ids: tuple[str, ...]) -> IntArray:
        """Trailing run of each prompt, shape [P]."""
        return self._run_N[self._index.rows(prompt_ids)].astype(np.int64)

    def observe(self, outcome: StepOutcome) -> tuple[float, float]:
        """Extend the runs by a step's groups; returns the shares of its rollouts in all-right and all-wrong groups."""
        groups = outcome.prompts(self._index)
        for now in groups.rounds():
            rows = groups.rows_G[now]
            self._run_N[rows] = next_run(
                self._run_N[rows].astype(np.int64), groups.num_correct_G[now], groups.size_G[now]
            )
        total = max(int(groups.size_G.sum()), 1)
        num_right = int(groups.size_G[groups.num_correct_G == groups.size_G].sum())
        return num_right / total, int(groups.size_G[groups.num_correct_G == 0].sum()) / total

    def state_dict(self) -> dict[str, Any]:
        return {"run": self._run_N.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``.

        Raises:
            KeyError, ValueError: the key is missing, or the array is not one of this training set.
        """
        run_N = state["run"]
        require_like("run", run_N, self._run_N)
        self._run_N[:] = run_N
