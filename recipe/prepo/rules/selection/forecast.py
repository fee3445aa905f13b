"""Forecast: prompts whose next group is likely to have rewards that differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recipe.prepo.maths.pass_rate import after_rollouts, expected_worth
from recipe.prepo.maths.perplexity import FEATURES
from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import AuditLine, Options, SelectionRule, folder, number
from recipe.prepo.types import (
    Candidates,
    EarlierRollouts,
    FloatArray,
    IntArray,
    Panel,
    RunFacts,
    Selection,
    StepOutcome,
)

WIDTH = 3 + len(FEATURES)
"""Coefficients of the shared model: a constant, perplexity, length, and ``FEATURES``."""
FARTHEST = 4.0
"""Standardised values beyond this are brought back to it: one odd prompt must not move the model."""
MOST_PENDING = 65_536
"""Choices whose groups never came, as after a failure; older ones are dropped."""
ENOUGH = 0.5
"""Probability of a live group."""
OWN_SDS = np.array([0.5, 1.0, 2.0, 4.0, 8.0])
OWN_SDS_LOG_PRIOR = -(np.log(OWN_SDS / 2.0) ** 2)
TOLERANCE = 1e-6


class Forecast(SelectionRule):
    """Candidates that are likely to give a live group, by a filter of all groups so far.

    The logit of a prompt's pass rate is ``x . w + u``, with features x of the prompt, coefficients w that all prompts
    share, and the prompt's own deviation u. Both have normal beliefs. A group moves them by the matched moments of its
    binomial likelihood, in proportion to their variances (assumed-density filtering, as in TrueSkill). Between groups w
    takes a random step, and u returns towards 0 as in an Ornstein-Uhlenbeck process. The spread of u is the one of
    ``OWN_SDS`` under which the first groups of prompts are most likely (empirical Bayes).

    Of the ``best_ratio`` K candidates with the largest expected reward variance ``E[p (1 - p)]``, K are drawn among
    those whose group is at least as likely live as not; if there are fewer, the next ones follow. A share ``any_share``
    of K is drawn from all other candidates, so that no prompt starves.
    """

    needs_scores = True
    saved: ClassVar[tuple[str, ...]] = (
        *("draws", "step", "weights", "covariance", "num_scored", "sum_scored", "square_scored"),
        *("own_mean_N", "own_variance_N", "seen_step_N", "pending", "own_log_evidence"),
    )
    panels = (
        Panel(
            "Forecast and measured live groups",
            "Share of each step's groups that are live, forecast before their rollouts and measured.",
            {"prepo/live_groups_frac/mean": "measured", "prepo/predicted_live_frac/mean": "forecast"},
            "share of groups",
        ),
    )

    @dataclass(frozen=True)
    class Config(Options):
        model_sd: float = number("(0, 100]")
        model_drift: float = number("[0, 1]")
        ppl_slope: float = number("[-100, 100]")
        memory_steps: float = number("(0, 1e9]")
        best_ratio: float = number("[1, 1e6]")
        any_share: float = number("[0, 1]")
        warm_start: str | None = folder()

    def __init__(self, config: Any, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._draws = make_generator(seed, "selection.forecast.draws")
        self._step = 0
        self._weights = np.zeros(WIDTH)
        self._weights[1] = config.ppl_slope
        self._covariance = np.eye(WIDTH) * config.model_sd**2
        self._num_scored = 0
        self._sum_scored, self._square_scored = np.zeros(WIDTH - 1), np.zeros(WIDTH - 1)
        self._own_log_evidence = np.zeros(len(OWN_SDS))
        self._pending = np.empty((0, 2 + WIDTH))  # of each chosen prompt until its group comes: row, predicted_live, x
        self._last_metrics: dict[str, float] = {}
        self._earlier_N2 = np.empty((0, 2))  # correct, all: discounted rollouts that wait for their prompt's score
        self._num_warm = 0  # prompts whose earlier rollouts were taken since the last step
        if config.warm_start is not None:
            self.saved = (*self.saved, "earlier_N2")  # type: ignore[misc]

    def bind(self, run: RunFacts) -> None:
        self._index = run.prompts
        self._group_size = run.rollouts_per_prompt
        self._own_mean_N = np.zeros(len(run.prompts), dtype=np.float32)
        self._own_variance_N = np.zeros(len(run.prompts), dtype=np.float32)
        self._seen_step_N = np.full(len(run.prompts), -1, dtype=np.int32)

    def start_from(self, earlier: EarlierRollouts) -> None:
        """Earlier rollouts fade as the run's own do, and count when their prompt has a score."""
        rows_R = self._index.rows(earlier.prompt_ids)
        weight_R = np.exp(-earlier.age_steps_R / self.config.memory_steps)
        self._earlier_N2 = np.zeros((len(self._own_mean_N), 2))
        np.add.at(self._earlier_N2, rows_R, np.stack([weight_R * earlier.correct_R, weight_R], axis=1))

    def _take_earlier(self, rows_C: IntArray, x_C: FloatArray) -> None:
        if not len(self._earlier_N2):
            return
        correct_C, size_C = self._earlier_N2[rows_C].T
        new = np.flatnonzero((size_C > 0.0) & (self._seen_step_N[rows_C] < 0))
        self._own_log_evidence = self._learn_groups(
            self._own_log_evidence, rows_C[new], x_C[new], correct_C[new], size_C[new]
        )
        self._earlier_N2[rows_C] = 0.0
        self._num_warm += len(new)

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        rows_C = self._index.rows(candidates.prompt_ids)
        x_C = self._features(candidates)
        self._take_earlier(rows_C, x_C)
        own_mean_C, own_variance_C = self._own(rows_C)
        mean_C = x_C @ self._weights + own_mean_C
        variance_C = ((x_C @ self._covariance) * x_C).sum(1) + own_variance_C
        live_C, reward_variance_C = expected_worth(mean_C, variance_C, self._group_size)
        num_best = min(len(rows_C), round(self.config.best_ratio * num_selected))
        least = float(np.partition(reward_variance_C, -num_best)[-num_best])
        is_good_C = (live_C >= ENOUGH) & (reward_variance_C >= least)
        draw_C, any_draw_C = self._draws.random((2, len(rows_C)))
        rank_C = np.where(is_good_C, draw_C, 2.0 - reward_variance_C)
        any_draw_C[_smallest(rank_C, num_selected - round(self.config.any_share * num_selected))] = -1.0
        chosen_P = np.sort(_smallest(any_draw_C, num_selected))
        is_rest_C = np.ones(len(rows_C), dtype=bool)
        is_rest_C[chosen_P] = False
        new = np.concatenate([rows_C[chosen_P, None], live_C[chosen_P, None], x_C[chosen_P]], axis=1)
        self._pending = np.concatenate([self._pending, new])[-MOST_PENDING:]
        rest = np.flatnonzero(is_rest_C)
        sides = np.where(mean_C[rest] > 0.0, "predicted_too_easy", "predicted_too_hard")
        sides = np.where(live_C[rest] >= ENOUGH, "predicted_live", sides)
        reasons = dict(zip(rest.tolist(), sides.tolist(), strict=True))
        beliefs = {"pass_logit": mean_C, "pass_logit_variance": variance_C, "predicted_live": live_C}
        worth = {"predicted_reward_variance": reward_variance_C, "least_reward_variance": least}
        draws = {"draw": draw_C, "any_draw": any_draw_C, "group_size": self._group_size}
        return Selection(chosen_P, reasons, beliefs | worth | draws)

    def _features(self, candidates: Candidates) -> FloatArray:
        """Each candidate's ``x``, shape [C, WIDTH]: standardised by the moments of all candidates so far."""
        assert candidates.nll_nats_C is not None and candidates.num_tokens_C is not None, "the rule needs scores"
        missing_C = np.zeros(len(candidates))
        others = (candidates.features_C.get(name, missing_C) for name in FEATURES)
        raw_CF = np.stack([candidates.nll_nats_C, candidates.num_tokens_C, *others], axis=1)
        self._num_scored += len(raw_CF)
        self._sum_scored = self._sum_scored + raw_CF.sum(0)
        self._square_scored = self._square_scored + (raw_CF**2).sum(0)
        mean_F = self._sum_scored / self._num_scored
        sd_F = np.sqrt(np.maximum(self._square_scored / self._num_scored - mean_F**2, 0.0))
        z_CF = np.divide(raw_CF - mean_F, sd_F, out=np.zeros_like(raw_CF), where=sd_F > 1e-6)
        return np.concatenate([np.ones((len(z_CF), 1)), np.clip(z_CF, -FARTHEST, FARTHEST)], axis=1)

    def _own(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Mean and variance of each prompt's own deviation at this step, shape [P] each."""
        age_P = self._step - self._seen_step_N[rows]
        kept_P = np.where(self._seen_step_N[rows] < 0, 0.0, np.exp(-age_P / self.config.memory_steps))
        unseen = self._own_sd**2
        seen_P = np.minimum(self._own_variance_N[rows], unseen)
        return kept_P * self._own_mean_N[rows], unseen - kept_P**2 * (unseen - seen_P)

    @property
    def _own_sd(self) -> float:
        return float(OWN_SDS[np.argmax(OWN_SDS_LOG_PRIOR + self._own_log_evidence)])

    def observe(self, outcome: StepOutcome) -> None:
        groups = outcome.prompts(self._index)
        place = {int(row): i for i, row in enumerate(self._pending[:, 0])}
        is_known_G = np.isin(groups.rows_G, self._pending[:, 0])
        known: Any = [each[is_known_G] for each in (groups.rows_G, groups.num_correct_G, groups.size_G)]
        rows_G, correct_G, size_G = known
        chosen = self._pending[[place[row] for row in rows_G.tolist()]]
        self._last_metrics = {}
        if len(rows_G):
            self._last_metrics = {
                "prepo/known_prompts_frac/mean": float((self._seen_step_N[rows_G] >= 0).mean()),
                "prepo/live_groups_frac/mean": float(((correct_G > 0) & (correct_G < size_G)).mean()),
                "prepo/predicted_live_frac/mean": float(chosen[:, 1].mean()),
            }
        own_log_evidence = self._own_log_evidence * np.exp(-1.0 / self.config.memory_steps)
        self._own_log_evidence = self._learn_groups(own_log_evidence, rows_G, chosen[:, 2:], correct_G, size_G)
        self._pending = self._pending[~np.isin(self._pending[:, 0], rows_G)]
        self._step += 1
        self._covariance = self._covariance + np.eye(WIDTH) * self.config.model_drift * self.config.model_sd**2

    def _learn_groups(
        self, own_log_evidence: FloatArray, rows_G: IntArray, x_G: FloatArray, correct_G: FloatArray, size_G: Any
    ) -> FloatArray:
        """Learn from groups in turn; returns the evidence about the spread of u with that of first groups added."""
        for row, x, correct, size in zip(rows_G.tolist(), x_G, correct_G.tolist(), size_G.tolist(), strict=True):
            if self._seen_step_N[row] < 0:
                mean, variance = float(x @ self._weights), float(x @ self._covariance @ x)
                first = [after_rollouts(mean, variance + sd**2, correct, size)[2] for sd in OWN_SDS]
                own_log_evidence = own_log_evidence + first
            self._learn(row, x, correct, size)
        return own_log_evidence

    def _learn(self, row: int, x: FloatArray, correct: float, size: float) -> None:
        """Update both beliefs by one group of a prompt."""
        own_mean, own_variance = (float(each[0]) for each in self._own(np.array([row])))
        toward = self._covariance @ x
        mean, variance = float(x @ self._weights) + own_mean, float(x @ toward) + own_variance
        new_mean, new_variance, _ = after_rollouts(mean, variance, correct, size)
        gain, shrink = (new_mean - mean) / variance, (variance - new_variance) / variance**2
        self._weights = self._weights + toward * gain
        self._covariance = self._covariance - np.outer(toward, toward) * shrink
        self._own_mean_N[row] = own_mean + own_variance * gain
        self._own_variance_N[row] = own_variance - own_variance**2 * shrink
        self._seen_step_N[row] = self._step

    def metrics(self) -> dict[str, float]:
        if self.config.warm_start is None:
            return self._last_metrics
        num_warm, self._num_warm = self._num_warm, 0
        return self._last_metrics | {"prepo/warm_prompts/sum": float(num_warm)}

    @classmethod
    def check_choice(cls, line: AuditLine, options: Mapping[str, Any]) -> str:
        """Probabilities follow from the beliefs, no skipped prompt has a higher one, and reasons say the side."""
        chosen = set(line["selected"])
        reasons = {skip["prompt_id"]: skip["reason"] for skip in line["skipped"]}

        def rank(candidate: AuditLine) -> float:
            variance = candidate["predicted_reward_variance"]
            is_good = candidate["predicted_live"] >= ENOUGH and variance >= line["least_reward_variance"]
            return float(candidate["draw"] if is_good else 2.0 - variance)

        ranks = {candidate["prompt_id"]: rank(candidate) for candidate in line["candidates"]}
        draws = {candidate["prompt_id"]: candidate["any_draw"] for candidate in line["candidates"]}
        forecast = {prompt_id for prompt_id in chosen if draws[prompt_id] < 0.0}
        if len(forecast) != len(chosen) - round(options["any_share"] * len(chosen)):
            return f"{len(forecast)} of {len(chosen)} prompts were chosen by forecast"
        last = max((ranks[prompt_id] for prompt_id in forecast), default=-1.0)
        last_draw = max(draws[prompt_id] for prompt_id in chosen)
        for candidate in line["candidates"]:
            prompt_id, logit, live = candidate["prompt_id"], candidate["pass_logit"], candidate["predicted_live"]
            if prompt_id not in forecast and ranks[prompt_id] < last:
                return f"{prompt_id}, which was not chosen by forecast, comes before one that was"
            if prompt_id not in chosen:
                if draws[prompt_id] < last_draw:
                    return f"the skipped prompt {prompt_id} was drawn before a chosen one"
                side = "predicted_too_easy" if logit > 0.0 else "predicted_too_hard"
                side = "predicted_live" if live >= ENOUGH else side
                if reasons[prompt_id] != side:
                    return f"{prompt_id} with the logit {logit} and predicted_live {live} is not {reasons[prompt_id]!r}"
                continue
            nodes = [i / 2.0 for i in range(-9, 10)]  # the quadrature of maths.pass_rate
            density = [math.exp(-node * node / 2.0) for node in nodes]
            rates = [1.0 / (1.0 + math.exp(-logit - n * candidate["pass_logit_variance"] ** 0.5)) for n in nodes]
            lives = [1.0 - p ** line["group_size"] - (1.0 - p) ** line["group_size"] for p in rates]
            expected = sum(map(float.__mul__, density, lives)) / sum(density)
            if abs(expected - live) > TOLERANCE:
                return f"predicted_live of {prompt_id} is {live}, recomputed {expected}"
        return super().check_choice(line, options)


def _smallest(values_C: FloatArray, number: int) -> IntArray:
    """Places of the smallest values, in any order."""
    return np.argpartition(values_C, max(number - 1, 0))[:number]
