"""What a rule is. A rule sees plain values, never a config object, a tensor or verl.

A rule's nested ``Config`` dataclass has a field for every key of its yaml and no default: defaults stand in the yaml
only. ``seed`` is handed to every rule; rules that draw make their own generator from it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from recipe.prepo.maths.skipping import Refill
from recipe.prepo.types import Candidates, FloatArray, IntArray, Panel, RolloutBatch, RunFacts, Selection, StepOutcome


def require_positive_integers(config: Any, *names: str) -> None:
    """Check options that count something.

    Raises:
        ValueError: names the first that is no integer of at least 1.
    """
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r} must be an integer of at least 1")


def require_between(config: Any, lowest: float, highest: float, *names: str) -> None:
    """Check options that are numbers.

    Raises:
        ValueError: names the first that is no number in [lowest, highest].
    """
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not lowest <= value <= highest:
            raise ValueError(f"{name}={value!r} is not a number in [{lowest:g}, {highest:g}]")


def require_shares(config: Any, *names: str) -> None:
    """Check options that are probabilities or shares.

    Raises:
        ValueError: names the first that is not in [0, 1].
    """
    require_between(config, 0.0, 1.0, *names)


def require_like(name: str, found: Any, mine: NDArray[Any]) -> None:
    """Check an array of a saved state, that has an entry for each prompt.

    Raises:
        ValueError: it is no array of the shape and type of ``mine``.
    """
    if not isinstance(found, np.ndarray) or (found.shape, found.dtype) != (mine.shape, mine.dtype):
        raise ValueError(f"«{name}» is not an array of {mine.dtype} with {len(mine)} entries")


class Rule:
    """Common part: observe outcomes, report metrics, save and load state. All optional."""

    needs_entropy: ClassVar[bool] = False
    """Whether the rule reads entropies of rollouts, so that the old-log-prob pass must have computed them."""

    panels: ClassVar[tuple[Panel, ...]] = ()
    """Figures that the report draws of the rule's metrics."""

    @dataclass(frozen=True)
    class Config:
        """Options of the rule, as its yaml has them."""

    def __init__(self, config: Any, *, seed: int) -> None:
        self.config = config

    def check_sizes(self, *, num_selected: int, rollouts_per_prompt: int) -> None:
        """Check the options against K and M, when the configuration is read.

        Raises:
            ValueError: they do not fit; says which of the rule's options or sizes to change.
        """

    def bind(self, run: RunFacts) -> None:
        """Learn about the run: called once, before its first step and before any state is loaded."""

    def observe(self, outcome: StepOutcome) -> None:
        """See the outcome of the step's rollouts (called once a step, before the update)."""

    def metrics(self) -> dict[str, float]:
        """Extra metrics of this rule; names end in /mean, /min, /max or /sum."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on with the same choices: JSON-able values and numpy arrays."""
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

    follows_progress: ClassVar[bool] = False
    """Whether it prefers other prompts early in the run than late, so that the first steps are unlike the rest."""

    @abstractmethod
    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        """Choose ``num_selected`` of the candidates at training progress rho in [0, 1]."""


class SkippingRule(SelectionRule, ABC):
    """Skips prompts one by one, and rolls out in rounds until K groups have a learning signal.

    ``select`` may choose fewer prompts than asked for; more candidates are then drawn, until there are enough.
    Groups without reward variance are thrown away, and a further round replaces them.
    """

    needs_scores = False
    uses_candidates = False

    @abstractmethod
    def first_round(self, num_selected: int) -> int:
        """Prompts of a step's first round, for K = ``num_selected``."""

    @abstractmethod
    def next_round(
        self, num_missing: int, *, zero_variance_frac: float, num_selected: int, refills: tuple[Refill, ...]
    ) -> Refill | None:
        """The next round of a step that lacks ``num_missing`` of K groups; None to train on what there is.

        Args:
            num_missing: groups with reward variance that are missing.
            zero_variance_frac: share of the last round's groups that had none.
            num_selected: K.
            refills: the step's refill rounds so far, in order.
        """


class WeightingRule(Rule, ABC):
    """Gives each rollout of the step a weight that multiplies its advantage."""

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


class ShapingRule(Rule, ABC):
    """Changes the rewards that advantages are computed from; every statistic keeps the raw ones."""

    is_identity: ClassVar[bool] = False
    """True when no reward is changed."""

    @abstractmethod
    def shape(self, rollouts: RolloutBatch) -> FloatArray:
        """Rewards for the advantages, shape [R]; 0 stays 0."""


class TemperatureRule(Rule, ABC):
    """Sets the sampling temperature of a step."""

    is_constant: ClassVar[bool] = False
    """True when every rollout of the run has the configured temperature."""

    @property
    def measures_target(self) -> bool:
        """Whether it holds what the run's first steps had."""
        return False

    @abstractmethod
    def temperature(self, base_temperature: float) -> float:
        """Temperature for sampling and log-probs of this step, given the configured one."""
