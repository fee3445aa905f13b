"""A toy temperature rule: falls with the share of correct rollouts."""

from dataclasses import dataclass

from recipe.prepo.rules.base import Options, TemperatureRule, number
from recipe.prepo.types import Panel

CORRECT = "prepo/cool_down_correct_frac/mean"


class CoolDown(TemperatureRule):
    """The configured temperature minus ``slope`` times the mean reward of the steps so far."""

    saved = ("rewards",)
    panels = (
        Panel("Reward", "With the temperature.", {CORRECT: "mean", "prepo/temperature/mean": "temperature"}, "reward"),
    )

    @dataclass(frozen=True)
    class Config(Options):
        slope: float = number("[0, 0.5]")

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
