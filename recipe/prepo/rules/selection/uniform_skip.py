"""K of the candidates that gave a signal lately, uniformly: skipping without a schedule, and without scores."""

from __future__ import annotations

from typing import Any

from recipe.prepo.notation import Candidates, Selection
from recipe.prepo.rules.selection.skip_dead import SkipDead
from recipe.prepo.rules.selection.uniform import Uniform


class UniformSkip(SkipDead):
    """Uniform draw among the candidates that GRESO (arXiv 2506.02177) would not skip; nothing is refilled."""

    needs_scores = False

    def __init__(self, config: SkipDead.Config, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._uniform = Uniform(config, seed=seed)

    def choose(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        return self._uniform.select(candidates, num_selected=num_selected, progress=progress)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"uniform": self._uniform.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict({key: value for key, value in state.items() if key != "uniform"})
        self._uniform.load_state_dict(state["uniform"])
