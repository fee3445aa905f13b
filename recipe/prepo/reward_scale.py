"""Notices rewards whose scale the definition of a correct rollout does not fit, from what the run has seen so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recipe.prepo.errors import ConfigError
from recipe.prepo.maths.correctness import CORRECT_ABOVE
from recipe.prepo.maths.groups import group_statistics
from recipe.prepo.rules.base import Stateful
from recipe.prepo.types import RolloutBatch

LARGEST_REWARD = 1.5
"""Beyond it, or below its negative, 0.5 says nothing: rewards may be 10 and 1, or percentages."""
FORMAT_POINTS = 0.25
"""Rewards of a group that differ by more than this differ by more than points for the format."""
ENOUGH_GROUPS = 4
"""So many groups with such rewards, and not one with correct and incorrect rollouts, are no coincidence."""
ENOUGH_STEPS = 5
HOW = (
    "Set prepo.correct_above to a number between the rewards of incorrect and correct answers, or return a dictionary "
    "with 'score' and 'acc' (1 for correct, else 0)"
)


class RewardScale(Stateful):
    """Watches the value that decides whether a rollout is correct: its ``acc``, else its reward.

    ``is_learned``: whether a rule learns from correctness, so that a wrong threshold makes it choose nonsense.
    """

    saved = ("lowest", "highest", "num_rollouts", "num_correct", "num_different", "num_mixed", "num_steps")

    def __init__(self, *, correct_above: float | None, reward_range: Sequence[float] | None, is_learned: bool) -> None:
        self._is_automatic = correct_above is None and reward_range is None
        self._range = reward_range
        self._is_learned = is_learned
        self._lowest: float | None = None
        self._highest: float | None = None
        self._num_rollouts = self._num_different = self._num_mixed = self._num_steps = 0
        self._num_correct = 0.0
        self._told = False

    def observe(self, rollouts: RolloutBatch) -> str:
        """See a step's rollouts before any rule learns from them; returns what to tell the user, once in a run.

        Raises:
            ConfigError: a rule would learn from a threshold that does not fit. Names the option.
        """
        if not len(rollouts):
            return ""
        value_R = rollouts.reward_R
        if self._range is None:
            value_R = np.where(np.isnan(rollouts.acc_R), rollouts.reward_R, rollouts.acc_R)
        groups = group_statistics(value_R, rollouts.group_R, rollouts.correct_R)
        low, high = float(value_R.min()), float(value_R.max())
        self._lowest = low if self._lowest is None else min(low, self._lowest)
        self._highest = high if self._highest is None else max(high, self._highest)
        self._num_rollouts += len(rollouts)
        self._num_correct += float(groups.num_correct_G.sum())
        self._num_different += int((groups.spread_G > FORMAT_POINTS).sum())
        self._num_mixed += int(((groups.num_correct_G > 0) & (groups.num_correct_G < groups.size_G)).sum())
        self._num_steps += 1
        return self._verdict(self._lowest, self._highest)

    def _verdict(self, low: float, high: float) -> str:
        span = f"all {low:g}" if low == high else f"between {low:g} and {high:g}"
        is_far = max(-low, high) > LARGEST_REWARD
        is_blind = self._num_different >= ENOUGH_GROUPS and not self._num_mixed
        if self._is_automatic and (is_far or is_blind):
            counted = "all" if self._num_correct == self._num_rollouts else f"{self._num_correct:.0f}"
            text = (
                f"the rewards of the first {self._num_rollouts:,} rollouts are {span}. A reward above {CORRECT_ABOVE} "
                f"counts as correct (prepo.correct_above=null), which is {counted} of them, and does not fit this scale"
            )
            if self._is_learned:
                raise ConfigError(f"{text}, so the rules would learn nonsense. {HOW}.")
            return self._once(f"{text}; prepo/all_correct_frac and prepo/all_wrong_frac depend on it. {HOW}.")
        if self._range and not self._range[0] <= low <= high <= self._range[1]:
            return self._once(f"rewards are {span}: those outside of prepo.reward_range={list(self._range)} are cut.")
        if self._num_steps >= ENOUGH_STEPS and self._num_correct in (0, self._num_rollouts):
            kind = "every rollout counts" if self._num_correct else "no rollout counts"
            return self._once(
                f"after {self._num_steps} steps {kind} as correct: the rewards are {span}. Is the reward right "
                f"(reward.custom_reward_function)? {HOW}."
            )
        return ""

    def _once(self, text: str) -> str:
        told, self._told = self._told, True
        return "" if told else text
