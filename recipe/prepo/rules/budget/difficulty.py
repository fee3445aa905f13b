"""E3's dynamic rollout budget: more rollouts for harder prompts, with the same total (arXiv 2505.18573)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recipe.prepo.rules.base import BudgetRule, choice, count
from recipe.prepo.rules.prompt_difficulty import PromptDifficulty, RankOptions
from recipe.prepo.types import FloatArray, IntArray, Panel, RunFacts, StepOutcome


def allocate_rollouts(rank_P: FloatArray, *, rollouts_per_prompt: int, low: int, high: int, clip: bool) -> IntArray:
    """Group size of each prompt of a batch: more for harder prompts, with the batch's total P * M unchanged.

    ``g_i = floor(low + (T - P * low) * k_i / sum_j k_j)`` with ``T = P * M``. The rest that the floors leave goes to
    the hardest prompts in turn; each is filled to ``high`` before the next.

    Args:
        rank_P: difficulty ranks k, shape [P]; negative ones (unranked) count as 0.
        rollouts_per_prompt: nominal group size M; ``low <= M <= high``.
        clip: no group is larger than ``high``. DEVIATION: the published code caps only the rest.

    >>> ranks = np.array([0.05, 0.05, 0.1, 0.95])
    >>> allocate_rollouts(ranks, rollouts_per_prompt=8, low=4, high=12, clip=False).tolist()
    [4, 4, 7, 17]
    >>> allocate_rollouts(ranks, rollouts_per_prompt=8, low=4, high=12, clip=True).tolist()
    [4, 4, 12, 12]
    """
    assert 0 <= low <= rollouts_per_prompt <= high, f"{low=} {rollouts_per_prompt=} {high=}"
    total = len(rank_P) * rollouts_per_prompt
    weight_P = np.maximum(rank_P, 0.0)
    if weight_P.sum() > 0:
        weight_P = weight_P / (weight_P.sum() + 1e-8)  # the published code's epsilon, so that the floors agree
    spare = total - len(rank_P) * low
    size_P = np.floor(low + spare * weight_P).astype(np.int64)
    if clip:
        size_P = np.minimum(size_P, high)
    order_P = np.argsort(-weight_P, kind="stable")
    room_P = np.maximum(high - size_P[order_P], 0)
    size_P[order_P] += np.clip(total - size_P.sum() - (np.cumsum(room_P) - room_P), 0, room_P)
    assert size_P.sum() == total, "high >= M leaves room for every rollout"
    return size_P


class Difficulty(BudgetRule):
    """Group sizes proportional to difficulty ranks, within bounds that widen each epoch (arXiv 2505.18573).

    The first epoch is uniform. At the end of each epoch prompts are ranked by the accuracy of all their rollouts, and
    the bounds, at first both M, move by ``widen_step`` to at most ``lowest`` and ``highest``.
    """

    reads_correctness = True
    saved = ("low", "high", "difficulty")
    panels = (
        Panel(
            "Rollouts per prompt",
            "Group sizes that the budget gave to the step's prompts.",
            {
                "prepo/rollouts_per_prompt/max": "largest group",
                "prepo/rollouts_per_prompt/mean": "mean",
                "prepo/rollouts_per_prompt/min": "smallest group",
            },
            "rollouts per prompt",
        ),
    )

    @dataclass(frozen=True)
    class Config(RankOptions):
        lowest: int = count()
        highest: int = count()
        widen_step: int = count()
        allocation: str = choice("clip", "published")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.lowest > self.highest:
                raise ValueError(f"lowest={self.lowest} is above highest={self.highest}")

    def __init__(self, config: Any, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._difficulty = PromptDifficulty(config)
        self._step_sizes: list[IntArray] = []

    def check_sizes(self, *, num_selected: int, rollouts_per_prompt: int) -> None:
        if not self.config.lowest <= rollouts_per_prompt <= self.config.highest:
            raise ValueError(
                f"the nominal group size actor_rollout_ref.rollout.n={rollouts_per_prompt} must lie between "
                f"prepo.budget.lowest={self.config.lowest} and prepo.budget.highest={self.config.highest}, or the "
                f"total could not be kept. Set these two around it (for example to half and one and a half times it)"
            )

    def bind(self, run: RunFacts) -> None:
        self._difficulty.bind(run)
        self._low = self._high = run.rollouts_per_prompt

    def allocate(self, prompt_ids: tuple[str, ...], *, rollouts_per_prompt: int) -> IntArray:
        size_P = allocate_rollouts(
            self._difficulty.ranks(prompt_ids),
            rollouts_per_prompt=rollouts_per_prompt,
            low=self._low,
            high=self._high,
            clip=self.config.allocation == "clip",
        )
        self._step_sizes.append(size_P)
        return size_P

    def observe(self, outcome: StepOutcome) -> None:
        if self._difficulty.observe(outcome):
            self._low = max(self._low - self.config.widen_step, self.config.lowest)
            self._high = min(self._high + self.config.widen_step, self.config.highest)

    def metrics(self) -> dict[str, float]:
        if not self._step_sizes:
            return {}
        sizes = np.concatenate(self._step_sizes)
        self._step_sizes.clear()
        return {f"prepo/rollouts_per_prompt/{end}": float(getattr(sizes, end)()) for end in ("mean", "min", "max")}
