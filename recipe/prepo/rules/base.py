"""Base classes of the rules. A rule sees plain values, never a config object, a tensor or verl.

The nested ``Config`` dataclass of a rule has one field per key of its yaml and no defaults: defaults live in the yaml.
Every rule gets ``seed``; rules that draw make their own generators from it.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recipe.prepo.types import (
    Candidates,
    FloatArray,
    IntArray,
    Panel,
    Refill,
    RolloutBatch,
    RunFacts,
    Selection,
    StepOutcome,
)

AuditLine = Mapping[str, Any]


def require_positive_integers(config: Any, *names: str) -> None:
    """Check options that count something.

    Raises:
        ValueError: names the first that is not an integer of at least 1.
    """
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}={value!r} must be an integer of at least 1")


def require_between(config: Any, lowest: float, highest: float, *names: str) -> None:
    """Check options that are numbers.

    Raises:
        ValueError: names the first that is not a number in [lowest, highest].
    """
    for name in names:
        value = getattr(config, name)
        if not _is_number(value) or not lowest <= value <= highest:
            raise ValueError(f"{name}={value!r} is not a number in [{lowest:g}, {highest:g}]")


def require_shares(config: Any, *names: str) -> None:
    """Check options that are probabilities or shares: numbers in [0, 1]."""
    require_between(config, 0.0, 1.0, *names)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Stateful:
    """Saves, checks and loads the attributes that ``saved`` names.

    The attribute ``_x`` of the name ``x`` holds a generator, an array, a number or None, a list of numbers, or another
    ``Stateful``. A saved array must have the dtype and shape of the attribute that it replaces; where that one is still
    empty (shape [0, ...]) any number of rows fits. State is loaded into a fresh object only.
    """

    saved: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to make the same choices: JSON values and NumPy arrays, as copies."""
        return {name: _copied(getattr(self, f"_{name}")) for name in self.saved}

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Check a saved state before anything is loaded. Override to check ranges too, after ``super()``'s checks.

        Raises:
            ValueError: names what does not fit.
        """
        if not isinstance(state, Mapping) or set(state) != set(self.saved):
            found = sorted(state) if isinstance(state, Mapping) else state
            raise ValueError(f"{type(self).__name__} saves {sorted(self.saved)}, found {found}")
        for name in self.saved:
            _check_value(name, state[name], like=getattr(self, f"_{name}"))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            ValueError: the state does not fit; nothing was changed.
        """
        self.check_state(state)
        for name in self.saved:
            mine = getattr(self, f"_{name}")
            if isinstance(mine, Stateful):
                mine.load_state_dict(state[name])
            elif isinstance(mine, np.random.Generator):
                mine.bit_generator.state = state[name]
            else:
                setattr(self, f"_{name}", copy.copy(state[name]))


def _copied(value: Any) -> Any:
    if isinstance(value, Stateful):
        return value.state_dict()
    return value.bit_generator.state if isinstance(value, np.random.Generator) else copy.copy(value)


def _check_value(name: str, found: Any, *, like: Any) -> None:
    if isinstance(like, Stateful):
        like.check_state(found)
    elif isinstance(like, np.random.Generator):
        try:
            type(like.bit_generator)().state = found
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"{name!r} is not the state of a {type(like.bit_generator).__name__} generator") from error
    elif isinstance(like, np.ndarray):
        shape = ("any", *like.shape[1:]) if like.shape[0] == 0 else like.shape
        fits = isinstance(found, np.ndarray) and found.dtype == like.dtype and found.ndim == like.ndim
        if not fits or any(mine not in ("any", size) for mine, size in zip(shape, found.shape, strict=True)):
            raise ValueError(f"{name!r} is not an array of {like.dtype} with the shape {list(shape)}")
    elif isinstance(like, list):
        if not isinstance(found, list) or not all(map(_is_number, found)):
            raise ValueError(f"{name}={found!r} is not a list of numbers")
    elif not (found is None and like is None):
        is_integer = isinstance(like, int)
        if not _is_number(found) or not math.isfinite(found) or (is_integer and not isinstance(found, int)):
            raise ValueError(f"{name}={found!r} is not {'an integer' if is_integer else 'a finite number'}")


@dataclass(frozen=True)
class NoOptions:
    """Config of rules that have nothing to set."""


