"""PREPO's rollout weights: entropy relative to the batch mean (arXiv 2511.00794)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recipe.prepo.rules.base import AuditLine, WeightingRule
from recipe.prepo.types import FloatArray, RolloutBatch

TOLERANCE = 1e-6


def relative_entropy_weights(entropy_nats_R: FloatArray) -> FloatArray:
    """Weights ``w_i = H_i / mean_j H_j`` over all rollouts of the step: scale-free, mean 1, never negative.

    If every entropy is 0 (a deterministic policy, or an empty batch), every weight is 1.

    >>> relative_entropy_weights(np.array([1.0, 3.0])).tolist()
    [0.5, 1.5]
    """
    mean = entropy_nats_R.mean() if entropy_nats_R.size else 0.0
    return entropy_nats_R / mean if mean else np.ones(len(entropy_nats_R))


class RelativeEntropy(WeightingRule):
    """``w_i = H_i / mean_j H_j`` with the mean token entropies of the old policy (arXiv 2511.00794).

    For w >= 0, multiplying the advantage by w equals weighting the clipped term, because min and clip commute with a
    non-negative factor. The weight carries no gradient.
    """

    needs_entropy = True

    def weigh(self, rollouts: RolloutBatch) -> FloatArray:
        assert rollouts.entropy_nats_R is not None, "the rule needs entropies"
        return relative_entropy_weights(rollouts.entropy_nats_R)

    @classmethod
    def check_weights(cls, lines: Sequence[AuditLine], options: Mapping[str, Any]) -> str:
        mean = sum(line["entropy_nats"] for line in lines) / len(lines)
        for line in lines:
            weight = line["entropy_nats"] / mean if mean else 1.0
            if abs(line["weight"] - weight) > TOLERANCE:
                which = f"prompt {line['prompt_id']}, rollout {line['rollout']}"
                return f"{which}: weight {line['weight']}, recomputed {weight}"
        return ""
