"""The registered trainer modes. Importing this module registers them with verl 0.9.1."""

from __future__ import annotations

from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer

from recipe.prepo.adapters.mixin import PrepoMixin


@register_trainer("prepo_sync")
class PrepoTrainerSync(PrepoMixin, PPOTrainerSync):
    """Rollout and training in turn on the same devices: choose, roll out, weigh, update."""

    verl_mode = "sync"
