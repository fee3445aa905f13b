"""E3's difficulty of each prompt (arXiv 2505.18573): pooled accuracy, ranked at the end of each epoch."""

from __future__ import annotations

from typing import Any

import numpy as np

from recipe.prepo.rules.base import Stateful
from recipe.prepo.types import FloatArray, RunFacts, StepOutcome

UNRANKED = -100.0
"""Rank of a prompt before the first ranking. Allocations treat it as 0 (easiest), as the published code does."""


def check_options(*, ties: Any, epoch_steps: Any) -> None:
    """Check the two options that every user of :class:`PromptDifficulty` has.

    Raises:
        ValueError: names the value and what it may be.
    """
    if ties not in ("row_order", "average"):
        raise ValueError(f"ties={ties!r} is not known: row_order (as published) or average")
    if epoch_steps is not None and not (type(epoch_steps) is int and epoch_steps >= 1):
        raise ValueError(
            f"epoch_steps={epoch_steps!r} must be an integer of at least 1, or null for an epoch of the data"
        )


def difficulty_ranks(accuracy_N: FloatArray, *, average_ties: bool) -> FloatArray:
    """Rank ``k_i`` in [0, 1) of each prompt by descending accuracy: 0 is the easiest, towards 1 the hardest.

    Args:
        accuracy_N: pooled accuracy of each prompt, shape [N]; 0 for a prompt without rollouts.
        average_ties: give prompts of equal accuracy their mean rank; otherwise the order of the data set decides, as
            in the published code.

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


class PromptDifficulty(Stateful):
    """Counts the correct rollouts of each prompt over the whole run, and ranks the prompts at the end of an epoch.

    It counts raw correctness, never shaped rewards, and forgets nothing, so old policies keep their influence. A
    prompt without rollouts has accuracy 0. DEVIATIONS from the published code: ranks in the data file are not read
    (its budget is uniform in the first epoch anyway; its length bias would act from the first step), discarded groups
    count too, and everything is saved and loaded.

    Args:
        average_ties: see :func:`difficulty_ranks`.
        epoch_steps: steps between two rankings; None for the steps in which the data are drawn once.
    """

    saved = ("num_correct_N", "num_rollouts_N", "rank_N")

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
        """Count the step's groups; True when an epoch ended with it, so that the ranks are new."""
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
