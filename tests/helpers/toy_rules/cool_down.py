"""A toy temperature rule: falls with the share of correct rollouts."""

from dataclasses import dataclass
from typing import ClassVar

from recipe.prepo.rules.base import TemperatureRule, require_between
from recipe.prepo.types import Panel

CORRECT = "prepo/cool_down_correct_frac/mean"


class CoolDown(TemperatureRule):
    """The configured temperature minus ``slope`` times the mean reward of the steps so far."""

    saved = ("rewards",)
    metric_notes: ClassVar = {CORRECT: "Mean reward of the steps so far."}
    panels = (
        Panel("Reward", "With the temperature.", {CORRECT: "mean", "prepo/temperature/mean": "temperature"}, "reward"),
    )

    @dataclass(frozen=True)
    class Config:
        slope: float

        def __post_init__(self):
            require_between(self, 0.0, 0.5, "slope")

    def __init__(self, config, *, seed):
        super().__init__(config, seed=seed)
        self._rewards = []

    def temperature(self, base_temperature):
        return base_temperature - self.config.slope * self._mean()

    def observe(self, outcome):
        self._rewards.append(float(outcome.trained.reward_R.mean()))

    def metrics(self):
        return {CORRECT: self._mean()}

    def _mean(self):
        return sum(self._rewards) / max(len(self._rewards), 1)
