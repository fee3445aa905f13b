"""E3's adaptive temperature: keeps the policy's token entropy at a target (arXiv 2505.18573, equation 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from recipe.prepo.maths.entropy import token_mean_entropy_nats
from recipe.prepo.rules.base import TemperatureRule, require_positive_integers
from recipe.prepo.types import Panel, RunFacts, StepOutcome

TEMPERATURE_RANGE = (0.01, 100.0)
"""Outside it vLLM samples greedily, or the softmax is flat; a temperature never leaves it."""
MAX_FACTOR = 2.0
TARGET = "prepo/entropy_target_nats/mean"


def next_temperature(temperature: float, *, entropy_nats: float, target_nats: float, vocab_size: int) -> float:
    """``tau <- tau * (1 + tau * ln(alpha) / D)``, ``alpha = H_target / H``, ``D = ln V + ln ln V``.

    If one logit dominates the next-token distribution by about D, this change scales the entropy by alpha, to first
    order.

    DEVIATION: the published code has no bound. Here a step changes the temperature by a factor of at most 2 either
    way, and never beyond ``TEMPERATURE_RANGE``. Otherwise an entropy near 0 would give an infinite temperature, and an
    entropy far above its target a negative one.

    >>> round(next_temperature(1.0, entropy_nats=0.38, target_nats=0.4, vocab_size=151936), 6)
    1.003559
    """
    assert vocab_size >= 3, "ln ln V must be positive"
    depth = math.log(vocab_size) + math.log(math.log(vocab_size))
    if target_nats <= 0.0:  # the policy was deterministic when the target was measured: nothing to hold
        return temperature
    if entropy_nats <= 0.0:
        factor = MAX_FACTOR
    else:
        factor = 1.0 + temperature * (math.log(target_nats) - math.log(entropy_nats)) / depth
    factor = min(max(factor, 1.0 / MAX_FACTOR), MAX_FACTOR)
    return min(max(temperature * factor, TEMPERATURE_RANGE[0]), TEMPERATURE_RANGE[1])


def annealed_target_nats(initial_nats: float, *, step: int, total_steps: int, share: float, end_factor: float) -> float:
    """Entropy target over the run: constant, then a cosine down to ``end_factor`` over the last ``share`` of the steps.

    ``H_init * (eta + (1 - eta) * (1 + cos(pi * (s - s_a) / (s_max - s_a))) / 2)`` from ``s_a = s_max - floor(share *
    s_max)``.

    >>> [round(annealed_target_nats(1.0, step=s, total_steps=480, share=0.4, end_factor=0.9), 5) for s in (336, 432)]
    [0.98536, 0.91464]
    """
    length = int(share * total_steps)
    start = total_steps - length
    if step < start or length == 0:
        return initial_nats
    way = min((step - start) / length, 1.0)
    return initial_nats * (end_factor + (1.0 - end_factor) * (1.0 + math.cos(math.pi * way)) / 2.0)


class EntropyTarget(TemperatureRule):
    """``tau <- tau * (1 + tau * ln(H_target / H) / D)`` after each step (arXiv 2505.18573, equation 4).

    ``H_target`` is the mean entropy of the first ``init_steps`` steps. A cosine lowers it to ``annealing_factor`` of
    itself over the last ``annealing_share`` of the run; a new target acts one step later. H is the token mean of the
    step's rollouts at their own temperatures, from the old-log-prob pass, over all ranks.

    DEVIATIONS: the published code measures H in the update, on each rank alone, as an unweighted mean of
    micro-batches, and only with an entropy bonus (off in its scripts), so that its temperature is wrong or constant.
    Its reference log-probs keep the first temperature; here they use the rollout's own.
    """

    needs_entropy = True
    saved = ("temperature", "target_nats", "init_nats")
    metric_notes: ClassVar = {TARGET: "Token entropy that the temperature holds, in nats per token."}
    panels = (
        Panel(
            title="Token entropy and its target",
            caption="Mean over the tokens of each step's rollouts, and the target that the temperature holds.",
            series={"prepo/token_entropy_nats/mean": "entropy", TARGET: "target"},
            y_label="nats per token",
        ),
    )

    @dataclass(frozen=True)
    class Config:
        target_nats: float | None
        init_steps: int
        annealing_share: float
        annealing_factor: float
        min_temperature: float | None
        max_temperature: float | None

        def __post_init__(self) -> None:
            if self.target_nats is not None and not 0.0 < self.target_nats < float("inf"):
                raise ValueError(f"target_nats={self.target_nats} must be a number above 0, or null to measure it")
            require_positive_integers(self, "init_steps")
            if not 0.0 <= self.annealing_share <= 1.0:
                raise ValueError(f"annealing_share={self.annealing_share} is not in [0, 1]; 0 keeps the target")
            if not 0.0 < self.annealing_factor <= 1.0:
                raise ValueError(f"annealing_factor={self.annealing_factor} is not in (0, 1]")
            low, high = self.bounds
            if not TEMPERATURE_RANGE[0] <= low <= high <= TEMPERATURE_RANGE[1]:
                raise ValueError(
                    f"min_temperature={self.min_temperature}, max_temperature={self.max_temperature} must be ascending "
                    f"and lie in {list(TEMPERATURE_RANGE)}; null for no bound"
                )

        @property
        def bounds(self) -> tuple[float, float]:
            low = TEMPERATURE_RANGE[0] if self.min_temperature is None else self.min_temperature
            return low, TEMPERATURE_RANGE[1] if self.max_temperature is None else self.max_temperature

    def __init__(self, config: Config, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._temperature: float | None = None  # the configured one until the first change
        self._init_nats: list[float] = []
        self._target_nats = None if config.target_nats is None else float(config.target_nats)

    @property
    def measures_target(self) -> bool:
        return self.config.target_nats is None

    def bind(self, run: RunFacts) -> None:
        self._vocab_size = run.vocab_size
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
            self._target_nats = self._initial_nats
            return
        assert self._target_nats is not None
        changed = next_temperature(
            self._temperature,
            entropy_nats=entropy_nats,
            target_nats=self._target_nats,
            vocab_size=self._vocab_size,
        )
        self._temperature = self._bounded(changed)
        self._target_nats = annealed_target_nats(
            self._initial_nats,
            step=outcome.step,
            total_steps=self._total_steps,
            share=self.config.annealing_share,
            end_factor=self.config.annealing_factor,
        )

    @property
    def _initial_nats(self) -> float:
        return self.config.target_nats or sum(self._init_nats) / len(self._init_nats)

    def metrics(self) -> dict[str, float]:
        return {} if self._target_nats is None else {TARGET: self._target_nats}

    def check_state(self, state: Mapping[str, Any]) -> None:
        super().check_state(state)
        low, high = self.config.bounds
        if state["temperature"] is not None and not low <= state["temperature"] <= high:
            raise ValueError(f"temperature={state['temperature']} is not in [{low}, {high}]")
