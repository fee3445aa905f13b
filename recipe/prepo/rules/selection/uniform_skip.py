"""K of the candidates that gave a signal lately, uniformly: skipping without a schedule, and without scores."""

from __future__ import annotations

from recipe.prepo.rules.selection.skip_dead import SkipDead
from recipe.prepo.rules.selection.uniform import Uniform


class UniformSkip(SkipDead):
    """Uniform draw among the candidates that GRESO (arXiv 2506.02177) would not skip; nothing is refilled."""

    chooser = Uniform
    needs_scores = False
