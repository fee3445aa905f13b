"""GRESO: prompts whose groups gave no learning signal lately are skipped before their rollouts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipe.prepo.maths.rng import generator_state, make_generator, set_generator_state
from recipe.prepo.maths.skipping import Refill, adjust_probability, refill_size, skip_probability
from recipe.prepo.rules.base import SkippingRule, require_positive_integers, require_shares
from recipe.prepo.rules.signal_history import SignalHistory, skip_reasons
from recipe.prepo.types import Candidates, RunFacts, Selection, StepOutcome

SHARES = ("p_easy", "p_hard", "p_step", "p_min", "p_max", "explore", "target_easy", "target_hard")


class Greso(SkippingRule):
    """Skip with probability ``1 - max(p^z, explore)`` after z groups in a row without a signal (arXiv 2506.02177).

    ``p_easy`` serves runs of all-right groups, ``p_hard`` of all-wrong ones; after each step of the second epoch and
    later each moves by ``p_step`` so that the share of rollouts spent on such groups nears its target. A step rolls out
    ``first_round_ratio * K`` prompts, drops groups without reward variance, and refills until K groups are left.

    DEVIATIONS from the published code: right and wrong are counts of right rollouts, not thresholds on mean rewards, in
    the run and the control alike (its three notions of «hard» let p_hard drift), while the refill drops groups of equal
    rewards, as verl's filter does; a prompt that is drawn twice for one round is rolled out once; a round holds exactly
    as many prompts as its size says, so no prompt that was kept is dropped; a step is filled up by default
    (``allow_short`` trains on fewer groups after the last round, as published), at most ``max_rounds`` times; the
    trailing run stands for the whole trace, and grows at the step's end.
    """

    @dataclass(frozen=True)
    class Config:
        p_easy: float
        p_hard: float
        p_step: float
        p_min: float
        p_max: float
        explore: float
        target_easy: float
        target_hard: float
        first_round_ratio: float
        safety: float
        min_round: int
        max_rounds: int
        allow_short: bool

        def __post_init__(self) -> None:
            require_shares(self, *SHARES)
            for name in ("p_easy", "p_hard"):
                if not self.p_min <= getattr(self, name) <= self.p_max:
                    raise ValueError(f"{name}={getattr(self, name)} is not in [p_min={self.p_min}, p_max={self.p_max}]")
            if not self.explore > 0.0:
                raise ValueError("explore=0 could skip every prompt for ever; the published value is 0.01")
            for name in ("first_round_ratio", "safety"):
                if not 1.0 <= getattr(self, name) < math.inf:
                    raise ValueError(f"{name}={getattr(self, name)} must be a number of at least 1")
            require_positive_integers(self, "min_round", "max_rounds")
            if not isinstance(self.allow_short, bool):
                raise ValueError(f"allow_short={self.allow_short!r} must be true or false")

    def __init__(self, config: Config, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._generator = make_generator(seed, "selection.greso")
        self._history = SignalHistory()
        self._p_easy, self._p_hard = config.p_easy, config.p_hard
        self._num_drawn = 0

    def bind(self, run: RunFacts) -> None:
        self._num_prompts = len(run.prompts)
        self._history.bind(run)

    def first_round(self, num_selected: int) -> int:
        return math.floor(num_selected * self.config.first_round_ratio)

    def next_round(
        self, num_missing: int, *, zero_variance_frac: float, num_selected: int, refills: tuple[Refill, ...]
    ) -> Refill | None:
        ended_short = self.config.allow_short and bool(refills) and refills[-1].is_last
        if ended_short or len(refills) + 1 >= self.config.max_rounds:
            return None
        return refill_size(
            num_missing,
            zero_variance_frac=zero_variance_frac,
            full_round=self.first_round(num_selected),
            min_round=self.config.min_round,
            safety=self.config.safety,
        )

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        self._num_drawn += len(candidates)
        run_C = self._history.runs(candidates.prompt_ids)
        skip_C = skip_probability(run_C, p_easy=self._p_easy, p_hard=self._p_hard, explore=self.config.explore)
        is_skipped_C = self._generator.random(len(candidates)) < skip_C
        return Selection(indices_P=np.flatnonzero(~is_skipped_C), skip_reasons=skip_reasons(is_skipped_C, run_C))

    def observe(self, outcome: StepOutcome) -> None:
        easy, hard = self._history.observe(outcome)
        if self._num_drawn > self._num_prompts:  # not in the first epoch
            config = self.config
            self._p_easy = self._adjusted(self._p_easy, easy, config.target_easy)
            self._p_hard = self._adjusted(self._p_hard, hard, config.target_hard)

    def _adjusted(self, p: float, share: float, target: float) -> float:
        config = self.config
        return adjust_probability(
            p, share=share, target=target, step=config.p_step, lowest=config.p_min, highest=config.p_max
        )

    def metrics(self) -> dict[str, float]:
        return {"prepo/p_easy/mean": self._p_easy, "prepo/p_hard/mean": self._p_hard}

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": generator_state(self._generator),
            "p": [self._p_easy, self._p_hard],
            "num_drawn": self._num_drawn,
            "history": self._history.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if set(state) != {"generator", "p", "num_drawn", "history"}:
            raise ValueError(f"greso keeps generator, p, num_drawn and history, found {sorted(state)}")
        self._history.load_state_dict(state["history"])
        set_generator_state(self._generator, state["generator"])
        self._p_easy, self._p_hard = (float(p) for p in state["p"])
        if not all(self.config.p_min <= p <= self.config.p_max for p in (self._p_easy, self._p_hard)):
            raise ValueError(f"p={state['p']} is not in [{self.config.p_min}, {self.config.p_max}]")
        self._num_drawn = int(state["num_drawn"])
