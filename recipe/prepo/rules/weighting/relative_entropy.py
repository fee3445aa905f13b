"""PREPO's rollout weights: entropy relative to the batch mean."""

from __future__ import annotations

from recipe.prepo.maths.entropy import relative_entropy_weights
from recipe.prepo.rules.base import WeightingRule
from recipe.prepo.types import FloatArray, RolloutBatch


class RelativeEntropy(WeightingRule):
    """``w_i = H_i / mean_j H_j`` with the old policy's mean token entropies (arXiv 2511.00794).

    For w >= 0 multiplying the advantage by w equals weighting the clipped term: min and clip commute with a
    non-negative factor. The weight carries no gradient.
    """

    needs_entropy = True

    def weigh(self, rollouts: RolloutBatch) -> FloatArray:
        assert rollouts.entropy_nats_R is not None, "the rule needs entropies"
        return relative_entropy_weights(rollouts.entropy_nats_R)
