"""E3's adaptive temperature: keeps the policy's token entropy at a target (arXiv 2505.18573, equation 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from recipe.prepo.maths.entropy import token_mean_entropy_nats
from recipe.prepo.rules.base import Options, TemperatureRule, count, number
from recipe.prepo.types import Panel, RunFacts, StepOutcome

RANGE = "[0.01, 100]"  # vLLM samples greedily below it; above it the softmax is flat
LOWEST, HIGHEST = 0.01, 100.0
MAX_FACTOR = 2.0
TARGET = "prepo/entropy_target_nats/mean"


class EntropyTarget(TemperatureRule):
    """``tau <- tau * (1 + tau * ln(H_target / H) / D)``, ``D = ln V + ln ln V`` (arXiv 2505.18573, equation 4).

    ``H_target`` is the mean entropy ``H_0`` of the first ``init_steps`` steps. Over the last ``annealing_share`` of the
    run, from step ``s_a`` to ``s_max``, a cosine lowers it to ``eta = annealing_factor`` of that:
    ``H_0 * (eta + (1 - eta) * (1 + cos(pi * (s - s_a) / (s_max - s_a))) / 2)``. A new target acts one step later. H is
    the token mean of the step's rollouts at their own temperatures, from the old-log-prob pass, over all ranks.

    DEVIATIONS: the published code has no bounds; here a step changes the temperature by a factor of at most 2, within
    [0.01, 100]. It measures H in the update, on each rank alone, as an unweighted mean of micro-batches, and its
    reference log-probs keep the first temperature.
    """

    needs_entropy = True
    saved = ("temperature", "target_nats", "init_nats")
    panels = (
        Panel(
            "Token entropy and its target",
            "Mean over the tokens of each step's rollouts, and the target that the temperature holds.",
            {"prepo/token_entropy_nats/mean": "entropy", TARGET: "target"},
            "nats per token",
        ),
    )

    @dataclass(frozen=True)
    class Config(Options):
        target_nats: float | None = number("(0, inf)", optional=True)  # None: measured
        init_steps: int = count()
        annealing_share: float = number("[0, 1]")
        annealing_factor: float = number("(0, 1]")
        min_temperature: float | None = number(RANGE, optional=True)
        max_temperature: float | None = number(RANGE, optional=True)

        def __post_init__(self) -> None:
            super().__post_init__()
            low, high = self.bounds
            if low > high:
                raise ValueError(f"min_temperature={low} is above max_temperature={high}")

        @property
        def bounds(self) -> tuple[float, float]:
            return self.min_temperature or LOWEST, self.max_temperature or HIGHEST

    def __init__(self, config: Any, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._temperature: float | None = None  # the configured one until the first change
        self._init_nats: list[float] = []
        self._target_nats = None if config.target_nats is None else float(config.target_nats)

    def bind(self, run: RunFacts) -> None:
        self._depth = math.log(run.vocab_size) + math.log(math.log(run.vocab_size))
        self._total_steps = run.total_steps

    def temperature(self, base_temperature: float) -> float:
        if self._temperature is None:
            self._temperature = self._bounded(base_temperature)
        return self._temperature

    def _bounded(self, temperature: float) -> float:
        low, high = self.config.bounds
        return min(max(temperature, low), high)

    def observe(self, outcome: StepOutcome) -> None:
        trained = outcome.trained
        assert trained.entropy_nats_R is not None, "the rule needs entropies"
        entropy_nats = token_mean_entropy_nats(trained.entropy_nats_R, trained.num_tokens_R)
        if entropy_nats is None or self._temperature is None:
            return
        if self.config.target_nats is None and len(self._init_nats) < self.config.init_steps:
            self._init_nats.append(entropy_nats)
            self._target_nats = sum(self._init_nats) / len(self._init_nats)
            return
        self._temperature = self._bounded(self._temperature * self._factor(entropy_nats))
        self._target_nats = self._annealed_target(outcome.step)

    def _factor(self, entropy_nats: float) -> float:
        assert self._temperature is not None and self._target_nats is not None
        if self._target_nats <= 0.0:  # the policy was deterministic when the target was measured: nothing to hold
            return 1.0
        if entropy_nats <= 0.0:
            return MAX_FACTOR
        log_ratio = math.log(self._target_nats) - math.log(entropy_nats)
        return min(max(1.0 + self._temperature * log_ratio / self._depth, 1.0 / MAX_FACTOR), MAX_FACTOR)

    def _annealed_target(self, step: int) -> float:
        initial_nats = self.config.target_nats or sum(self._init_nats) / len(self._init_nats)
        length = int(self.config.annealing_share * self._total_steps)
        start = self._total_steps - length
        if step < start or length == 0:
            return initial_nats
        way, eta = min((step - start) / length, 1.0), self.config.annealing_factor
        return initial_nats * (eta + (1.0 - eta) * (1.0 + math.cos(math.pi * way)) / 2.0)

    def metrics(self) -> dict[str, float]:
        return {} if self._target_nats is None else {TARGET: self._target_nats}
