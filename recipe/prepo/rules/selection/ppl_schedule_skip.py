"""PREPO's schedule over the candidates that gave a signal lately."""

from __future__ import annotations

from dataclasses import dataclass

from recipe.prepo.rules.selection.ppl_schedule import PplSchedule
from recipe.prepo.rules.selection.skip_dead import SkipDead


class PplScheduleSkip(SkipDead):
    """PREPO's window (arXiv 2511.00794) among the candidates that GRESO (arXiv 2506.02177) would not skip.

    ``l(rho) = floor(rho * (L - K))`` with L candidates left. A combination of this project, in neither paper.
    """

    chooser = PplSchedule
    needs_scores = True
    follows_progress = True

    @dataclass(frozen=True)
    class Config(SkipDead.Config, PplSchedule.Config):
        def __post_init__(self) -> None:
            SkipDead.Config.__post_init__(self)
            PplSchedule.Config.__post_init__(self)
