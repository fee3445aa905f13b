"""Base classes of the rules. A rule sees plain values, never a config object, a tensor or verl."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from recipe.prepo.types import (
    Candidates,
    EarlierRollouts,
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


def number(interval: str, *, optional: bool = False, why: str = "") -> Any:
    """Declares an option that is a number in an interval, such as ``"(0, 1]"``; None fits too if ``optional``."""
    low, high = map(float, interval[1:-1].split(","))

    def fits(value: Any) -> bool:
        if type(value) not in (int, float):
            return value is None and optional
        above = low <= value if interval[0] == "[" else low < value
        return above and (value <= high if interval[-1] == "]" else value < high)

    return field(metadata={"fits": fits, "allowed": f"a number in {interval}{' or null' if optional else ''}{why}"})


def count(*, least: int = 1, optional: bool = False) -> Any:
    """Declares an option that counts something; None fits too if ``optional``."""

    def fits(value: Any) -> bool:
        return value >= least if type(value) is int else value is None and optional

    return field(metadata={"fits": fits, "allowed": f"an integer of at least {least}{' or null' if optional else ''}"})


def choice(*values: Any) -> Any:
    """Declares an option that is one of some values of one type."""

    def fits(value: Any) -> bool:
        return type(value) is type(values[0]) and value in values

    return field(metadata={"fits": fits, "allowed": f"one of {', '.join(map(str, values))}"})


def folder() -> Any:
    """Declares an option that names a folder, or None."""
    fits = {"fits": lambda value: value is None or (isinstance(value, str) and value != "")}
    return field(metadata={**fits, "allowed": "a folder or null"})


@dataclass(frozen=True)
class Options:
    """Base of a rule's ``Config``: one field per key of its yaml, no defaults. ValueError: a value does not fit."""

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if option.metadata and not option.metadata["fits"](value):
                raise ValueError(f"{option.name}={value!r} is not {option.metadata['allowed']}")


class Stateful:
    """Saves and loads the attributes that ``saved`` names: for the name ``x``, the attribute ``_x``.

    Each holds a generator, an array, a number or None, a list of numbers, or another ``Stateful``. A saved array must
    have the dtype and shape of the attribute that it replaces; if that one is empty, any number of rows fits.
    """

    saved: ClassVar[tuple[str, ...]] = ()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to make the same choices: JSON values and NumPy arrays, as copies."""
        return {name: _copied(getattr(self, f"_{name}")) for name in self.saved}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned, into a fresh object; an error where it does not fit."""
        if not isinstance(state, Mapping) or set(state) != set(self.saved):
            raise ValueError(f"{type(self).__name__} saves {sorted(self.saved)}, found {sorted(state or ())}")
        for name in self.saved:
            mine, value = getattr(self, f"_{name}"), state[name]
            if isinstance(mine, Stateful):
                mine.load_state_dict(value)
            elif isinstance(mine, np.random.Generator):
                mine.bit_generator.state = value
            elif _fits(value, mine):
                setattr(self, f"_{name}", copy.copy(value))
            else:
                raise ValueError(f"{type(self).__name__}: the saved {name!r} has another type or shape")


def _copied(value: Any) -> Any:
    if isinstance(value, Stateful):
        return value.state_dict()
    return value.bit_generator.state if isinstance(value, np.random.Generator) else copy.copy(value)


def _fits(value: Any, mine: Any) -> bool:
    if isinstance(mine, np.ndarray):
        same_kind = isinstance(value, np.ndarray) and (value.dtype, value.ndim) == (mine.dtype, mine.ndim)
        return same_kind and value.shape[1:] == mine.shape[1:] and len(mine) in (0, len(value))
    return isinstance(value, list) if isinstance(mine, list) else value is None or type(value) in (int, float)


class Rule(Stateful, ABC):
    """Base class of all rules. A step calls ``observe`` once, then ``metrics`` once."""

    Config: ClassVar[type] = Options
    needs_entropy: ClassVar[bool] = False  # whether it reads the rollouts' entropies: every run with it has them
    reads_correctness: ClassVar[bool] = False  # whether it learns which rollouts are correct, not only their rewards
    panels: ClassVar[tuple[Panel, ...]] = ()  # what it adds to the report

    def __init__(self, config: Any, *, seed: int) -> None:
        """Rules that draw make their own generators from ``seed``."""
        self.config = config

    def check_sizes(self, *, num_selected: int, rollouts_per_prompt: int) -> None:
        """Check the options against K and M when the configuration is read; a ValueError says what to change."""

    def bind(self, run: RunFacts) -> None:
        """Learn about the run. Called once, before the first step and before any state is loaded."""

    def observe(self, outcome: StepOutcome) -> None:
        """See the outcome of the step's rollouts, before the update."""

    def metrics(self) -> dict[str, float]:
        """The rule's metrics of this step. Their names end in /mean, /min, /max or /sum: how verl reduces them."""
        return {}


class SelectionRule(Rule):
    """Chooses the candidate prompts that are rolled out."""

    needs_scores: ClassVar[bool]  # whether ``select`` reads perplexities: the candidates are scored first
    takes_unscored: ClassVar[bool] = False  # whether it also takes candidates whose score is missing (NaN)
    uses_candidates: ClassVar[bool] = True  # False if it takes all that it is given: a step draws K prompts, not |B|

    def first_round(self, num_selected: int) -> int:
        """Prompts that a step asks for first, for K = ``num_selected``: K, or more if groups are discarded."""
        return num_selected

    def start_from(self, earlier: EarlierRollouts) -> None:
        """Learn from rollouts from before the run. Called once at its start, if the option ``warm_start`` is set."""
        raise NotImplementedError

    @abstractmethod
    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        """Choose ``num_selected`` of the candidates at training progress rho in [0, 1]."""

    @classmethod
    def check_choice(cls, line: AuditLine, options: Mapping[str, Any]) -> str:
        """Recompute a choice from its line of ``audit/selection.jsonl``, without the code of ``select``.

        Returns the difference from the rule under these options (of config.yaml); "" if there is none.
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

    is_identity: ClassVar[bool] = False  # every weight is 1: advantages then stay untouched, bit for bit

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

    is_identity: ClassVar[bool] = False  # no reward is changed

    @abstractmethod
    def shape(self, rollouts: RolloutBatch) -> FloatArray:
        """Rewards for the advantages, shape [R]; 0 stays 0."""


class TemperatureRule(Rule):
    """Sets the sampling temperature of a step."""

    is_constant: ClassVar[bool] = False  # every rollout of the run has the configured temperature

    @abstractmethod
    def temperature(self, base_temperature: float) -> float:
        """Temperature for sampling and log-probs of this step, given the configured one."""
