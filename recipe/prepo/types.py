"""Frozen records that the rules, the controller and the trainers share.

Suffixes of array names: ``_C`` candidate prompts, ``_P`` selected prompts, ``_G`` groups, ``_R`` rollouts (flat,
because groups are ragged), ``_T`` tokens, ``_N`` prompts of the training set. ``group_R`` maps each rollout to the
index of its group. Never reshape by the group size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from recipe.prepo.maths import FloatArray as FloatArray
from recipe.prepo.maths import IntArray as IntArray
from recipe.prepo.maths.correctness import correctness
from recipe.prepo.maths.groups import group_statistics
from recipe.prepo.maths.perplexity import perplexity
from recipe.prepo.maths.prompt_index import PromptIndex


@dataclass(frozen=True)
class Candidates:
    """The candidate prompts of one choice, in data order.

    Attributes:
        nll_nats_C: mean NLL of the prompt's ``num_tokens_C`` tokens; NaN where never scored. None if none was scored.
        features_C: what scoring also measured (``maths.perplexity.FEATURES``), by name, shape [C] each.
        score_age_steps_C: steps since each score was measured, -1 for never; None where scores are not kept.
    """

    prompt_ids: tuple[str, ...]
    nll_nats_C: FloatArray | None = None
    num_tokens_C: IntArray | None = None
    features_C: Mapping[str, FloatArray] = field(default_factory=dict)
    score_age_steps_C: IntArray | None = None
    ppl_C: FloatArray | None = field(init=False)

    def __post_init__(self) -> None:
        for array in (self.nll_nats_C, self.num_tokens_C, self.score_age_steps_C, *self.features_C.values()):
            assert array is None or array.shape == (len(self),), "every array must have shape [C]"
        object.__setattr__(self, "ppl_C", None if self.nll_nats_C is None else perplexity(self.nll_nats_C))

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def take(self, indices_P: IntArray) -> Candidates:
        arrays: dict[str, Any] = {"nll_nats_C": self.nll_nats_C, "num_tokens_C": self.num_tokens_C}
        arrays["score_age_steps_C"] = self.score_age_steps_C
        return Candidates(
            tuple(map(self.prompt_ids.__getitem__, indices_P.tolist())),
            features_C={name: values_C[indices_P] for name, values_C in self.features_C.items()},
            **{name: array[indices_P] for name, array in arrays.items() if array is not None},
        )


@dataclass(frozen=True)
class Selection:
    """What a selection rule decided.

    Attributes:
        skip_reasons: other position -> reason; one that ends in ``_before`` refers to earlier rollouts of the prompt.
        details: scalars and arrays of shape [C] that the rule adds to the audit line, by name.
    """

    indices_P: IntArray  # chosen positions in the candidate list, in the order of submission
    skip_reasons: dict[int, str] = field(default_factory=dict)
    details: Mapping[str, float | int | FloatArray] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """A selection, and everything else that was decided for the chosen prompts."""

    candidates: Candidates
    selection: Selection
    rollout_n_P: IntArray
    progress: float
    temperature: float
    step: int
    call: int
    rule: str
    recorded_C: IntArray | None = None  # places of the candidates in the audit line; None for all


@dataclass(frozen=True)
class Refill:
    """Size of the next round of a step, in prompts."""

    num_prompts: int
    estimate: int | None  # prompts expected to give the missing groups; None when no group had a signal
    is_last: bool  # the estimate is at most a full round


@dataclass(frozen=True)
class RolloutBatch:
    """The rollouts of one training step, without padding rows."""

    prompt_ids: Sequence[str]  # length R
    group_R: IntArray  # one group for each dispatched prompt
    reward_R: FloatArray
    num_tokens_R: IntArray  # that the policy generated, without tool tokens
    entropy_nats_R: FloatArray | None = None  # mean over those tokens; 0 for an empty response
    acc_R: FloatArray = None  # type: ignore[assignment]  # of the reward function; NaN where it returned none
    correct_R: FloatArray = None  # type: ignore[assignment]  # in [0, 1], by the controller's or the default definition

    def __post_init__(self) -> None:
        if self.acc_R is None:
            object.__setattr__(self, "acc_R", np.full(len(self), np.nan))
        if self.correct_R is None:
            object.__setattr__(self, "correct_R", correctness(self.reward_R, self.acc_R))
        for array in (self.group_R, self.reward_R, self.num_tokens_R, self.entropy_nats_R, self.acc_R, self.correct_R):
            assert array is None or array.shape == (len(self.prompt_ids),), "every array must have shape [R]"

    def __len__(self) -> int:
        return len(self.prompt_ids)


def concatenate_rollouts(batches: Sequence[RolloutBatch]) -> RolloutBatch:
    """Join batches; their groups stay apart. The result has entropies only if every batch has them."""
    if len(batches) == 1:
        return batches[0]
    firsts = np.cumsum([0, *(int(batch.group_R.max(initial=-1)) + 1 for batch in batches)])
    entropies = [batch.entropy_nats_R for batch in batches if batch.entropy_nats_R is not None]
    return RolloutBatch(
        prompt_ids=[prompt_id for batch in batches for prompt_id in batch.prompt_ids],
        group_R=np.concatenate([batch.group_R + first for batch, first in zip(batches, firsts, strict=False)]),
        reward_R=np.concatenate([batch.reward_R for batch in batches]),
        num_tokens_R=np.concatenate([batch.num_tokens_R for batch in batches]),
        entropy_nats_R=np.concatenate(entropies) if len(entropies) == len(batches) else None,
        acc_R=np.concatenate([batch.acc_R for batch in batches]),
        correct_R=np.concatenate([batch.correct_R for batch in batches]),
    )


@dataclass(frozen=True)
class PromptOutcomes:
    """Outcomes of groups, shape [G]; a prompt may occur twice."""

    rows_G: IntArray
    size_G: IntArray
    num_correct_G: FloatArray

    def rounds(self) -> Iterator[IntArray]:
        """Positions of the groups in arrays that hold each prompt once; a prompt's groups keep their order."""
        left = np.arange(len(self.rows_G))
        while left.size:
            _, first = np.unique(self.rows_G[left], return_index=True)
            yield left[first]
            left = np.delete(left, first)


