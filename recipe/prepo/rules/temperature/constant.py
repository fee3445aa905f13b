"""A sampling temperature that never changes."""

from __future__ import annotations

from recipe.prepo.rules.base import TemperatureRule


class Constant(TemperatureRule):
    """``rollout.temperature`` at every step."""

    is_constant = True

    def temperature(self, base_temperature: float) -> float:
        return base_temperature
