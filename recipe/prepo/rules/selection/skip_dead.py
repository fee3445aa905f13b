"""GRESO's skipping as a filter before another choice: K of the candidates that still gave a signal lately."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipe.prepo.maths.rng import generator_state, make_generator, set_generator_state
from recipe.prepo.maths.skipping import skip_probability
from recipe.prepo.notation import Candidates, RunFacts, Selection, StepOutcome
from recipe.prepo.rules.base import SelectionRule
from recipe.prepo.rules.signal_history import SignalHistory

STATE = {"generator", "history"}


class SkipDead(SelectionRule):
    """Skip with probability ``1 - max(p^z, explore)`` after z groups in a row without a signal, choose of the rest.

    The probability is GRESO's (arXiv 2506.02177), with ``p_easy`` and ``p_hard`` fixed. Unlike there, no group is
    thrown away and no step refilled by the rule: it has K groups, whatever they give. Where fewer than K
    candidates are left, those come back that were the least likely to be skipped (ties by the draw).
    """

    @dataclass(frozen=True)
    class Config:
        p_easy: float
        p_hard: float
        explore: float

        def __post_init__(self) -> None:
            for name in ("p_easy", "p_hard", "explore"):
                if not 0.0 <= getattr(self, name) <= 1.0:
                    raise ValueError(f"{name}={getattr(self, name)!r} is not in [0, 1]")
            if not self.explore > 0.0:
                raise ValueError("explore=0 could leave a prompt out for ever; the published value is 0.01")

    def __init__(self, config: Config, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._skips = make_generator(seed, "selection.skip_dead")
        self._history = SignalHistory()
        # Of the choices since the last step's end.
        self._num_seen = self._num_left_out = 0
        self._left_out_frac = 0.0

    @abstractmethod
    def choose(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        """Choose ``num_selected`` of the candidates that are left, at training progress rho."""

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
        self._num_seen += len(candidates)
        self._num_left_out += len(candidates) - len(left_L)
        if len(left_L) == len(candidates):
            return self.choose(candidates, num_selected=num_selected, progress=progress)
        found = self.choose(candidates.take(left_L), num_selected=num_selected, progress=progress)
        beside_L = left_L[np.fromiter(found.skip_reasons, dtype=np.int64, count=len(found.skip_reasons))]
        reasons = dict(zip(beside_L.tolist(), found.skip_reasons.values(), strict=True))
        reasons |= dict.fromkeys(np.flatnonzero(~is_left_C & (run_C > 0)).tolist(), "all_right_before")
        reasons |= dict.fromkeys(np.flatnonzero(~is_left_C & (run_C < 0)).tolist(), "all_wrong_before")
        return Selection(left_L[found.indices_P], window_start=found.window_start, skip_reasons=reasons)

    def observe(self, outcome: StepOutcome) -> None:
        self._history.observe(outcome)
        self._left_out_frac = self._num_left_out / max(self._num_seen, 1)
        self._num_seen = self._num_left_out = 0

    def metrics(self) -> dict[str, float]:
        return {"prepo/left_out_frac/mean": self._left_out_frac}

    def state_dict(self) -> dict[str, Any]:
        return {"generator": generator_state(self._skips), "history": self._history.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if set(state) != STATE:
            raise ValueError(f"{type(self).__name__} keeps {sorted(STATE)}, found {sorted(state)}")
        self._history.load_state_dict(state["history"])
        set_generator_state(self._skips, state["generator"])
