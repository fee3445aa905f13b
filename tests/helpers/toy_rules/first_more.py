"""A toy budget rule: the first prompt of a choice gets rollouts of the last one."""

from dataclasses import dataclass

import numpy as np

from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import BudgetRule, Options, count
from recipe.prepo.types import Panel

LARGEST = "prepo/first_more_rollouts/max"


class FirstMore(BudgetRule):
    """Moves up to ``most`` rollouts, a random number, from the last prompt to the first."""

    saved = ("generator", "moved")
    panels = (Panel("Rollouts of the first prompt", "Of the last choice.", {LARGEST: "first prompt"}, "rollouts"),)

    @dataclass(frozen=True)
    class Config(Options):
        most: int = count()

    def __init__(self, config, *, seed):
        super().__init__(config, seed=seed)
        self._generator = make_generator(seed, "budget.first_more")
        self._moved = np.empty(0)  # of each choice so far

    def check_sizes(self, *, num_selected, rollouts_per_prompt):
        if self.config.most >= rollouts_per_prompt:
            raise ValueError(f"most={self.config.most} would leave the last prompt without rollouts")

    def allocate(self, prompt_ids, *, rollouts_per_prompt):
        moved = int(self._generator.integers(self.config.most + 1)) if len(prompt_ids) > 1 else 0
        self._moved = np.append(self._moved, moved)
        size_P = np.full(len(prompt_ids), rollouts_per_prompt)
        size_P[0] += moved
        size_P[-1] -= moved
        self._largest = int(size_P[0])
        return size_P

    def metrics(self):
        return {LARGEST: float(self._largest)}
