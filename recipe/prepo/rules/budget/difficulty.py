"""E3's dynamic rollout budget: more rollouts for harder prompts, as many in all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recipe.prepo.maths.difficulty import allocate_rollouts, widen_bounds
from recipe.prepo.rules.base import BudgetRule, require_positive_integers
from recipe.prepo.rules.prompt_difficulty import PromptDifficulty, check_options
from recipe.prepo.types import IntArray, RunFacts, StepOutcome


class Difficulty(BudgetRule):
    """Group sizes proportional to difficulty ranks within bounds that widen each epoch (arXiv 2505.18573).

    The first epoch is uniform; at the end of each epoch prompts are ranked by the accuracy of all their rollouts and
    ``low``, ``high`` move by ``widen_step`` towards ``lowest``, ``highest``.
    """

    @dataclass(frozen=True)
    class Config:
        lowest: int
        highest: int
        widen_step: int
        allocation: str
        ties: str
        epoch_steps: int | None

        def __post_init__(self) -> None:
            require_positive_integers(self, "lowest", "highest", "widen_step")
            if self.lowest > self.highest:
                raise ValueError(f"lowest={self.lowest} is above highest={self.highest}")
            if self.allocation not in ("clip", "published"):
                raise ValueError(f"allocation={self.allocation!r} is not known: clip or published")
            check_options(ties=self.ties, epoch_steps=self.epoch_steps)

    def __init__(self, config: Config, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._difficulty = PromptDifficulty(average_ties=config.ties == "average", epoch_steps=config.epoch_steps)
        self._last_sizes: list[IntArray] = []

    def check_sizes(self, *, num_selected: int, rollouts_per_prompt: int) -> None:
        if not self.config.lowest <= rollouts_per_prompt <= self.config.highest:
            raise ValueError(
                f"the nominal group size actor_rollout_ref.rollout.n={rollouts_per_prompt} must lie between "
                f"prepo.budget.lowest={self.config.lowest} and prepo.budget.highest={self.config.highest}, or the sum "
                f"could not be held. Set prepo.budget.lowest and prepo.budget.highest around it (half and one and a "
                f"half times it, say)"
            )

    def bind(self, run: RunFacts) -> None:
        self._difficulty.bind(run)
        self._bounds = (run.rollouts_per_prompt, run.rollouts_per_prompt)

    def allocate(self, prompt_ids: tuple[str, ...], *, rollouts_per_prompt: int) -> IntArray:
        low, high = self._bounds
        size_P = allocate_rollouts(
            self._difficulty.ranks(prompt_ids),
            rollouts_per_prompt=rollouts_per_prompt,
            low=low,
            high=high,
            clip=self.config.allocation == "clip",
        )
        self._last_sizes.append(size_P)
        return size_P

    def observe(self, outcome: StepOutcome) -> None:
        if self._difficulty.observe(outcome):
            self._bounds = widen_bounds(
                *self._bounds, step=self.config.widen_step, lowest=self.config.lowest, highest=self.config.highest
            )

    def metrics(self) -> dict[str, float]:
        if not self._last_sizes:
            return {}
        sizes = np.concatenate(self._last_sizes)
        self._last_sizes.clear()
        return {
            "prepo/rollouts_per_prompt/mean": float(sizes.mean()),
            "prepo/rollouts_per_prompt/min": float(sizes.min()),
            "prepo/rollouts_per_prompt/max": float(sizes.max()),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"bounds": list(self._bounds), "difficulty": self._difficulty.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if set(state) != {"bounds", "difficulty"}:
            raise ValueError(f"difficulty keeps «bounds» and «difficulty», found {sorted(state)}")
        self._difficulty.load_state_dict(state["difficulty"])
        low, high = (int(bound) for bound in state["bounds"])
        if not self.config.lowest <= low <= high <= self.config.highest:
            raise ValueError(f"bounds={state['bounds']} are not in [{self.config.lowest}, {self.config.highest}]")
        self._bounds = low, high
