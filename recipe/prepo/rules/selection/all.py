"""No selection: every prompt of the data is rolled out (stock GRPO)."""

from __future__ import annotations

import numpy as np

from recipe.prepo.rules.base import SelectionRule
from recipe.prepo.types import Candidates, Selection


class All(SelectionRule):
    """Takes each prompt in data order; a step draws K prompts, as stock verl does."""

    needs_scores = False
    uses_candidates = False

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        assert num_selected == len(candidates), f"{num_selected=} of {len(candidates)}"
        return Selection(np.arange(num_selected, dtype=np.int64))
