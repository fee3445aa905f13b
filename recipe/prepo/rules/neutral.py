"""The plain rule of each group, for baselines: nothing is chosen, weighted or changed by what was learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import AuditLine, BudgetRule, SelectionRule, ShapingRule, TemperatureRule, WeightingRule
from recipe.prepo.types import Candidates, FloatArray, IntArray, RolloutBatch, Selection


class All(SelectionRule):
    """Takes each prompt in data order; a step draws K prompts, as stock verl does (GRPO)."""

    needs_scores = False
    uses_candidates = False

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        assert num_selected == len(candidates), f"{num_selected=} of {len(candidates)}"
        return Selection(np.arange(num_selected, dtype=np.int64))


class Uniform(SelectionRule):
    """Uniform draw without replacement, submitted in data order (arXiv 2511.00794, baseline "Random")."""

    needs_scores = False
    saved = ("generator",)

    def __init__(self, config: Any, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._generator = make_generator(seed, "selection.uniform")

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        drawn_P = np.sort(self._generator.choice(len(candidates), size=num_selected, replace=False)).astype(np.int64)
        rest = np.delete(np.arange(len(candidates)), drawn_P)
        return Selection(drawn_P, dict.fromkeys(rest.tolist(), "not_drawn"))


class NoWeighting(WeightingRule):
    """Weight 1 for every rollout; advantages stay as verl computes them."""

    is_identity = True

    def weigh(self, rollouts: RolloutBatch) -> FloatArray:
        return np.ones(len(rollouts))

    @classmethod
    def check_weights(cls, lines: Sequence[AuditLine], options: Mapping[str, Any]) -> str:
        others = [line["weight"] for line in lines if line["weight"] != 1.0]
        return f"weight {others[0]}, recomputed 1.0" if others else ""


class Fixed(BudgetRule):
    """Group size ``rollout.n`` for every prompt, as in GRPO."""

    def allocate(self, prompt_ids: tuple[str, ...], *, rollouts_per_prompt: int) -> IntArray:
        return np.full(len(prompt_ids), rollouts_per_prompt, dtype=np.int64)


class Constant(TemperatureRule):
    """``rollout.temperature`` at every step."""

    is_constant = True

    def temperature(self, base_temperature: float) -> float:
        return base_temperature


class NoShaping(ShapingRule):
    """Keeps every reward as the grader gave it."""

    is_identity = True

    def shape(self, rollouts: RolloutBatch) -> FloatArray:
        return rollouts.reward_R.copy()