@dataclass(frozen=True)
class StepOutcome:
    """Result of a training step's rollouts; steps count from 1.

    ``discarded``: groups that were rolled out and then discarded, in that order, without entropies.
    """

    trained: RolloutBatch
    discarded: tuple[RolloutBatch, ...]
    step: int

    def prompts(self, index: PromptIndex) -> PromptOutcomes:
        """Outcomes of all groups, discarded ones first."""
        rollouts = concatenate_rollouts([*self.discarded, self.trained])
        groups = group_statistics(rollouts.reward_R, rollouts.group_R, rollouts.correct_R)
        ids = [rollouts.prompt_ids[i] for i in groups.first_G.tolist()]
        return PromptOutcomes(index.rows(ids), groups.size_G, groups.num_correct_G)


class EarlierRollouts(NamedTuple):
    """Rollouts from before the run: prompt, correctness in [0, 1] and age in steps of each, length R."""

    prompt_ids: tuple[str, ...]
    correct_R: FloatArray
    age_steps_R: FloatArray


@dataclass(frozen=True)
class RunFacts:
    """What a rule may know about its run."""

    prompts: PromptIndex  # of the training set
    vocab_size: int
    rollouts_per_prompt: int  # nominal group size M
    total_steps: int
    steps_per_epoch: int  # steps in which the data are drawn once
    grades_correctness: bool = False  # rollouts can be partly correct


@dataclass(frozen=True)
class Panel:
    title: str
    caption: str
    series: Mapping[str, str]  # metric name -> legend label
    y_label: str  # quantity and unit
