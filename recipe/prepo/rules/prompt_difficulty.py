"""E3's difficulty of each prompt (arXiv 2505.18573): pooled accuracy, ranked at the end of each epoch."""

from __future__ import annotations

from typing import Any

import numpy as np

from recipe.prepo.maths.difficulty import UNRANKED, difficulty_ranks
from recipe.prepo.rules.base import require_like
from recipe.prepo.types import FloatArray, RunFacts, StepOutcome


class PromptDifficulty:
    """Counts right answers of every rollout ever drawn for a prompt, and ranks the prompts at an epoch's end.

    Raw correctness is counted, never shaped rewards; nothing is forgotten, so old policies weigh on. A prompt without
    rollouts counts as accuracy 0. DEVIATIONS from the published code: ranks of the data file are not read (its budget
    is uniform in the first epoch anyway; its length bias would act from the first step), groups that were thrown away
    count too, and all of it is saved and loaded.

    Args:
        average_ties: see :func:`difficulty_ranks`.
        epoch_steps: steps between two rankings; None for the steps in which the data are drawn once.
    """

    def __init__(self, *, average_ties: bool, epoch_steps: int | None) -> None:
        self._average_ties = average_ties
        self._epoch_steps = epoch_steps

    def bind(self, run: RunFacts) -> None:
        self._index = run.prompts
        self._epoch_steps = self._epoch_steps or run.steps_per_epoch
        size = len(run.prompts)
        self._num_correct_N = np.zeros(size, dtype=np.int32)
        self._num_rollouts_N = np.zeros(size, dtype=np.int32)
        self._rank_N = np.full(size, UNRANKED)

    def observe(self, outcome: StepOutcome) -> bool:
        """Count the step's groups; True when an epoch ended with it, and the ranks are new."""
        groups = outcome.prompts(self._index)
        np.add.at(self._num_correct_N, groups.rows_G, groups.num_correct_G.astype(np.int32))
        np.add.at(self._num_rollouts_N, groups.rows_G, groups.size_G.astype(np.int32))
        assert self._epoch_steps is not None
        if outcome.step % self._epoch_steps:
            return False
        accuracy_N = self._num_correct_N / np.maximum(self._num_rollouts_N, 1)
        self._rank_N = difficulty_ranks(accuracy_N, average_ties=self._average_ties)
        return True

    def ranks(self, prompt_ids: tuple[str, ...]) -> FloatArray:
        """Ranks of these prompts, shape [P]; ``UNRANKED`` before the end of the first epoch."""
        return self._rank_N[self._index.rows(prompt_ids)]

    def state_dict(self) -> dict[str, Any]:
        return {
            "num_correct": self._num_correct_N.copy(),
            "num_rollouts": self._num_rollouts_N.copy(),
            "rank": self._rank_N.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``.

        Raises:
            KeyError, ValueError: a key is missing, or an array is not one of this training set.
        """
        for name, mine in (
            ("num_correct", self._num_correct_N),
            ("num_rollouts", self._num_rollouts_N),
            ("rank", self._rank_N),
        ):
            require_like(name, state[name], mine)
            mine[:] = state[name]


def check_options(*, ties: Any, epoch_steps: Any) -> None:
    """Check the two options that every user of :class:`PromptDifficulty` has.

    Raises:
        ValueError: says what is wrong with which value.
    """
    if ties not in ("row_order", "average"):
        raise ValueError(f"ties={ties!r} is not known: row_order (as published) or average")
    if epoch_steps is not None and not (type(epoch_steps) is int and epoch_steps >= 1):
        raise ValueError(f"epoch_steps={epoch_steps!r} must be null (the data drawn once) or an integer of at least 1")
