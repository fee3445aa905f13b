"""A reference, not a method: the prompts with the largest reward variance, measured and not predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import SelectionRule
from recipe.prepo.rules.registry import SELECTION
from recipe.prepo.types import Candidates, FloatArray, Selection

NAME = "oracle"
PassRates = Callable[[tuple[str, ...]], FloatArray]


class OracleSelection(SelectionRule):
    """The K candidates with the largest p(1 - p), p from fresh samples of the current policy; ties at random.

    Those samples are not counted as rollouts; they are many times what a step trains on.
    """

    needs_scores = False
    pass_rates: PassRates
    """Measures the pass rates of prompts under the current policy; the loop sets it."""

    def __init__(self, config: Any, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._generator = make_generator(seed, "selection.oracle")

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        pass_rate_C = self.pass_rates(candidates.prompt_ids)
        tie_break_C = self._generator.random(len(candidates))
        order_C = np.lexsort((tie_break_C, -pass_rate_C * (1.0 - pass_rate_C)))
        rest = np.sort(order_C[num_selected:]).tolist()
        return Selection(
            indices_P=order_C[:num_selected].astype(np.int64), skip_reasons=dict.fromkeys(rest, "less_variance")
        )


@contextmanager
def known_to_the_registry() -> Iterator[None]:
    """Register this rule within the block; it is not one of the recipe's."""
    SELECTION[NAME] = OracleSelection
    try:
        yield
    finally:
        del SELECTION[NAME]
