"""E3's adaptive temperature: holds the policy's token entropy at a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recipe.prepo.maths.entropy_control import (
    TEMPERATURE_RANGE,
    annealed_target_nats,
    next_temperature,
    token_mean_entropy_nats,
)
from recipe.prepo.rules.base import TemperatureRule, require_positive_integers
from recipe.prepo.types import RunFacts, StepOutcome


class EntropyTarget(TemperatureRule):
    """``tau <- tau * (1 + tau * ln(H_target / H) / D)`` after each step (arXiv 2505.18573, equation 4).

    ``H_target`` is the mean entropy of the first ``init_steps`` steps, lowered by a cosine over the last
    ``annealing_share`` of the run to ``annealing_factor`` of it; a change of the target acts one step later. H is the
    token mean of the step's rollouts at their own temperatures, from the old-log-prob pass, over all ranks.
    DEVIATIONS: the published code measures H in the update, on each rank alone, and only where an entropy bonus is on
    (off in its scripts); the last two make the temperature wrong or constant. Its reference log-probs keep the first
    temperature; here they have the rollout's own.
    """

    needs_entropy = True

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
        self._target_nats = config.target_nats

    @property
    def measures_target(self) -> bool:
        return self.config.target_nats is None

    def bind(self, run: RunFacts) -> None:
        self._vocab_size = run.vocab_size
        self._total_steps = run.total_steps

    def temperature(self, base_temperature: float) -> float:
        if self._temperature is None:
            low, high = self.config.bounds
            self._temperature = min(max(base_temperature, low), high)
        return self._temperature

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
        low, high = self.config.bounds
        changed = next_temperature(
            self._temperature,
            entropy_nats=entropy_nats,
            target_nats=self._target_nats,
            vocab_size=self._vocab_size,
        )
        self._temperature = min(max(changed, low), high)
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
        return {} if self._target_nats is None else {"prepo/entropy_target_nats/mean": self._target_nats}

    def state_dict(self) -> dict[str, Any]:
        saved = {"temperature": self._temperature, "target_nats": self._target_nats}
        return {**saved, "init_nats": list(self._init_nats)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if set(state) != {"temperature", "init_nats", "target_nats"}:
            raise ValueError(f"entropy_target keeps temperature, init_nats and target_nats, found {sorted(state)}")
        temperature, target = state["temperature"], state["target_nats"]
        low, high = self.config.bounds
        if temperature is not None and not low <= temperature <= high:
            raise ValueError(f"temperature={temperature} is not in [{low}, {high}]")
        self._temperature = None if temperature is None else float(temperature)
        self._target_nats = None if target is None else float(target)
        self._init_nats = [float(value) for value in state["init_nats"]]
