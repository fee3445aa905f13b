"""Letters and frozen records that every layer above ``maths`` shares.

Suffixes of array names: ``_C`` candidate prompts, ``_P`` selected prompts (groups), ``_R`` rollouts (flat; groups are
ragged), ``_T`` tokens. ``group_R`` maps each rollout to the index of its group. Never reshape by the group size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recipe.prepo.maths.perplexity import perplexity

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """The candidate prompts of one choice, in the order in which they came from the data.

    ``nll_nats_C`` and ``num_tokens_C`` are None when the rule needs no scores and none were computed.
    """

    prompt_ids: tuple[str, ...]
    nll_nats_C: FloatArray | None = None
    num_tokens_C: IntArray | None = None
    ppl_C: FloatArray | None = field(init=False)

    def __post_init__(self) -> None:
        for name, array in (("nll_nats_C", self.nll_nats_C), ("num_tokens_C", self.num_tokens_C)):
            assert array is None or array.shape == (len(self.prompt_ids),), f"{name} must have shape [C]"
        object.__setattr__(self, "ppl_C", None if self.nll_nats_C is None else perplexity(self.nll_nats_C))

    def __len__(self) -> int:
        return len(self.prompt_ids)


@dataclass(frozen=True)
class Selection:
    """What a selection rule decided.

    Attributes:
        indices_P: chosen positions in the candidate list, in the order in which they are to be submitted.
        window_start: first rank of the window in ascending perplexity, None for rules without a window.
        skip_reasons: position in the candidate list -> why it was not chosen.
    """

    indices_P: IntArray
    window_start: int | None = None
    skip_reasons: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """A selection together with everything else that was decided for the chosen prompts."""

    candidates: Candidates
    selection: Selection
    rollout_n_P: IntArray
    progress: float
    temperature: float
    step: int
    call: int
    rule: str


@dataclass(frozen=True)
class RolloutBatch:
    """The rollouts of one training step, without padding rows.

    Attributes:
        prompt_ids: prompt of each rollout, length R.
        group_R: index of the rollout's group (one group for each dispatched prompt).
        reward_R: scalar reward.
        num_tokens_R: response tokens that the policy generated (tool tokens out).
        entropy_nats_R: mean token entropy over those tokens; 0 for an empty response; None when not computed.
    """

    prompt_ids: Sequence[str]
    group_R: IntArray
    reward_R: FloatArray
    num_tokens_R: IntArray
    entropy_nats_R: FloatArray | None = None

    def __post_init__(self) -> None:
        for array in (self.group_R, self.reward_R, self.num_tokens_R, self.entropy_nats_R):
            assert array is None or array.shape == (len(self.prompt_ids),), "every array must have shape [R]"

    def __len__(self) -> int:
        return len(self.prompt_ids)
