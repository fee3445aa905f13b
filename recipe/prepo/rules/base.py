"""What a rule is. A rule sees plain values, never a config object, a tensor or verl.

A rule's nested ``Config`` dataclass has a field for every key of its yaml and no default: defaults stand in the yaml
only. ``seed`` is handed to every rule; rules that draw make their own generator from it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from recipe.prepo.notation import Candidates, FloatArray, IntArray, RolloutBatch, Selection


class Rule:
    """Common part: observe outcomes, report metrics, save and load state. All optional."""

    @dataclass(frozen=True)
    class Config:
        """Options of the rule, as its yaml has them."""

    def __init__(self, config: Any, *, seed: int) -> None:
        self.config = config

    def observe(self, rollouts: RolloutBatch) -> None:
        """See the outcome of the step's rollouts (called once a step, before the update)."""

    def metrics(self) -> dict[str, float]:
        """Extra metrics of this rule; names end in /mean, /min, /max or /sum."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on with the same choices; JSON-able."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``.

        Raises:
            ValueError: the state has other keys than this rule saves.
        """
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, found {sorted(state)}")


class SelectionRule(Rule, ABC):
    """Chooses which candidate prompts are rolled out."""

    needs_scores: ClassVar[bool]
    """Whether ``select`` reads perplexities, so that the candidates must be scored first."""

    uses_candidates: ClassVar[bool] = True
    """False for rules that take every prompt they are given: a step then draws K prompts, not |B|."""

    @abstractmethod
    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        """Choose ``num_selected`` of the candidates at training progress rho in [0, 1]."""


class WeightingRule(Rule, ABC):
    """Gives each rollout of the step a weight that multiplies its advantage."""

    needs_entropy: ClassVar[bool]
    """Whether ``weigh`` reads entropies, so that the old-log-prob pass must have computed them."""

    is_identity: ClassVar[bool] = False
    """True when every weight is 1: the advantages are then left untouched, bit for bit."""

    @abstractmethod
    def weigh(self, rollouts: RolloutBatch) -> FloatArray:
        """Weights of the step's rollouts, shape [R], finite and not negative."""


class BudgetRule(Rule, ABC):
    """Splits the step's rollouts over the chosen prompts."""

    @abstractmethod
    def allocate(self, prompt_ids: tuple[str, ...], *, rollouts_per_prompt: int) -> IntArray:
        """Group size of each chosen prompt, shape [P], sum P * rollouts_per_prompt."""


class TemperatureRule(Rule, ABC):
    """Sets the sampling temperature of a step."""

    @abstractmethod
    def temperature(self, base_temperature: float) -> float:
        """Temperature for sampling and log-probs of this step, given the configured one."""
