"""MoPPS with a prior by perplexity: prompts that were never rolled out are judged by those that look like them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recipe.prepo.maths.pass_rates import FloatArray, prior_of_near
from recipe.prepo.maths.rng import generator_state, make_generator, set_generator_state
from recipe.prepo.rules.base import require_between, require_like, require_positive_integers, require_shares
from recipe.prepo.rules.selection.mopps import Mopps
from recipe.prepo.types import Candidates, IntArray, PromptOutcomes, RunFacts

FEWEST_NEAR = 8
"""With fewer groups no prior is fitted."""
LARGEST_MEMORY = 16_384
"""Groups; more would only cost time: of so many, 32 are a five-hundredth of the range of perplexities."""


class MoppsPpl(Mopps):
    """MoPPS (arXiv 2507.04632), each prompt's prior fitted to earlier groups of prompts of near perplexity.

    That perplexity and pass rate go together is PREPO's observation (arXiv 2511.00794); where they do not, all prompts
    have the prior of all remembered groups together. A combination of this project, in neither paper.
    """

    needs_scores = True

    @dataclass(frozen=True)
    class Config(Mopps.Config):
        near_groups: int
        forget: float
        max_prior_rollouts: float

        def __post_init__(self) -> None:
            super().__post_init__()
            require_positive_integers(self, "near_groups")
            require_shares(self, "forget")
            require_between(self, 0.1, 1e6, "max_prior_rollouts")

    def __init__(self, config: Config, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._forgetting = make_generator(seed, "selection.mopps_ppl.forgetting")

    def bind(self, run: RunFacts) -> None:
        super().bind(run)
        self._nll_nats_N = np.full(len(run.prompts), np.nan, dtype=np.float32)  # as last scored
        self._memory = np.empty((0, 3))  # of earlier groups: nll_nats, right rollouts, rollouts

    def _note_scores(self, rows: IntArray, candidates: Candidates) -> None:
        assert candidates.nll_nats_C is not None
        self._nll_nats_N[rows] = candidates.nll_nats_C

    def _prior(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        config = self.config
        num_near = min(config.near_groups, len(self._memory) // 4)  # near is less than all of few
        if num_near < min(config.near_groups, FEWEST_NEAR):
            return super()._prior(rows)
        nll_nats_H, right_H, size_H = self._memory[np.argsort(self._memory[:, 0], kind="stable")].T
        nll_nats_P = self._nll_nats_N[rows]
        before_P = np.searchsorted(nll_nats_H, nll_nats_P, side="left")
        through_P = np.searchsorted(nll_nats_H, nll_nats_P, side="right")
        return prior_of_near(
            right_H,
            size_H,
            (before_P + through_P) // 2,  # in the middle of equal ones
            num_near=num_near,
            prior_right=config.prior_right,
            prior_wrong=config.prior_wrong,
            max_rollouts=config.max_prior_rollouts,
        )

    def _learn(self, groups: PromptOutcomes) -> None:
        super()._learn(groups)
        new = np.stack([self._nll_nats_N[groups.rows_G], groups.num_correct_G, groups.size_G], axis=1)
        # By chance, not by age: what is no longer chosen would else be forgotten, and tried again, all at once.
        is_kept = self._forgetting.random(len(self._memory)) >= self.config.forget
        memory = np.concatenate([self._memory[is_kept], new])
        if (num_groups := len(memory)) > LARGEST_MEMORY:
            memory = memory[np.sort(self._forgetting.choice(num_groups, LARGEST_MEMORY, replace=False))]
        self._memory = memory

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "forgetting": generator_state(self._forgetting),
            "nll_nats": self._nll_nats_N.copy(),
            "memory": self._memory.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if missing := {"forgetting", "nll_nats", "memory"} - set(state):
            raise ValueError(f"mopps_ppl keeps {sorted(missing)}, found {sorted(state)}")
        rest = dict(state)
        forgetting, nll_nats_N, memory = (rest.pop(key) for key in ("forgetting", "nll_nats", "memory"))
        require_like("nll_nats", nll_nats_N, self._nll_nats_N)
        if not isinstance(memory, np.ndarray) or memory.dtype != np.float64 or memory.shape[1:] != (3,):
            raise ValueError("«memory» is not an array of float64 with three columns")
        _, right_H, size_H = memory.T
        if not (np.isfinite(memory).all() and ((right_H >= 0) & (right_H <= size_H) & (size_H >= 1)).all()):
            raise ValueError("«memory» has rows that are no groups of rollouts")
        set_generator_state(self._forgetting, forgetting)
        super().load_state_dict(rest)
        self._nll_nats_N[:], self._memory = nll_nats_N, memory.copy()
