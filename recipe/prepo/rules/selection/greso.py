"""GRESO: prompts whose groups recently gave no learning signal are skipped before their rollouts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import SkippingRule, require_positive_integers, require_shares
from recipe.prepo.rules.selection.skipping import SignalHistory, skip_probability, skip_reasons
from recipe.prepo.types import Candidates, Panel, Refill, RunFacts, Selection, StepOutcome

SHARES = ("p_easy", "p_hard", "p_step", "p_min", "p_max", "explore", "target_easy", "target_hard")


def adjust_probability(p: float, *, share: float, target: float, step: float, lowest: float, highest: float) -> float:
    """Keep fewer prompts of a kind while too many rollouts go to it, more otherwise.

    >>> round(adjust_probability(0.5, share=0.2, target=0.1, step=0.01, lowest=0.05, highest=0.95), 2)
    0.49
    """
    return max(p - step, lowest) if share >= target else min(p + step, highest)


def refill_size(
    num_missing: int, *, zero_variance_frac: float, full_round: int, min_round: int, safety: float
) -> Refill:
    """Prompts to roll out next: ``min(B_default, beta * B_missing / (1 - alpha))``, at least ``min_round``.

    Args:
        num_missing: groups with a signal that the step still lacks.
        zero_variance_frac: alpha, the share of groups without a signal in the last round; 1 asks for a full round
            (DEVIATION: the published code divides by zero).
        full_round: B_default. DEVIATION: ``min_round`` never raises a round above it.
        safety: beta.

    >>> refill_size(64, zero_variance_frac=0.5, full_round=384, min_round=64, safety=1.25)
    Refill(num_prompts=160, estimate=160, is_last=True)
    >>> refill_size(64, zero_variance_frac=1.0, full_round=384, min_round=64, safety=1.25)
    Refill(num_prompts=384, estimate=None, is_last=False)
    """
    assert num_missing > 0 and 0.0 <= zero_variance_frac <= 1.0
    if zero_variance_frac == 1.0:
        return Refill(full_round, None, False)
    estimate = math.floor(safety * num_missing / (1.0 - zero_variance_frac))
    size = max(min(estimate, full_round), min(min_round, full_round))
    return Refill(size, estimate, estimate <= full_round)


class Greso(SkippingRule):
    """Skip with probability ``1 - max(p^z, explore)`` after z groups in a row without a signal (arXiv 2506.02177).

    ``p_easy`` applies to runs of all-correct groups, ``p_hard`` to all-incorrect ones. From the second epoch on each
    moves by ``p_step`` per step, so that the share of rollouts spent on such groups approaches its target. A step rolls
    out ``first_round_ratio * K`` prompts, discards groups without reward variance, and refills until K groups are left.

    DEVIATIONS from the published code:

    * Runs and control count correct rollouts, instead of comparing mean rewards with thresholds (its three notions of
      "hard" let p_hard drift). The refill drops groups of equal rewards, as verl's filter does.
    * A prompt that is drawn twice for a round is rolled out once.
    * A round holds exactly as many prompts as its size says, so no kept prompt is dropped.
    * A step is filled up by default, in at most ``max_rounds`` rounds; ``allow_short`` trains on fewer groups after
      the last round, as published.
    * The trailing run replaces the whole trace, and grows at the end of the step.
    """

    saved = ("generator", "p_easy", "p_hard", "num_drawn", "history")
    metric_notes: ClassVar = {
        "prepo/p_easy/mean": "Probability of keeping a prompt after one all-correct group.",
        "prepo/p_hard/mean": "Probability of keeping a prompt after one all-incorrect group.",
    }
    panels = (
        Panel(
            title="Probability of keeping a prompt",
            caption="After one group without a signal; the rule moves both towards its targets.",
            series={"prepo/p_easy/mean": "p, all correct", "prepo/p_hard/mean": "p, all incorrect"},
            y_label="probability",
        ),
    )

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
                raise ValueError("explore=0 could skip every prompt forever; the published value is 0.01")
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
        self._p_easy, self._p_hard = float(config.p_easy), float(config.p_hard)
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
        return Selection(np.flatnonzero(~is_skipped_C), skip_reasons(is_skipped_C, run_C))

    def observe(self, outcome: StepOutcome) -> None:
        easy, hard = self._history.observe(outcome)
        if self._num_drawn > self._num_prompts:  # not in the first epoch
            self._p_easy = self._adjusted(self._p_easy, easy, self.config.target_easy)
            self._p_hard = self._adjusted(self._p_hard, hard, self.config.target_hard)

    def _adjusted(self, p: float, share: float, target: float) -> float:
        config = self.config
        return adjust_probability(
            p, share=share, target=target, step=config.p_step, lowest=config.p_min, highest=config.p_max
        )

    def metrics(self) -> dict[str, float]:
        return {"prepo/p_easy/mean": self._p_easy, "prepo/p_hard/mean": self._p_hard}

    def check_state(self, state: Mapping[str, Any]) -> None:
        super().check_state(state)
        for name in ("p_easy", "p_hard"):
            if not self.config.p_min <= state[name] <= self.config.p_max:
                raise ValueError(f"{name}={state[name]} is not in [{self.config.p_min}, {self.config.p_max}]")
