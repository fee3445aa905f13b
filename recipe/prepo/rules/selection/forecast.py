"""Forecast: the prompts whose next group is most likely to have rewards that differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recipe.prepo.maths.pass_rate import after_rollouts, expected_live
from recipe.prepo.maths.perplexity import FEATURES
from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import AuditLine, Options, SelectionRule, number
from recipe.prepo.types import Candidates, FloatArray, IntArray, Panel, RunFacts, Selection, StepOutcome

WIDTH = 3 + len(FEATURES)
"""Coefficients of the shared model: a constant, perplexity, length, and ``FEATURES``."""
FARTHEST = 4.0
"""Standardised values beyond this are brought back to it: one odd prompt must not move the model."""
MOST_PENDING = 65_536
"""Choices whose groups never came, as after a failure; older ones are dropped."""
TOLERANCE = 1e-3


class Forecast(SelectionRule):
    """The K candidates with the highest probability of a live group, by a filter of all groups so far.

    The logit of a prompt's pass rate is ``x . w + u``, with features x of the prompt, coefficients w that all prompts
    share, and the prompt's own deviation u. Both have normal beliefs. A group moves them by the matched moments of its
    binomial likelihood, in proportion to their variances (assumed-density filtering, as in TrueSkill). Between groups
    time passes: w takes a random step, and u returns towards 0 as in an Ornstein-Uhlenbeck process. So evidence ages
    with time and not with a prompt's own groups.

    Candidates are ranked by ``E[1 - p^M - (1 - p)^M]`` over the belief. Nothing is drawn but ties: a prompt about which
    little is known has worth in that expectation, and what is known of it fades, so none starves.
    """

    needs_scores = True
    saved: ClassVar[tuple[str, ...]] = (
        *("ties", "step", "weights", "covariance", "num_scored", "sum_scored", "square_scored"),
        *("own_mean_N", "own_variance_N", "seen_step_N", "pending"),
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
        own_sd: float = number("(0, 100]")
        memory_steps: float = number("(0, 1e9]")

    def __init__(self, config: Any, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._ties = make_generator(seed, "selection.forecast.ties")
        self._step = 0
        self._weights = np.zeros(WIDTH)
        self._weights[1] = config.ppl_slope
        self._covariance = np.eye(WIDTH) * config.model_sd**2
        self._num_scored = 0
        self._sum_scored, self._square_scored = np.zeros(WIDTH - 1), np.zeros(WIDTH - 1)
        self._pending = np.empty((0, 2 + WIDTH))  # of each chosen prompt until its group comes: row, worth, x
        self._last_metrics: dict[str, float] = {}

    def bind(self, run: RunFacts) -> None:
        self._index = run.prompts
        self._group_size = run.rollouts_per_prompt
        self._own_mean_N = np.zeros(len(run.prompts), dtype=np.float32)
        self._own_variance_N = np.full(len(run.prompts), self.config.own_sd**2, dtype=np.float32)
        self._seen_step_N = np.full(len(run.prompts), -1, dtype=np.int32)

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        rows_C = self._index.rows(candidates.prompt_ids)
        x_C = self._features(candidates)
        own_mean_C, own_variance_C = self._own(rows_C)
        mean_C = x_C @ self._weights + own_mean_C
        variance_C = ((x_C @ self._covariance) * x_C).sum(1) + own_variance_C
        worth_C = expected_live(mean_C, variance_C, self._group_size)
        shuffled_C = self._ties.permutation(len(rows_C))  # so that chance decides ties
        ranked_C = shuffled_C[np.argsort(-worth_C[shuffled_C], kind="stable")]
        chosen_P = np.sort(ranked_C[:num_selected])
        new = np.concatenate([rows_C[chosen_P, None], worth_C[chosen_P, None], x_C[chosen_P]], axis=1)
        self._pending = np.concatenate([self._pending, new])[-MOST_PENDING:]
        rest = np.sort(ranked_C[num_selected:])
        sides = np.where(mean_C[rest] > 0.0, "predicted_too_easy", "predicted_too_hard")
        reasons = dict(zip(rest.tolist(), sides.tolist(), strict=True))
        details = {
            "pass_logit": mean_C,
            "pass_logit_variance": variance_C,
            "predicted_live": worth_C,
            "group_size": self._group_size,
        }
        return Selection(chosen_P, reasons, details)

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
        kept_P = np.exp(-(self._step - self._seen_step_N[rows]) / self.config.memory_steps)
        unseen = self.config.own_sd**2
        return kept_P * self._own_mean_N[rows], unseen - kept_P**2 * (unseen - self._own_variance_N[rows])

    def observe(self, outcome: StepOutcome) -> None:
        groups = outcome.prompts(self._index)
        place = {int(row): i for i, row in enumerate(self._pending[:, 0])}
        is_known_G = np.isin(groups.rows_G, self._pending[:, 0])
        rows_G, correct_G, size_G = (each[is_known_G] for each in (groups.rows_G, groups.num_correct_G, groups.size_G))
        chosen = self._pending[[place[row] for row in rows_G.tolist()]]
        self._last_metrics = {}
        if len(rows_G):
            self._last_metrics = {
                "prepo/known_prompts_frac/mean": float((self._seen_step_N[rows_G] >= 0).mean()),
                "prepo/live_groups_frac/mean": float(((correct_G > 0) & (correct_G < size_G)).mean()),
                "prepo/predicted_live_frac/mean": float(chosen[:, 1].mean()),
            }
        for row, x, correct, size in zip(rows_G.tolist(), chosen[:, 2:], correct_G, size_G, strict=True):
            self._learn(row, x, int(correct), int(size))
        self._pending = self._pending[~np.isin(self._pending[:, 0], rows_G)]
        self._step += 1
        self._covariance = self._covariance + np.eye(WIDTH) * self.config.model_drift * self.config.model_sd**2

    def _learn(self, row: int, x: FloatArray, correct: int, size: int) -> None:
        """Update both beliefs by one group of a prompt."""
        own_mean, own_variance = (float(each[0]) for each in self._own(np.array([row])))
        toward = self._covariance @ x
        mean, variance = float(x @ self._weights) + own_mean, float(x @ toward) + own_variance
        new_mean, new_variance = after_rollouts(mean, variance, correct, size)
        gain, shrink = (new_mean - mean) / variance, (variance - new_variance) / variance**2
        self._weights = self._weights + toward * gain
        self._covariance = self._covariance - np.outer(toward, toward) * shrink
        self._own_mean_N[row] = own_mean + own_variance * gain
        self._own_variance_N[row] = own_variance - own_variance**2 * shrink
        self._seen_step_N[row] = self._step

    def metrics(self) -> dict[str, float]:
        return self._last_metrics

    @classmethod
    def check_choice(cls, line: AuditLine, options: Mapping[str, Any]) -> str:
        """Probabilities follow from the beliefs, no skipped prompt has a higher one, and reasons say the side."""
        chosen = set(line["selected"])
        reasons = {skip["prompt_id"]: skip["reason"] for skip in line["skipped"]}
        lowest = min(c["predicted_live"] for c in line["candidates"] if c["prompt_id"] in chosen)
        for candidate in line["candidates"]:
            prompt_id, logit = candidate["prompt_id"], candidate["pass_logit"]
            if prompt_id not in chosen:
                if candidate["predicted_live"] > lowest:
                    return f"the skipped prompt {prompt_id} is more likely to be live than a chosen one"
                if reasons[prompt_id] != ("predicted_too_easy" if logit > 0.0 else "predicted_too_hard"):
                    return f"the logit of {prompt_id}, {logit}, is not {reasons[prompt_id]!r}"
                continue
            nodes = [i / 8.0 for i in range(-48, 49)]
            density = [math.exp(-node * node / 2.0) for node in nodes]
            rates = [1.0 / (1.0 + math.exp(-logit - n * candidate["pass_logit_variance"] ** 0.5)) for n in nodes]
            live = [1.0 - p ** line["group_size"] - (1.0 - p) ** line["group_size"] for p in rates]
            expected = sum(map(float.__mul__, density, live)) / sum(density)
            if abs(expected - candidate["predicted_live"]) > TOLERANCE:
                return f"predicted_live of {prompt_id} is {candidate['predicted_live']}, recomputed {expected}"
        return super().check_choice(line, options)
