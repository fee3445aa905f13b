"""The same number of rollouts for every prompt."""

from __future__ import annotations

import numpy as np

from recipe.prepo.rules.base import BudgetRule
from recipe.prepo.types import IntArray


class Fixed(BudgetRule):
    """Group size ``rollout.n`` for every prompt, as in GRPO."""

    def allocate(self, prompt_ids: tuple[str, ...], *, rollouts_per_prompt: int) -> IntArray:
        return np.full(len(prompt_ids), rollouts_per_prompt, dtype=np.int64)
