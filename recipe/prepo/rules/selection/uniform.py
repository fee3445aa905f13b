"""The paper's baseline "Random": K of the |B| candidates, uniformly without replacement."""

from __future__ import annotations

from typing import Any

import numpy as np

from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import SelectionRule
from recipe.prepo.types import Candidates, Selection


class Uniform(SelectionRule):
    """Uniform draw without replacement, submitted in data order (arXiv 2511.00794, baseline "Random").

    >>> import numpy as np
    >>> rule = Uniform(Uniform.Config(), seed=0)
    >>> chosen = rule.select(Candidates(("a", "b", "c")), num_selected=2, progress=0.5).indices_P
    >>> len(set(chosen.tolist())), bool((np.diff(chosen) > 0).all())
    (2, True)
    """

    needs_scores = False
    saved = ("generator",)

    def __init__(self, config: Any, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._generator = make_generator(seed, "selection.uniform")

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        drawn_P = np.sort(self._generator.choice(len(candidates), size=num_selected, replace=False)).astype(np.int64)
        rest = np.delete(np.arange(len(candidates)), drawn_P)
        return Selection(drawn_P, dict.fromkeys(rest.tolist(), "not_drawn"))
