"""E3's difficulty of each prompt (arXiv 2505.18573): pooled accuracy, ranked at the end of each epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recipe.prepo.rules.base import Options, Stateful, choice, count
from recipe.prepo.types import FloatArray, RunFacts, StepOutcome

UNRANKED = -100.0
"""Rank of a prompt before the first ranking. Allocations treat it as 0 (easiest), as the published code does."""


@dataclass(frozen=True)
class RankOptions(Options):
    """How prompts are ranked.

    ties: order prompts of equal accuracy as in the data set (``row_order``, as published), or give them their mean
        rank (``average``).
    epoch_steps: steps between two rankings; None for the steps in which the data are drawn once.
    """

    ties: str = choice("row_order", "average")
    epoch_steps: int | None = count(optional=True)


def difficulty_ranks(accuracy_N: FloatArray, *, average_ties: bool) -> FloatArray:
    """Rank ``k_i`` in [0, 1) of each prompt by descending accuracy, shape [N]: 0 is the easiest, towards 1 the hardest.

    >>> difficulty_ranks(np.array([0.0, 1.0, 0.5, 0.0]), average_ties=False).tolist()
    [0.5, 0.0, 0.25, 0.75]
    >>> difficulty_ranks(np.array([0.0, 1.0, 0.5, 0.0]), average_ties=True).tolist()
    [0.625, 0.0, 0.25, 0.625]
    """
    if average_ties:
        _, kind_N, size_K = np.unique(-accuracy_N, return_inverse=True, return_counts=True)
        return (np.cumsum(size_K) - (size_K + 1) / 2.0)[kind_N] / len(accuracy_N)
    return np.argsort(np.argsort(-accuracy_N, kind="stable")) / len(accuracy_N)


class PromptDifficulty(Stateful):
    """Counts the correct rollouts of each prompt over the whole run, and ranks the prompts at the end of an epoch.

    It counts raw correctness, never shaped rewards, and forgets nothing. A prompt without rollouts has accuracy 0.
    DEVIATIONS from the published code: ranks in the data file are not read, discarded groups count too, and everything
    is saved.
    """

    saved = ("num_correct_N", "num_rollouts_N", "rank_N")

    def __init__(self, options: RankOptions) -> None:
        self._options = options

    def bind(self, run: RunFacts) -> None:
        self._index = run.prompts
        self._epoch_steps = self._options.epoch_steps or run.steps_per_epoch
        self._num_correct_N = np.zeros(len(run.prompts), dtype=np.float64 if run.grades_correctness else np.int32)
        self._num_rollouts_N = np.zeros(len(run.prompts), dtype=np.int32)
        self._rank_N = np.full(len(run.prompts), UNRANKED)

    def observe(self, outcome: StepOutcome) -> bool:
        """Count the step's groups; True when an epoch ended with it, so that the ranks are new."""
        groups = outcome.prompts(self._index)
        np.add.at(self._num_correct_N, groups.rows_G, groups.num_correct_G.astype(self._num_correct_N.dtype))
        np.add.at(self._num_rollouts_N, groups.rows_G, groups.size_G.astype(np.int32))
        if outcome.step % self._epoch_steps:
            return False
        accuracy_N = self._num_correct_N / np.maximum(self._num_rollouts_N, 1)
        self._rank_N = difficulty_ranks(accuracy_N, average_ties=self._options.ties == "average")
        return True

    def ranks(self, prompt_ids: tuple[str, ...]) -> FloatArray:
        """Ranks of these prompts, shape [P]; ``UNRANKED`` before the end of the first epoch."""
        return self._rank_N[self._index.rows(prompt_ids)]
