"""E3's length bias: among correct answers to the easiest prompts, shorter ones earn more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recipe.prepo.maths.correctness import CORRECT_ABOVE
from recipe.prepo.rules.base import ShapingRule, number
from recipe.prepo.rules.prompt_difficulty import PromptDifficulty, RankOptions
from recipe.prepo.types import FloatArray, Panel, RolloutBatch, RunFacts, StepOutcome


class LengthBias(ShapingRule):
    """``r = 1 / (1 + mu * l)`` for a correct answer of l tokens to one of the easiest ``easiest_share`` of prompts.

    From the README of the code of arXiv 2505.18573 (not in the paper, off in its scripts). Ranks are those of the start
    of the epoch; before the first ranking no reward is changed. DEVIATIONS: only the rewards for the advantages change,
    not those of statistics and metrics; a second mode, which never acts, is left out.
    """

    reads_correctness = True
    saved = ("difficulty",)
    panels = (
        Panel(
            "Rollouts with a length bias",
            "Share of the trained rollouts whose reward depends on their length.",
            {"prepo/length_biased_frac/mean": "with a length bias"},
            "share of rollouts",
        ),
    )

    @dataclass(frozen=True)
    class Config(RankOptions):
        mu: float = number("(0, 1)")
        easiest_share: float = number("(0, 1]")

    def __init__(self, config: Any, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._difficulty = PromptDifficulty(config)
        self._shaped_share = 0.0

    def bind(self, run: RunFacts) -> None:
        self._difficulty.bind(run)

    def shape(self, rollouts: RolloutBatch) -> FloatArray:
        rank_R = self._difficulty.ranks(tuple(rollouts.prompt_ids))
        is_easy_R = (rank_R >= 0.0) & (rank_R <= self.config.easiest_share)
        is_shaped_R = is_easy_R & (rollouts.correct_R > CORRECT_ABOVE)
        self._shaped_share = float(is_shaped_R.mean()) if len(rollouts) else 0.0
        factor_R = np.where(is_shaped_R, 1.0 / (1.0 + self.config.mu * rollouts.num_tokens_R), 1.0)
        return rollouts.reward_R * factor_R

    def observe(self, outcome: StepOutcome) -> None:
        self._difficulty.observe(outcome)

    def metrics(self) -> dict[str, float]:
        return {"prepo/length_biased_frac/mean": self._shaped_share}
