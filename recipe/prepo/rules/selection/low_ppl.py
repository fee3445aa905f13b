"""Ablation: always the K lowest prompt perplexities."""

from __future__ import annotations

from recipe.prepo.rules.base import SelectionRule
from recipe.prepo.rules.selection.ppl_schedule import take_window
from recipe.prepo.types import Candidates, Selection


class LowPpl(SelectionRule):
    """The schedule held at rho = 0 (arXiv 2511.00794, ablation «low-PPL only»)."""

    needs_scores = True

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        return take_window(candidates, num_selected=num_selected, start=0)
