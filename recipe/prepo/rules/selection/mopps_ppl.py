"""MoPPS with a prior by perplexity: prompts that were never rolled out are judged by those that look like them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recipe.prepo.maths.pass_rates import FloatArray, prior_of_near
from recipe.prepo.notation import Candidates, IntArray, RunFacts, StepOutcome
from recipe.prepo.rules.base import require_positive_integers
from recipe.prepo.rules.selection.mopps import Mopps


class MoppsPpl(Mopps):
    """MoPPS (arXiv 2507.04632), each prompt's prior fitted to the last groups of prompts of near perplexity.

    That perplexity and pass rate go together is PREPO's observation (arXiv 2511.00794); where they do not, the fitted
    priors are alike for all prompts, and what is left is MoPPS. A combination of this project, in neither paper.
    """

    needs_scores = True

    @dataclass(frozen=True)
    class Config(Mopps.Config):
        history_groups: int
        near_groups: int
        max_prior_rollouts: float

        def __post_init__(self) -> None:
            super().__post_init__()
            require_positive_integers(self, "history_groups", "near_groups")
            if self.near_groups > self.history_groups:
                raise ValueError(f"near_groups={self.near_groups} is above history_groups={self.history_groups}")
            if not 0.1 <= self.max_prior_rollouts <= 1e6:
                raise ValueError(f"max_prior_rollouts={self.max_prior_rollouts} is not in [0.1, 1e6]")

    def bind(self, run: RunFacts) -> None:
        super().bind(run)
        self._nll_nats_N = np.full(len(run.prompts), np.nan)  # as last scored
        self._history = np.empty((0, 3))  # of the last groups: nll_nats, right rollouts, rollouts

    def _note_scores(self, rows: IntArray, candidates: Candidates) -> None:
        assert candidates.nll_nats_C is not None
        self._nll_nats_N[rows] = candidates.nll_nats_C

    def _prior(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        config = self.config
        if len(self._history) < config.near_groups:
            return super()._prior(rows)
        nll_nats_H, right_H, size_H = self._history[np.argsort(self._history[:, 0], kind="stable")].T
        nll_nats_P = self._nll_nats_N[rows]
        before_P = np.searchsorted(nll_nats_H, nll_nats_P, side="left")
        through_P = np.searchsorted(nll_nats_H, nll_nats_P, side="right")
        return prior_of_near(
            right_H,
            size_H,
            (before_P + through_P) // 2,  # in the middle of equal ones
            num_near=config.near_groups,
            prior_right=config.prior_right,
            prior_wrong=config.prior_wrong,
            max_rollouts=config.max_prior_rollouts,
        )

    def observe(self, outcome: StepOutcome) -> None:
        super().observe(outcome)
        groups = outcome.prompts(self._index)
        new = np.stack([self._nll_nats_N[groups.rows_G], groups.num_correct_G, groups.size_G], axis=1)
        self._history = np.concatenate([self._history, new])[-self.config.history_groups :]

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "nll_nats": self._nll_nats_N.copy(), "history": self._history.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        mine = {"nll_nats": self._nll_nats_N.shape, "history": (len(state.get("history", ())), 3)}
        if missing := sorted(set(mine) - set(state)):
            raise ValueError(f"mopps_ppl keeps {missing[0]}, found {sorted(state)}")
        for name, shape in mine.items():
            found = state[name]
            if not isinstance(found, np.ndarray) or (found.shape, found.dtype) != (shape, np.float64):
                raise ValueError(f"«{name}» is not an array of float64 with the shape {shape}")
        if len(state["history"]) > self.config.history_groups:
            raise ValueError(f"«history» has {len(state['history'])} groups, more than {self.config.history_groups}")
        super().load_state_dict({key: value for key, value in state.items() if key not in mine})
        self._nll_nats_N[:], self._history = state["nll_nats"], state["history"].copy()
