"""Scores of prompts that are kept from step to step, so that each step scores only a few of its candidates."""

from __future__ import annotations

from typing import Any

import numpy as np

from recipe.prepo.maths.perplexity import FEATURES
from recipe.prepo.rules.base import Stateful
from recipe.prepo.types import Candidates, IntArray

NEVER = 0
"""In place of the step of a score; steps count from 1."""


class ScoreStore(Stateful):
    """The last scores of N prompts by their row in the training set, and the step of each, in 20 bytes a prompt.

    Args:
        rescore_after: a score that is older than this many steps is due again.

    >>> store = ScoreStore(5, rescore_after=1)
    >>> rows = np.array([4, 2, 0])
    >>> store.due(rows, step=1, budget=2).tolist()
    [4, 2]
    >>> store.update(rows[:2], Candidates(("e", "c"), np.array([0.5, 1.0]), np.array([9, 9])), step=1)
    >>> view = store.view(rows, step=2)
    >>> view["nll_nats_C"].tolist(), view["score_age_steps_C"].tolist()
    ([0.5, 1.0, nan], [1, 1, -1])
    >>> store.due(rows, step=3, budget=2).tolist()
    [0, 4]
    """

    saved = ("nll_nats_N", "num_tokens_N", "features_NF", "step_N")

    def __init__(self, num_prompts: int, *, rescore_after: int) -> None:
        self._rescore_after = rescore_after
        self._nll_nats_N = np.full(num_prompts, np.nan, dtype=np.float32)
        self._num_tokens_N = np.zeros(num_prompts, dtype=np.int32)
        self._features_NF = np.full((num_prompts, len(FEATURES)), np.nan, dtype=np.float32)
        self._step_N = np.full(num_prompts, NEVER, dtype=np.int32)

    def due(self, rows: IntArray, *, step: int, budget: int) -> IntArray:
        """At most ``budget`` different rows to score now: never scored ones first, then the oldest; ties in order."""
        _, first = np.unique(rows, return_index=True)
        rows = rows[np.sort(first)]
        scored_in = self._step_N[rows]
        rows, scored_in = (
            each[(scored_in == NEVER) | (step - scored_in > self._rescore_after)] for each in (rows, scored_in)
        )
        return rows[np.argsort(scored_in, kind="stable")[:budget]]

    def update(self, rows: IntArray, scored: Candidates, *, step: int) -> None:
        """Keep the scores that these rows were given in this step."""
        assert scored.nll_nats_C is not None and scored.num_tokens_C is not None
        self._nll_nats_N[rows] = scored.nll_nats_C
        self._num_tokens_N[rows] = scored.num_tokens_C
        for i, name in enumerate(FEATURES):
            self._features_NF[rows, i] = scored.features_C.get(name, np.nan)
        self._step_N[rows] = step

    def view(self, rows: IntArray, *, step: int) -> dict[str, Any]:
        """Fields of ``Candidates`` for these rows."""
        scored_in = self._step_N[rows].astype(np.int64)
        return {
            "nll_nats_C": self._nll_nats_N[rows].astype(np.float64),
            "num_tokens_C": self._num_tokens_N[rows].astype(np.int64),
            "features_C": {name: self._features_NF[rows, i].astype(np.float64) for i, name in enumerate(FEATURES)},
            "score_age_steps_C": np.where(scored_in == NEVER, -1, step - scored_in),
        }
