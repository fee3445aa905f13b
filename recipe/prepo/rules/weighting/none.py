"""No weighting: every rollout counts the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recipe.prepo.rules.base import AuditLine, WeightingRule
from recipe.prepo.types import FloatArray, RolloutBatch


class NoWeighting(WeightingRule):
    """Weight 1 for every rollout; advantages stay as verl computes them."""

    is_identity = True

    def weigh(self, rollouts: RolloutBatch) -> FloatArray:
        return np.ones(len(rollouts))

    @classmethod
    def check_weights(cls, lines: Sequence[AuditLine], options: Mapping[str, Any]) -> str:
        others = [line["weight"] for line in lines if line["weight"] != 1.0]
        return f"weight {others[0]}, recomputed 1.0" if others else ""
