"""GRESO: prompts whose groups recently gave no learning signal are skipped before their rollouts (arXiv 2506.02177)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import Options, SkippingRule, Stateful, choice, count, number
from recipe.prepo.types import Candidates, FloatArray, IntArray, Panel, Refill, RunFacts, Selection, StepOutcome


def skip_probability(run_P: IntArray, *, p_easy: float, p_hard: float, explore: float) -> FloatArray:
    """Probability of skipping each prompt, shape [P]: ``1 - max(p^z, explore)`` after z groups without a signal.

    Args:
        run_P: trailing runs (:class:`SignalHistory`), shape [P].
        p_easy, p_hard: probability of keeping a prompt after one such group.
        explore: least probability of keeping a prompt.

    >>> skip_probability(np.array([0, 1, 3, -2, 7]), p_easy=0.5, p_hard=0.5, explore=0.01).tolist()
    [0.0, 0.5, 0.875, 0.75, 0.99]
    """
    kept_P = np.maximum(np.where(run_P > 0, p_easy, p_hard) ** np.abs(run_P).astype(np.float64), explore)
    return np.where(run_P == 0, 0.0, 1.0 - kept_P)


def skip_reasons(is_skipped_C: NDArray[np.bool_], run_C: IntArray) -> dict[int, str]:
    """Reason for each skipped candidate, by its position, from its trailing run; arrays of shape [C]."""
    reasons = dict.fromkeys(np.flatnonzero(is_skipped_C & (run_C > 0)).tolist(), "all_right_before")
    return reasons | dict.fromkeys(np.flatnonzero(is_skipped_C & (run_C < 0)).tolist(), "all_wrong_before")


class SignalHistory(Stateful):
    """Trailing run of each prompt: n > 0 after n all-correct groups in a row, n < 0 after all-incorrect ones."""

    saved = ("run_N",)

    def bind(self, run: RunFacts) -> None:
        self._index = run.prompts
        self._run_N = np.zeros(len(run.prompts), dtype=np.int32)

    def runs(self, prompt_ids: tuple[str, ...]) -> IntArray:
        return self._run_N[self._index.rows(prompt_ids)].astype(np.int64)

    def observe(self, outcome: StepOutcome) -> tuple[float, float]:
        """Extend the runs by a step's groups; returns the shares of rollouts in all-correct and all-incorrect ones."""
        groups = outcome.prompts(self._index)
        is_easy_G, is_hard_G = groups.num_correct_G == groups.size_G, groups.num_correct_G == 0
        for now in groups.rounds():
            run_P = self._run_N[groups.rows_G[now]]
            after_P = np.where(is_hard_G[now], np.minimum(run_P, 0) - 1, 0)
            self._run_N[groups.rows_G[now]] = np.where(is_easy_G[now], np.maximum(run_P, 0) + 1, after_P)
        total = max(int(groups.size_G.sum()), 1)
        return int(groups.size_G[is_easy_G].sum()) / total, int(groups.size_G[is_hard_G].sum()) / total


class Greso(SkippingRule):
    """Skip with probability ``1 - max(p^z, explore)`` after z groups in a row without a signal (arXiv 2506.02177).

    ``p_easy`` applies to runs of all-correct groups, ``p_hard`` to all-incorrect ones. From the second epoch on each
    moves by ``p_step`` per step, so that the share of rollouts spent on such groups approaches its target. A step rolls
    out ``first_round_ratio * K`` prompts, discards groups without reward variance, and refills until K groups are left.
    A refill has ``min(B_default, safety * B_missing / (1 - alpha))`` prompts, at least ``min_round``: B_default is the
    first round, alpha the share of groups without a signal in the last one.

    DEVIATIONS from the published code:

    * Runs and control count correct rollouts, instead of comparing mean rewards with thresholds.
    * A prompt that is drawn twice for a round is rolled out once, and no kept prompt of a round is dropped.
    * alpha = 1 asks for a full round (published: a division by zero), and ``min_round`` for no more than that.
    * A step is filled up, in at most ``max_rounds`` rounds; ``allow_short`` trains on fewer groups, as published.
    """

    reads_correctness = True
    saved = ("generator", "p_easy", "p_hard", "num_drawn", "history")
    panels = (
        Panel(
            "Probability of keeping a prompt",
            "After one group without a signal; the rule moves both towards its targets.",
            {"prepo/p_easy/mean": "p, all correct", "prepo/p_hard/mean": "p, all incorrect"},
            "probability",
        ),
    )

    @dataclass(frozen=True)
    class Config(Options):
        p_easy: float = number("[0, 1]")
        p_hard: float = number("[0, 1]")
        p_step: float = number("[0, 1]")
        p_min: float = number("[0, 1]")
        p_max: float = number("[0, 1]")
        explore: float = number("(0, 1]", why=": 0 could skip a prompt forever; the published value is 0.01")
        target_easy: float = number("[0, 1]")
        target_hard: float = number("[0, 1]")
        first_round_ratio: float = number("[1, inf)")
        safety: float = number("[1, inf)")
        min_round: int = count()
        max_rounds: int = count()
        allow_short: bool = choice(True, False)

        def __post_init__(self) -> None:
            super().__post_init__()
            for name in ("p_easy", "p_hard"):
                if not self.p_min <= getattr(self, name) <= self.p_max:
                    raise ValueError(f"{name}={getattr(self, name)} is not in [p_min={self.p_min}, p_max={self.p_max}]")

    def __init__(self, config: Any, *, seed: int) -> None:
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
        full_round = self.first_round(num_selected)
        if zero_variance_frac == 1.0:
            return Refill(full_round, None, False)
        estimate = math.floor(self.config.safety * num_missing / (1.0 - zero_variance_frac))
        num_prompts = min(max(estimate, self.config.min_round), full_round)
        return Refill(num_prompts, estimate, estimate <= full_round)

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
        step = -self.config.p_step if share >= target else self.config.p_step
        return min(max(p + step, self.config.p_min), self.config.p_max)

    def metrics(self) -> dict[str, float]:
        return {"prepo/p_easy/mean": self._p_easy, "prepo/p_hard/mean": self._p_hard}
