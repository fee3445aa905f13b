"""MoPPS: the prompts whose pass rate, predicted from their earlier rollouts, is nearest to a target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import AuditLine, SelectionRule, require_between, require_shares
from recipe.prepo.types import (
    Candidates,
    FloatArray,
    IntArray,
    Panel,
    PromptOutcomes,
    RunFacts,
    Selection,
    StepOutcome,
)

TOLERANCE = 1e-6


def add_evidence(count_P: NDArray[Any], new_P: IntArray, *, discount: float) -> FloatArray:
    """Correct (or incorrect) rollouts counted for each prompt after another group: ``discount * count + new``.

    The paper's ``alpha' = discount * alpha + (1 - discount) * alpha_0 + s`` is this with ``alpha = alpha_0 + count``.

    >>> add_evidence(np.array([0.0, 8.0]), np.array([3, 2]), discount=0.5).tolist()
    [3.0, 6.0]
    """
    return discount * count_P + new_P


def nearest(rate_C: FloatArray, *, target: float, num: int, generator: np.random.Generator) -> IntArray:
    """Positions of the ``num`` rates nearest to ``target``, ascending; ``generator`` decides ties.

    >>> nearest(np.array([0.9, 0.4, 0.55, 0.0, 0.6]), target=0.5, num=3, generator=np.random.default_rng(0)).tolist()
    [1, 2, 4]
    """
    shuffled_C = generator.permutation(len(rate_C))
    ranked_C = shuffled_C[np.argsort(np.abs(rate_C[shuffled_C] - target), kind="stable")]
    return np.sort(ranked_C[:num])


class Mopps(SelectionRule):
    """The K candidates whose pass rates, drawn from Beta posteriors, are nearest to a target (arXiv 2507.04632).

    The posterior of a prompt counts its correct and incorrect rollouts, with weight ``discount`` for each later group.
    Drawing from it (Thompson sampling) also tries prompts that are little known. Needs no scores, refills nothing.

    DEVIATION from the published code: it counts the rollouts that a group had, not the nominal group size, so that
    ragged groups count correctly.
    """

    needs_scores = False
    saved: ClassVar[tuple[str, ...]] = ("generator", "ties", "correct_N", "incorrect_N")
    metric_notes: ClassVar = {
        "prepo/known_prompts_frac/mean": "Share of the step's groups whose prompt had been rolled out before.",
        "prepo/pass_rate/mean": "Mean pass rate of the step's groups.",
        "prepo/predicted_pass_rate/mean": "Mean of the pass rates that were predicted for these groups.",
        "prepo/pass_rate_error/mean": "Mean absolute error of the prediction for a group.",
    }
    panels = (
        Panel(
            title="Predicted and measured pass rates",
            caption="Means over the groups of each step, predicted before their rollouts.",
            series={
                "prepo/pass_rate/mean": "measured",
                "prepo/predicted_pass_rate/mean": "predicted",
                "prepo/pass_rate_error/mean": "error for a prompt",
            },
            y_label="pass rate",
        ),
    )

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
        self._last_metrics: dict[str, float] = {}

    def bind(self, run: RunFacts) -> None:
        self._index = run.prompts
        self._correct_N = np.zeros(len(run.prompts), dtype=np.float32)
        self._incorrect_N = np.zeros(len(run.prompts), dtype=np.float32)

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        rows, target = self._index.rows(candidates.prompt_ids), self.config.target_pass_rate
        self._note_scores(rows, candidates)
        rate_C = self._generator.beta(*self._posterior(rows))
        chosen_P = nearest(rate_C, target=target, num=num_selected, generator=self._ties)
        is_rest_C = np.ones(len(candidates), dtype=bool)
        is_rest_C[chosen_P] = False
        reasons = dict.fromkeys(np.flatnonzero(is_rest_C & (rate_C > target)).tolist(), "predicted_too_easy")
        reasons |= dict.fromkeys(np.flatnonzero(is_rest_C & (rate_C <= target)).tolist(), "predicted_too_hard")
        return Selection(chosen_P, reasons, {"drawn_pass_rate": rate_C})

    def observe(self, outcome: StepOutcome) -> None:
        groups = outcome.prompts(self._index)
        self._last_metrics = self._compare(groups) if len(groups.rows_G) else {}
        self._learn(groups)

    def _compare(self, groups: PromptOutcomes) -> dict[str, float]:
        """Metrics that compare the groups' outcomes with their predictions."""
        found_G = groups.num_correct_G / groups.size_G
        alpha_G, beta_G = self._posterior(groups.rows_G)
        predicted_G = alpha_G / (alpha_G + beta_G)
        is_known_G = (self._correct_N[groups.rows_G] + self._incorrect_N[groups.rows_G]) > 0
        return {
            "prepo/known_prompts_frac/mean": float(is_known_G.mean()),
            "prepo/pass_rate/mean": float(found_G.mean()),
            "prepo/predicted_pass_rate/mean": float(predicted_G.mean()),
            "prepo/pass_rate_error/mean": float(np.abs(found_G - predicted_G).mean()),
        }

    def _learn(self, groups: PromptOutcomes) -> None:
        discount = self.config.discount
        for now in groups.rounds():
            rows, correct_G, size_G = groups.rows_G[now], groups.num_correct_G[now], groups.size_G[now]
            self._correct_N[rows] = add_evidence(self._correct_N[rows], correct_G, discount=discount)
            self._incorrect_N[rows] = add_evidence(self._incorrect_N[rows], size_G - correct_G, discount=discount)

    def _note_scores(self, rows: IntArray, candidates: Candidates) -> None:
        """Keep what a prior needs to know of the candidates."""

    def _prior(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Parameters of each prompt's Beta prior, shape [P] each."""
        return np.full(len(rows), self.config.prior_right), np.full(len(rows), self.config.prior_wrong)

    def _posterior(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        alpha_P, beta_P = self._prior(rows)
        return alpha_P + self._correct_N[rows], beta_P + self._incorrect_N[rows]

    def metrics(self) -> dict[str, float]:
        return self._last_metrics

    def check_state(self, state: Mapping[str, Any]) -> None:
        super().check_state(state)
        for name in ("correct_N", "incorrect_N"):
            if not (np.isfinite(state[name]) & (state[name] >= 0)).all():
                raise ValueError(f"{name!r} has entries that are not counts of rollouts")

    @classmethod
    def check_choice(cls, line: AuditLine, options: Mapping[str, Any]) -> str:
        """No skipped prompt has a drawn pass rate nearer to the target, or on the other side of it, than reported."""
        target = options["target_pass_rate"]
        reasons = {skip["prompt_id"]: skip["reason"] for skip in line["skipped"]}
        times = Counter(candidate["prompt_id"] for candidate in line["candidates"])
        # The line does not say which one was chosen of a prompt that occurs twice.
        rates = {c["prompt_id"]: c["drawn_pass_rate"] for c in line["candidates"] if times[c["prompt_id"]] == 1}
        farthest = max((abs(rate - target) for prompt_id, rate in rates.items() if prompt_id not in reasons), default=0)
        for prompt_id, reason in reasons.items():
            rate = rates.get(prompt_id)
            if rate is None:
                continue
            if abs(rate - target) < farthest - TOLERANCE:
                return f"the skipped prompt {prompt_id} has a pass rate nearer to the target than a chosen one"
            if reason != ("predicted_too_easy" if rate > target else "predicted_too_hard"):
                return f"the drawn pass rate of {prompt_id}, {rate}, is not {reason!r} for the target {target}"
        return super().check_choice(line, options)
