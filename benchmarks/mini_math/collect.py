"""A step's groups: prompts are drawn, chosen by the controller, rolled out and, by some methods, refilled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.mini_math.policy import Responses, TokenIds
from recipe.prepo.controller import Controller
from recipe.prepo.errors import DataError
from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import SkippingRule
from recipe.prepo.types import Decision, FloatArray, Refill, RolloutBatch

# A step without K groups after so many rounds will never have them; verl itself would go on for ever.
MAX_ROUNDS = 200


class PromptStream:
    """The pool in a shuffled order that depends on the seed only, epoch after epoch."""

    def __init__(self, prompt_ids: Sequence[str], *, seed: int) -> None:
        self._prompt_ids = list(prompt_ids)
        self._generator = make_generator(seed, "mini_math.data_order")
        self._waiting: list[str] = []

    def draw(self, num_prompts: int) -> tuple[str, ...]:
        """Single prompts; an epoch's end may lie within."""
        while len(self._waiting) < num_prompts:
            self._waiting += [self._prompt_ids[i] for i in self._generator.permutation(len(self._prompt_ids))]
        drawn, self._waiting = self._waiting[:num_prompts], self._waiting[num_prompts:]
        return tuple(drawn)

    def draw_batch(self, num_prompts: int) -> tuple[str, ...]:
        """Different prompts of one epoch; an incomplete last batch is dropped, as verl does."""
        if len(self._waiting) < num_prompts:
            self._waiting = []
        return self.draw(num_prompts)


@dataclass(frozen=True)
class Group:
    """The rollouts of one dispatched prompt.

    Attributes:
        prompt_tokens: token ids of the prompt.
        temperature: at which the responses were sampled.
        reward_R: 1 or 0 for each response, the group's size long.
    """

    prompt_id: str
    prompt_tokens: TokenIds
    temperature: float
    responses: Responses
    reward_R: FloatArray

    @property
    def has_signal(self) -> bool:
        return bool(self.reward_R.min() != self.reward_R.max())


def rollout_batch(groups: Sequence[Group], *, with_entropies: bool = True) -> RolloutBatch:
    """What the controller sees of these groups."""
    sizes = [len(group.reward_R) for group in groups]
    entropies = [group.responses.entropy_nats_R for group in groups]
    return RolloutBatch(
        prompt_ids=[group.prompt_id for group, size in zip(groups, sizes, strict=True) for _ in range(size)],
        group_R=np.repeat(np.arange(len(groups), dtype=np.int64), sizes),
        reward_R=np.concatenate([group.reward_R for group in groups]),
        num_tokens_R=np.concatenate([group.responses.num_tokens_R for group in groups]),
        entropy_nats_R=np.concatenate(entropies) if with_entropies else None,
    )


@dataclass(frozen=True)
class StepGroups:
    """Choices of a step, the groups to train on, and those that were rolled out and discarded."""

    decisions: list[Decision]
    trained: list[Group]
    discarded: list[Group]


def collect_step(
    controller: Controller,
    choose: Callable[[int], Decision],
    roll_out: Callable[[Decision], list[Group]],
    *,
    filters_groups: bool,
) -> StepGroups:
    """Choose and roll out until the step has its K groups.

    Skipping rules size their rounds themselves. With ``filters_groups`` groups of equal rewards are dropped as in verl
    0.9.1's synchronous mode: each asks for two more prompts, at most K are in flight, and groups beyond K are
    discarded.

    Raises:
        DataError: not one group had reward variance, or MAX_ROUNDS rounds were not enough.
    """
    num_selected = controller.identity.num_selected
    skips = isinstance(controller.selection, SkippingRule)
    decisions = [choose(controller.first_round)]
    fresh = roll_out(decisions[0])
    if not (skips or filters_groups):
        return StepGroups(decisions, fresh, [])
    ready: list[Group] = []
    dropped: list[Group] = []
    refills: tuple[Refill, ...] = ()
    credit = 0
    while True:
        flat = [group for group in fresh if not group.has_signal]
        dropped += flat
        ready += [group for group in fresh if group.has_signal]
        if len(ready) >= num_selected:
            break
        if len(decisions) >= MAX_ROUNDS:
            raise DataError(f"{MAX_ROUNDS} rounds gave {len(ready)} of {num_selected} groups with reward variance")
        if skips:
            refill = controller.next_round(
                num_selected - len(ready), zero_variance_frac=len(flat) / len(fresh), refills=refills
            )
            if refill is None:
                break
            refills += (refill,)
            size = refill.num_prompts
        else:
            credit += 2 * len(flat)
            size = min(credit, num_selected)
            credit -= size
        decisions.append(choose(size))
        fresh = roll_out(decisions[-1])
    if not ready:
        raise DataError(f"in {len(decisions)} rounds of rollouts not one group had rewards that differ")
    return StepGroups(decisions, ready[:num_selected], dropped + ready[num_selected:])