class Rule(Stateful, ABC):
    """Base class of all rules. A step calls ``observe`` once, then ``metrics`` once."""

    Config: ClassVar[type] = NoOptions

    needs_entropy: ClassVar[bool] = False
    """Whether the rule reads the rollouts' entropies, so that every run with it must have them."""

    metric_notes: ClassVar[Mapping[str, str]] = {}
    """Name of each metric of the rule -> its meaning in one sentence. Names end in /mean, /min, /max or /sum."""

    panels: ClassVar[tuple[Panel, ...]] = ()
    """What the rule adds to the report."""

    def __init__(self, config: Any, *, seed: int) -> None:
        self.config = config

    def check_sizes(self, *, num_selected: int, rollouts_per_prompt: int) -> None:
        """Check the options against K and M when the configuration is read.

        Raises:
            ValueError: they do not fit; says which option or size to change.
        """

    def bind(self, run: RunFacts) -> None:
        """Learn about the run. Called once, before the first step and before any state is loaded."""

    def observe(self, outcome: StepOutcome) -> None:
        """See the outcome of the step's rollouts, before the update."""

    def metrics(self) -> dict[str, float]:
        """The rule's metrics of this step; ``metric_notes`` explains them."""
        return {}


class SelectionRule(Rule):
    """Chooses the candidate prompts that are rolled out."""

    needs_scores: ClassVar[bool]
    """Whether ``select`` reads perplexities, so that the candidates must be scored first."""

    uses_candidates: ClassVar[bool] = True
    """False for rules that take every prompt they are given: a step then draws K prompts, not |B|."""

    @property
    def follows_progress(self) -> bool:
        """Whether it prefers other prompts early in the run than late, so that the first steps are not typical."""
        return False

    @abstractmethod
    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        """Choose ``num_selected`` of the candidates at training progress rho in [0, 1]."""

    @classmethod
    def check_choice(cls, line: AuditLine, options: Mapping[str, Any]) -> str:
        """Recompute a choice from its audit line alone, in plain Python and without the code of ``select``.

        Args:
            line: a line of ``audit/selection.jsonl`` that lists each candidate once, as chosen or as skipped.
            options: the rule's options from the run's config.yaml.

        Returns:
            The difference found; "" when the line agrees with the rule.
        """
        return "" if line["window_start"] is None else "a rule without a window has a window_start"


class SkippingRule(SelectionRule):
    """Skips prompts one by one, and rolls out in rounds until K groups have a learning signal.

    ``select`` may choose fewer prompts than asked for; more candidates are then drawn until there are enough. Groups
    without reward variance are discarded, and a further round replaces them.
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
        """The next round of a step that lacks groups; None to train on the groups that it has.

        Args:
            num_missing: groups with reward variance that the step still lacks.
            zero_variance_frac: share of the last round's groups without reward variance.
            num_selected: K.
            refills: the step's refill rounds so far, in order.
        """


class WeightingRule(Rule):
    """Gives each rollout of the step a weight that multiplies its advantage."""

    is_identity: ClassVar[bool] = False
    """True when every weight is 1: advantages then stay untouched, bit for bit."""

    @abstractmethod
    def weigh(self, rollouts: RolloutBatch) -> FloatArray:
        """Weights of the step's rollouts, shape [R], finite and not negative, with mean 1."""

    @classmethod
    def check_weights(cls, lines: Sequence[AuditLine], options: Mapping[str, Any]) -> str:
        """Recompute the weights of an update from its lines of ``audit/rollouts.jsonl``, as ``check_choice`` does."""
        return ""


class BudgetRule(Rule):
    """Splits the step's rollouts over the chosen prompts."""

    @abstractmethod
    def allocate(self, prompt_ids: tuple[str, ...], *, rollouts_per_prompt: int) -> IntArray:
        """Group size of each chosen prompt, shape [P], with sum P * rollouts_per_prompt."""


class ShapingRule(Rule):
    """Changes the rewards that advantages are computed from. Statistics keep the raw rewards."""

    is_identity: ClassVar[bool] = False
    """True when no reward is changed."""

    @abstractmethod
    def shape(self, rollouts: RolloutBatch) -> FloatArray:
        """Rewards for the advantages, shape [R]; 0 stays 0."""


class TemperatureRule(Rule):
    """Sets the sampling temperature of a step."""

    is_constant: ClassVar[bool] = False
    """True when every rollout of the run has the configured temperature."""

    @property
    def measures_target(self) -> bool:
        """Whether it holds a value that it measures in the run's first steps."""
        return False

    @abstractmethod
    def temperature(self, base_temperature: float) -> float:
        """Temperature for sampling and log-probs of this step, given the configured one."""
