"""Where candidates come from when they are not drawn in data order, and what is known of them: pool and kept scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from recipe.prepo.maths.perplexity import FEATURES
from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import Stateful
from recipe.prepo.types import Candidates, IntArray

NEVER = 0
"""In place of the step of a score; steps count from 1."""
IN_FLIGHT_STEPS = 16
"""A prompt whose rollouts have not come back after so many steps may be chosen again: they failed."""


class ScoreStore(Stateful):
    """The last scores of N prompts by their row in the training set, and the step of each, in 20 bytes a prompt.

    Args:
        rescore_after: a score that is older than this many steps is due again.

    >>> store = ScoreStore(5, rescore_after=1)
    >>> rows = np.array([4, 2, 0])
    >>> store.due(rows, step=1, budget=2).tolist()
    [0, 1]
    >>> store.update(rows[:2], Candidates(("e", "c"), np.array([0.5, 1.0]), np.array([9, 9])), step=1)
    >>> view = store.view(rows, step=2)
    >>> view["nll_nats_C"].tolist(), view["score_age_steps_C"].tolist()
    ([0.5, 1.0, nan], [1, 1, -1])
    >>> store.due(rows, step=3, budget=2).tolist()
    [2, 0]
    """

    saved = ("nll_nats_N", "num_tokens_N", "features_NF", "step_N")

    def __init__(self, num_prompts: int, *, rescore_after: int) -> None:
        self._rescore_after = rescore_after
        self._nll_nats_N = np.full(num_prompts, np.nan, dtype=np.float32)
        self._num_tokens_N = np.zeros(num_prompts, dtype=np.int32)
        self._features_NF = np.full((num_prompts, len(FEATURES)), np.nan, dtype=np.float32)
        self._step_N = np.full(num_prompts, NEVER, dtype=np.int32)
        self._num_scored = 0  # in this step

    def due(self, rows: IntArray, *, step: int, budget: int) -> IntArray:
        """Places in ``rows`` to score now, at most ``budget``: never scored ones, then the oldest; ties in order."""
        scored_in = self._step_N[rows]
        places = np.flatnonzero((scored_in == NEVER) | (step - scored_in > self._rescore_after))
        _, first = np.unique(rows[places], return_index=True)
        places = places[np.sort(first)]
        return places[np.argsort(scored_in[places], kind="stable")[:budget]]

    def update(self, rows: IntArray, scored: Candidates, *, step: int) -> None:
        assert scored.nll_nats_C is not None and scored.num_tokens_C is not None
        self._nll_nats_N[rows] = scored.nll_nats_C
        self._num_tokens_N[rows] = scored.num_tokens_C
        for i, name in enumerate(FEATURES):
            self._features_NF[rows, i] = scored.features_C.get(name, np.nan)
        self._step_N[rows] = step
        self._num_scored += len(rows)

    def view(self, rows: IntArray, *, step: int) -> dict[str, Any]:
        """Fields of ``Candidates`` for these rows."""
        scored_in = self._step_N[rows].astype(np.int64)
        return {
            "nll_nats_C": self._nll_nats_N[rows].astype(np.float64),
            "num_tokens_C": self._num_tokens_N[rows].astype(np.int64),
            "features_C": {name: self._features_NF[rows, i].astype(np.float64) for i, name in enumerate(FEATURES)},
            "score_age_steps_C": np.where(scored_in == NEVER, -1, step - scored_in),
        }

    def metrics(self) -> dict[str, float]:
        """What was scored in this step, and what still lacks a score. Called once a step."""
        num_scored, self._num_scored = self._num_scored, 0
        unscored = float((self._step_N == NEVER).mean())
        return {"prepo/scored/sum": float(num_scored), "prepo/unscored_frac/mean": unscored}


class Pool(Stateful):
    """All prompts of the data as candidates of every choice, except for those whose rollouts are in flight.

    Their order, in which they also get their first scores, is shuffled by ``shuffle_seed``; None: that of the data.
    """

    saved = ("in_flight_F2",)

    def __init__(self, prompt_ids: Sequence[str], *, shuffle_seed: int | None) -> None:
        order_N = np.arange(len(prompt_ids), dtype=np.int32)
        if shuffle_seed is not None:
            order_N = make_generator(shuffle_seed, "pool.order").permutation(order_N)
        self._order_N = order_N
        self._ids = np.array(prompt_ids, dtype=object)
        self._in_flight_F2 = np.empty((0, 2), dtype=np.int32)  # row, step of its choice

    def draw(self, num_selected: int) -> tuple[IntArray, tuple[str, ...]]:
        """Rows and ids of the candidates; of all prompts where too few are not in flight."""
        is_free_N = np.ones(len(self._ids), dtype=bool)
        is_free_N[self._in_flight_F2[:, 0]] = False
        rows_C = self._order_N[is_free_N[self._order_N]]
        rows_C = (rows_C if len(rows_C) >= num_selected else self._order_N).astype(np.int64)
        return rows_C, tuple(self._ids[rows_C].tolist())

    def note_chosen(self, rows: IntArray, *, step: int) -> None:
        chosen = np.stack([rows, np.full(len(rows), step)], axis=1).astype(np.int32)
        self._in_flight_F2 = np.concatenate([self._in_flight_F2, chosen])

    def note_returned(self, rows: IntArray, *, step: int) -> None:
        """The rollouts of these rows were trained on or discarded in this step."""
        row_F, step_F = self._in_flight_F2.T
        self._in_flight_F2 = self._in_flight_F2[~np.isin(row_F, rows) & (step_F > step - IN_FLIGHT_STEPS)]
