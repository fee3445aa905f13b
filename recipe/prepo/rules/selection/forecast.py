"""Forecast: the prompts whose next group is most likely to have rewards that differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recipe.prepo.maths.pass_rate import after_rollouts, expected_live
from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import AuditLine, Options, SelectionRule, number
from recipe.prepo.types import Candidates, FloatArray, IntArray, Panel, RunFacts, Selection, StepOutcome

FEATURES = ("nll_nats", "nll_std_nats", "nll_max_nats", "num_tokens")
WIDTH = 1 + len(FEATURES)
"""Coefficients of the shared model: a constant and one for each feature."""
TOLERANCE = 1e-6
MOST_PENDING = 65_536
"""Chosen prompts whose groups never came, as after a failure; older ones are dropped."""


class Forecast(SelectionRule):
    """The K candidates with the highest probability of a live group, by a filter of all groups so far.

    The logit of a prompt's pass rate is ``x . w + u``: features x of the prompt and coefficients w shared by all
    prompts, and the prompt's own deviation u. Both have normal beliefs. A group of the prompt updates them by matched
    moments of its binomial likelihood (assumed-density filtering, as in TrueSkill), in proportion to their variances.
    Between groups time passes: w takes a random step, and u returns towards 0 as in an Ornstein-Uhlenbeck process, so
    that evidence ages with time, not with a prompt's own groups.

    Prompts are ranked by ``E[1 - p^M - (1 - p)^M]`` over the belief. Uncertain prompts have worth in that expectation,
    which is the rule's exploration: nothing is drawn but ties.
    """

    needs_scores = True
    saved: ClassVar[tuple[str, ...]] = (
        "ties", "step", "weights", "covariance", "num_scored", "sum_scored", "square_scored",
        "own_mean_N", "own_variance_N", "seen_step_N", "pending",
    )  # fmt: skip
    panels = (
        Panel(
            "Forecast and outcome",
            "Means over the groups of each step, forecast before their rollouts.",
            {
                "prepo/live_groups_frac/mean": "live groups",
                "prepo/predicted_live_frac/mean": "predicted",
                "prepo/known_prompts_frac/mean": "prompts rolled out before",
            },
            "share of groups",
        ),
    )

    @dataclass(frozen=True)
    class Config(Options):
        own_sd: float = number("(0, 100]")
        memory_steps: float = number("(0, 1e9]")
        model_sd: float = number("(0, 100]")
        model_drift: float = number("[0, 1]")
        ppl_slope: float = number("[-100, 100]")

    def __init__(self, config: Any, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._ties = make_generator(seed, "selection.forecast.ties")
        self._step = 0
        self._num_scored = 0
        self._sum_scored = np.zeros(len(FEATURES))
        self._square_scored = np.zeros(len(FEATURES))
        self._weights = np.zeros(WIDTH)
        self._weights[1] = config.ppl_slope
        self._covariance = np.diag(self._prior_variance())
        self._pending = np.empty((0, 1 + WIDTH))  # row and features of each chosen prompt until its group comes
        self._last_metrics: dict[str, float] = {}

    def _prior_variance(self) -> FloatArray:
        return np.full(WIDTH, self.config.model_sd**2)

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
        variance_C = np.einsum("ci,ij,cj->c", x_C, self._covariance, x_C) + own_variance_C
        worth_C = expected_live(mean_C, variance_C, self._group_size)
        shuffled_C = self._ties.permutation(len(rows_C))  # so that chance decides ties
        ranked_C = shuffled_C[np.argsort(-worth_C[shuffled_C], kind="stable")]
        chosen_P = np.sort(ranked_C[:num_selected])
        new = np.concatenate([rows_C[chosen_P, None], x_C[chosen_P]], axis=1)
        self._pending = np.concatenate([self._pending, new])[-MOST_PENDING:]
        rest = np.sort(ranked_C[num_selected:]).tolist()
        reasons = {i: "predicted_too_easy" if mean_C[i] > 0.0 else "predicted_too_hard" for i in rest}
        details = {"pass_logit": mean_C, "pass_logit_variance": variance_C, "predicted_live": worth_C}
        return Selection(chosen_P, reasons, details)

    def _features(self, candidates: Candidates) -> FloatArray:
        """Each candidate's ``x``, shape [C, WIDTH]: features standardised over all that were scored so far."""
        assert candidates.nll_nats_C is not None and candidates.num_tokens_C is not None, "the rule needs scores"
        nothing_C = np.zeros(len(candidates))
        measured = {"nll_nats": candidates.nll_nats_C, "num_tokens": candidates.num_tokens_C, **candidates.features_C}
        raw_CF = np.stack([measured.get(name, nothing_C) for name in FEATURES], axis=1)
        self._num_scored += len(raw_CF)
        self._sum_scored += raw_CF.sum(0)
        self._square_scored += (raw_CF**2).sum(0)
        mean_F = self._sum_scored / self._num_scored
        sd_F = np.sqrt(np.maximum(self._square_scored / self._num_scored - mean_F**2, 1e-12))
        z_CF = np.clip((raw_CF - mean_F) / sd_F, -4.0, 4.0)
        return np.concatenate([np.ones((len(z_CF), 1)), z_CF], axis=1)

    def _own(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Mean and variance of each prompt's own deviation now, shape [P] each."""
        kept_P = np.exp(-(self._step - self._seen_step_N[rows]) / self.config.memory_steps)
        unseen = self.config.own_sd**2
        return kept_P * self._own_mean_N[rows], unseen - kept_P**2 * (unseen - self._own_variance_N[rows])

    def observe(self, outcome: StepOutcome) -> None:
        groups = outcome.prompts(self._index)
        place = {int(row): i for i, row in enumerate(self._pending[:, 0])}
        predicted = []
        self._last_metrics = {}
        for row, correct, size in zip(groups.rows_G, groups.num_correct_G, groups.size_G, strict=True):
            x = self._pending[place[int(row)], 1:]
            (own_mean,), (own_variance,) = self._own(np.array([row]))
            toward = self._covariance @ x
            mean, variance = float(x @ self._weights + own_mean), float(x @ toward + own_variance)
            predicted.append((mean, variance))
            new_mean, new_variance = after_rollouts(mean, variance, int(correct), int(size))
            gain, shrink = (new_mean - mean) / variance, (variance - new_variance) / variance**2
            self._weights += toward * gain
            self._covariance -= np.outer(toward, toward) * shrink
            self._own_mean_N[row] = own_mean + own_variance * gain
            self._own_variance_N[row] = own_variance - own_variance**2 * shrink
            self._seen_step_N[row] = self._step
        self._pending = self._pending[~np.isin(self._pending[:, 0], groups.rows_G)]
        self._step += 1
        self._covariance += np.diag(self._prior_variance() * self.config.model_drift)

    def metrics(self) -> dict[str, float]:
        return self._last_metrics
