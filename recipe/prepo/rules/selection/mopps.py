"""MoPPS: the prompts whose pass rate, predicted from their earlier rollouts, is nearest to a target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import AuditLine, Options, SelectionRule, number
from recipe.prepo.types import Candidates, FloatArray, IntArray, Panel, RunFacts, Selection, StepOutcome

TOLERANCE = 1e-6


class Mopps(SelectionRule):
    """The K candidates whose pass rates, drawn from Beta posteriors, are nearest to a target (arXiv 2507.04632).

    The posterior of a prompt counts its correct and incorrect rollouts, with weight ``discount`` for each later group:
    ``alpha = alpha_0 + c``, ``c <- discount * c + s`` after s correct rollouts, and beta alike. Drawing from it also
    tries prompts that are little known (Thompson sampling).

    DEVIATION from the published code: it counts the rollouts that a group had, not the nominal group size.
    """

    needs_scores = False
    reads_correctness = True
    saved: ClassVar[tuple[str, ...]] = ("generator", "ties", "correct_N", "incorrect_N")
    panels = (
        Panel(
            "Predicted and measured pass rates",
            "Means over the groups of each step, predicted before their rollouts.",
            {
                "prepo/pass_rate/mean": "measured",
                "prepo/predicted_pass_rate/mean": "predicted",
                "prepo/pass_rate_error/mean": "error for a prompt",
            },
            "pass rate",
        ),
    )

    @dataclass(frozen=True)
    class Config(Options):
        prior_right: float = number("[0.01, 1e6]")
        prior_wrong: float = number("[0.01, 1e6]")
        discount: float = number("[0, 1]")
        target_pass_rate: float = number("[0, 1]")

    def __init__(self, config: Any, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._generator = make_generator(seed, "selection.mopps")
        self._ties = make_generator(seed, "selection.mopps.ties")
        self._last_metrics: dict[str, float] = {}

    def bind(self, run: RunFacts) -> None:
        self._index = run.prompts
        self._correct_N = np.zeros(len(run.prompts), dtype=np.float32)
        self._incorrect_N = np.zeros(len(run.prompts), dtype=np.float32)

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        target = self.config.target_pass_rate
        rate_C = self._generator.beta(*self._posterior(self._index.rows(candidates.prompt_ids)))
        shuffled_C = self._ties.permutation(len(rate_C))  # so that chance decides ties
        ranked_C = shuffled_C[np.argsort(np.abs(rate_C[shuffled_C] - target), kind="stable")]
        rest = np.sort(ranked_C[num_selected:])
        is_easy = rate_C[rest] > target
        reasons = dict.fromkeys(rest[is_easy].tolist(), "predicted_too_easy")
        reasons |= dict.fromkeys(rest[~is_easy].tolist(), "predicted_too_hard")
        return Selection(np.sort(ranked_C[:num_selected]), reasons, {"drawn_pass_rate": rate_C})

    def observe(self, outcome: StepOutcome) -> None:
        groups = outcome.prompts(self._index)
        rows_G, correct_G, size_G = groups.rows_G, groups.num_correct_G, groups.size_G
        rate_G, (alpha_G, beta_G) = correct_G / size_G, self._posterior(rows_G)
        predicted_G = alpha_G / (alpha_G + beta_G)
        values = {
            "prepo/known_prompts_frac/mean": self._correct_N[rows_G] + self._incorrect_N[rows_G] > 0,
            "prepo/pass_rate/mean": rate_G,
            "prepo/predicted_pass_rate/mean": predicted_G,
            "prepo/pass_rate_error/mean": np.abs(rate_G - predicted_G),
        }
        self._last_metrics = {name: float(each.mean()) for name, each in values.items()} if len(rows_G) else {}
        for now in groups.rounds():
            rows = rows_G[now]
            self._correct_N[rows] = self.config.discount * self._correct_N[rows] + correct_G[now]
            self._incorrect_N[rows] = self.config.discount * self._incorrect_N[rows] + (size_G - correct_G)[now]

    def _prior(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Parameters of each prompt's Beta prior, shape [P] each."""
        return np.full(len(rows), self.config.prior_right), np.full(len(rows), self.config.prior_wrong)

    def _posterior(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        alpha_P, beta_P = self._prior(rows)
        return alpha_P + self._correct_N[rows], beta_P + self._incorrect_N[rows]

    def metrics(self) -> dict[str, float]:
        return self._last_metrics

    @classmethod
    def check_choice(cls, line: AuditLine, options: Mapping[str, Any]) -> str:
        """No skipped prompt has a drawn pass rate nearer to the target, or on the other side of it, than reported."""
        target = options["target_pass_rate"]
        times = Counter(candidate["prompt_id"] for candidate in line["candidates"])
        # The line does not say which one was chosen of a prompt that occurs twice.
        rates = {c["prompt_id"]: c["drawn_pass_rate"] for c in line["candidates"] if times[c["prompt_id"]] == 1}
        reasons = {skip["prompt_id"]: skip["reason"] for skip in line["skipped"] if skip["prompt_id"] in rates}
        farthest = max((abs(rate - target) for prompt_id, rate in rates.items() if prompt_id not in reasons), default=0)
        for prompt_id, reason in reasons.items():
            rate = rates[prompt_id]
            if abs(rate - target) < farthest - TOLERANCE:
                return f"the skipped prompt {prompt_id} has a pass rate nearer to the target than a chosen one"
            if reason != ("predicted_too_easy" if rate > target else "predicted_too_hard"):
                return f"the drawn pass rate of {prompt_id}, {rate}, is not {reason!r} for the target {target}"
        return super().check_choice(line, options)
