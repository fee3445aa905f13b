"""GRESO's skipping as a filter before another choice: K of the candidates that still gave a signal lately."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recipe.prepo.maths.rng import generator_state, make_generator, set_generator_state
from recipe.prepo.maths.skipping import skip_probability
from recipe.prepo.rules.base import SelectionRule, require_shares
from recipe.prepo.rules.signal_history import SignalHistory, skip_reasons
from recipe.prepo.types import Candidates, RunFacts, Selection, StepOutcome

STATE = {"generator", "history", "chooser"}


class SkipDead(SelectionRule):
    """Skip with probability ``1 - max(p^z, explore)`` after z groups in a row without a signal, choose of the rest.

    The probability is GRESO's (arXiv 2506.02177), with ``p_easy`` and ``p_hard`` fixed. Unlike there, no group is
    thrown away and no step refilled by the rule: it has K groups, whatever they give. Where fewer than K
    candidates are left, those come back that were the least likely to be skipped (ties by the draw).
    """

    chooser: ClassVar[type[SelectionRule]]
    """The rule that chooses of the candidates that are left."""

    @dataclass(frozen=True)
    class Config:
        p_easy: float
        p_hard: float
        explore: float

        def __post_init__(self) -> None:
            require_shares(self, "p_easy", "p_hard", "explore")
            if not self.explore > 0.0:
                raise ValueError("explore=0 could leave a prompt out for ever; the published value is 0.01")

    def __init__(self, config: Any, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._skips = make_generator(seed, "selection.skip_dead")
        self._history = SignalHistory()
        self._chooser = self.chooser(config, seed=seed)

    def bind(self, run: RunFacts) -> None:
        self._history.bind(run)

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        run_C = self._history.runs(candidates.prompt_ids)
        skip_C = skip_probability(
            run_C, p_easy=self.config.p_easy, p_hard=self.config.p_hard, explore=self.config.explore
        )
        draw_C = self._skips.random(len(candidates))
        is_left_C = draw_C >= skip_C
        if (num_missing := num_selected - int(is_left_C.sum())) > 0:
            order_C = np.lexsort((draw_C, skip_C, is_left_C))  # those that are left out first
            is_left_C[order_C[:num_missing]] = True
        left_L = np.flatnonzero(is_left_C)
        found = self._chooser.select(candidates.take(left_L), num_selected=num_selected, progress=progress)
        beside_L = left_L[np.fromiter(found.skip_reasons, dtype=np.int64, count=len(found.skip_reasons))]
        reasons = dict(zip(beside_L.tolist(), found.skip_reasons.values(), strict=True))
        return Selection(
            left_L[found.indices_P],
            window_start=found.window_start,
            skip_reasons=reasons | skip_reasons(~is_left_C, run_C),
            num_left_out=len(candidates) - len(left_L),
        )

    def observe(self, outcome: StepOutcome) -> None:
        self._history.observe(outcome)

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": generator_state(self._skips),
            "history": self._history.state_dict(),
            "chooser": self._chooser.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if set(state) != STATE:
            raise ValueError(f"{type(self).__name__} keeps {sorted(STATE)}, found {sorted(state)}")
        self._history.load_state_dict(state["history"])
        self._chooser.load_state_dict(state["chooser"])
        set_generator_state(self._skips, state["generator"])
