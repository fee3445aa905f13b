"""No weighting: every rollout counts the same."""

from __future__ import annotations

import numpy as np

from recipe.prepo.rules.base import WeightingRule
from recipe.prepo.types import FloatArray, RolloutBatch


class NoWeighting(WeightingRule):
    """Weight 1 for every rollout; advantages stay as verl computed them."""

    is_identity = True

    def weigh(self, rollouts: RolloutBatch) -> FloatArray:
        return np.ones(len(rollouts))
