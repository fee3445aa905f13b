"""A toy weighting rule: shorter rollouts count more."""

from dataclasses import dataclass

import numpy as np

from recipe.prepo.rules.base import Options, WeightingRule, number
from recipe.prepo.types import Panel

TOKENS = "prepo/short_first_tokens/mean"


class ShortFirst(WeightingRule):
    """``w_i = (l_i + 1)^-power``, scaled to mean 1."""

    saved = ("tokens", "num_steps")
    panels = (Panel("Response length", "Mean over all steps so far.", {TOKENS: "mean length"}, "tokens"),)

    @dataclass(frozen=True)
    class Config(Options):
        power: float = number("[0, 1]")

    def __init__(self, config, *, seed):
        super().__init__(config, seed=seed)
        self._tokens, self._num_steps = 0.0, 0

    def weigh(self, rollouts):
        self._tokens += float(rollouts.num_tokens_R.mean())
        self._num_steps += 1
        weight_R = (rollouts.num_tokens_R + 1.0) ** -self.config.power
        return weight_R / weight_R.mean()

    def metrics(self):
        return {TOKENS: self._tokens / self._num_steps}

    @classmethod
    def check_weights(cls, lines, options):
        raw = [(line["num_tokens"] + 1) ** -options["power"] for line in lines]
        mean = sum(raw) / len(raw)
        wrong = [line for line, w in zip(lines, raw, strict=True) if not np.isclose(line["weight"], w / mean)]
        return f"weight {wrong[0]['weight']} does not follow from {wrong[0]['num_tokens']} tokens" if wrong else ""
