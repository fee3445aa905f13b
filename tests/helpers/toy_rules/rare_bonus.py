"""A toy shaping rule: correct answers to prompts that were seldom correct earn more."""

from dataclasses import dataclass

import numpy as np

from recipe.prepo.rules.base import Options, ShapingRule, number
from recipe.prepo.types import Panel

BONUS = "prepo/rare_bonus/mean"


class RareBonus(ShapingRule):
    """Reward times ``1 + bonus / (1 + c)``, with c correct rollouts of the prompt so far."""

    saved = ("correct_N",)
    panels = (Panel("Bonus", "Mean over the trained rollouts.", {BONUS: "factor"}, "factor"),)

    @dataclass(frozen=True)
    class Config(Options):
        bonus: float = number("[0, 1]")

    def bind(self, run):
        self._index, self._correct_N = run.prompts, np.zeros(len(run.prompts), dtype=np.int32)

    def shape(self, rollouts):
        factor_R = 1.0 + self.config.bonus / (1.0 + self._correct_N[self._index.rows(rollouts.prompt_ids)])
        self._mean_factor = float(factor_R.mean())
        return rollouts.reward_R * factor_R

    def observe(self, outcome):
        groups = outcome.prompts(self._index)
        np.add.at(self._correct_N, groups.rows_G, groups.num_correct_G.astype(np.int32))

    def metrics(self):
        return {BONUS: self._mean_factor}
