"""MoPPS: the prompts whose pass rate, as predicted from their earlier rollouts, is nearest to a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recipe.prepo.maths.pass_rates import FloatArray, add_evidence, nearest
from recipe.prepo.maths.rng import generator_state, make_generator, set_generator_state
from recipe.prepo.rules.base import SelectionRule, require_between, require_like, require_shares
from recipe.prepo.types import Candidates, IntArray, PromptOutcomes, RunFacts, Selection, StepOutcome


class Mopps(SelectionRule):
    """The K candidates whose pass rates, drawn from Beta posteriors, are nearest to a target (arXiv 2507.04632).

    A prompt's posterior has its right and wrong rollouts as evidence, older groups ``discount`` times as much as the
    one after; drawing from it (Thompson sampling) lets prompts that are little known be tried. No scores, no refill.

    DEVIATION from the published code: counts are of the rollouts that a group had, not the nominal group size, so that
    ragged groups count as what they are.
    """

    needs_scores = False

    @dataclass(frozen=True)
    class Config:
        prior_right: float
        prior_wrong: float
        discount: float
        target_pass_rate: float

        def __post_init__(self) -> None:
            require_between(self, 0.01, 1e6, "prior_right", "prior_wrong")
            require_shares(self, "discount", "target_pass_rate")

    def __init__(self, config: Config, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._generator = make_generator(seed, "selection.mopps")
        self._ties = make_generator(seed, "selection.mopps.ties")
        self._last: dict[str, float] = {}

    def bind(self, run: RunFacts) -> None:
        self._index = run.prompts
        self._right_N = np.zeros(len(run.prompts), dtype=np.float32)
        self._wrong_N = np.zeros(len(run.prompts), dtype=np.float32)

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        rows = self._index.rows(candidates.prompt_ids)
        self._note_scores(rows, candidates)
        rate_C = self._generator.beta(*self._posterior(rows))
        chosen_P = nearest(rate_C, target=self.config.target_pass_rate, num=num_selected, generator=self._ties)
        is_chosen_C = np.zeros(len(candidates), dtype=bool)
        is_chosen_C[chosen_P] = True
        is_high_C = rate_C > self.config.target_pass_rate
        reasons = dict.fromkeys(np.flatnonzero(~is_chosen_C & is_high_C).tolist(), "predicted_too_easy")
        reasons |= dict.fromkeys(np.flatnonzero(~is_chosen_C & ~is_high_C).tolist(), "predicted_too_hard")
        return Selection(indices_P=chosen_P, skip_reasons=reasons, drawn_pass_rate_C=rate_C)

    def observe(self, outcome: StepOutcome) -> None:
        groups = outcome.prompts(self._index)
        self._last = self._judge(groups) if len(groups.rows_G) else {}
        self._learn(groups)

    def _judge(self, groups: PromptOutcomes) -> dict[str, float]:
        """Metrics of what was predicted of the groups."""
        found_G = groups.num_correct_G / groups.size_G
        alpha_G, beta_G = self._posterior(groups.rows_G)
        predicted_G = alpha_G / (alpha_G + beta_G)
        is_known_G = (self._right_N[groups.rows_G] + self._wrong_N[groups.rows_G]) > 0
        return {
            "prepo/known_prompts_frac/mean": float(is_known_G.mean()),
            "prepo/pass_rate/mean": float(found_G.mean()),
            "prepo/predicted_pass_rate/mean": float(predicted_G.mean()),
            "prepo/pass_rate_error/mean": float(np.abs(found_G - predicted_G).mean()),
        }

    def _learn(self, groups: PromptOutcomes) -> None:
        for now in groups.rounds():
            rows, right_G, size_G = groups.rows_G[now], groups.num_correct_G[now], groups.size_G[now]
            discount = self.config.discount
            self._right_N[rows] = add_evidence(self._right_N[rows], right_G, discount=discount)
            self._wrong_N[rows] = add_evidence(self._wrong_N[rows], size_G - right_G, discount=discount)

    def _note_scores(self, rows: IntArray, candidates: Candidates) -> None:
        """Keep what a prior needs of the candidates."""

    def _prior(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Parameters of each prompt's Beta prior, shape [P] each."""
        return np.full(len(rows), self.config.prior_right), np.full(len(rows), self.config.prior_wrong)

    def _posterior(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        alpha_P, beta_P = self._prior(rows)
        return alpha_P + self._right_N[rows], beta_P + self._wrong_N[rows]

    def metrics(self) -> dict[str, float]:
        return self._last

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": generator_state(self._generator),
            "ties": generator_state(self._ties),
            "right": self._right_N.copy(),
            "wrong": self._wrong_N.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if set(state) != {"generator", "ties", "right", "wrong"}:
            raise ValueError(f"mopps keeps generator, ties, right and wrong, found {sorted(state)}")
        for name, mine_N in (("right", self._right_N), ("wrong", self._wrong_N)):
            found = state[name]
            require_like(name, found, mine_N)
            if not (np.isfinite(found) & (found >= 0)).all():
                raise ValueError(f"«{name}» has entries that are no counts of rollouts")
        set_generator_state(self._generator, state["generator"])
        set_generator_state(self._ties, state["ties"])
        self._right_N[:], self._wrong_N[:] = state["right"], state["wrong"]
