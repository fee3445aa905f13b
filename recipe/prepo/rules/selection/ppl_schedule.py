"""PREPO's schedule: a window that slides from the lowest to the highest prompt perplexity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recipe.prepo.maths.window import ascending_order, window_start
from recipe.prepo.rules.base import SelectionRule
from recipe.prepo.types import Candidates, Selection


def take_window(candidates: Candidates, *, num_selected: int, start: int) -> Selection:
    """Choose the ranks ``start … start + K - 1`` in ascending perplexity; the rest gets a reason."""
    assert candidates.ppl_C is not None, "the rule needs scores"
    order_C = ascending_order(candidates.ppl_C, candidates.prompt_ids)
    reasons = dict.fromkeys(np.sort(order_C[:start]).tolist(), "below_window")
    reasons |= dict.fromkeys(np.sort(order_C[start + num_selected :]).tolist(), "above_window")
    return Selection(indices_P=order_C[start : start + num_selected], window_start=start, skip_reasons=reasons)


class PplSchedule(SelectionRule):
    """``I_rho = {sigma(j) : l(rho) <= j <= l(rho) + K - 1}``, ``l(rho) = floor(rho * (|B| - K))`` (arXiv 2511.00794).

    rho = 0 takes the K lowest perplexities, rho = 1 the K highest; K = |B| takes all. With ``progress_end`` below 1
    the window stops at ``l(progress_end)`` on the last step (rho is scaled by it): an option of this project.

    >>> import numpy as np
    >>> candidates = Candidates(("a", "b", "c", "d"), np.array([0.4, 0.1, 0.3, 0.2]), np.full(4, 9))
    >>> rule = PplSchedule(PplSchedule.Config(progress_end=1.0), seed=0)
    >>> [rule.select(candidates, num_selected=2, progress=rho).indices_P.tolist() for rho in (0.0, 0.5, 1.0)]
    [[1, 3], [3, 2], [2, 0]]
    """

    needs_scores = True
    follows_progress = True

    @dataclass(frozen=True)
    class Config:
        progress_end: float

        def __post_init__(self) -> None:
            if not 0.0 < self.progress_end <= 1.0:
                raise ValueError(
                    f"progress_end={self.progress_end} is not in (0, 1]: the schedule ends at that share of its way"
                )

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        start = window_start(progress * self.config.progress_end, len(candidates), num_selected)
        return take_window(candidates, num_selected=num_selected, start=start)
