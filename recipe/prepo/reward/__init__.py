"""The reward, named in verl's configuration as ``pkg://recipe.prepo.reward``."""

from recipe.prepo.reward.score import compute_score

__all__ = ["compute_score"]
