"""The registered trainer modes. Importing this module registers them with verl 0.9.1."""

from __future__ import annotations

from typing import Any

from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSeparateAsync, PPOTrainerSync, register_trainer

from recipe.prepo.supervise.stopping import StoppingMixin
from recipe.prepo.trainer.async_hooks import BackgroundDispatchMixin
from recipe.prepo.trainer.hooks import PrepoMixin


@register_trainer("prepo_sync")
class PrepoTrainerSync(StoppingMixin, PrepoMixin, PPOTrainerSync):
    """Rollout and training in turn on the same devices: choose, roll out, weigh, update."""

    verl_mode = "sync"


@register_trainer("prepo_colocate_async")
class PrepoTrainerColocateAsync(StoppingMixin, BackgroundDispatchMixin, PPOTrainerColocateAsync):
    """Rollout and training in turn on the same devices; a long rollout is interrupted and goes on in the next step."""

    verl_mode = "colocate_async"

    def on_sample_end(self) -> None:
        """The servers sleep from here to the next weights, so nothing may still be scored or submitted."""
        self.wait_for_dispatch()
        super().on_sample_end()


@register_trainer("prepo_separate_async")
class PrepoTrainerSeparateAsync(StoppingMixin, BackgroundDispatchMixin, PPOTrainerSeparateAsync):
    """Rollout and training at the same time on device pools of their own."""

    verl_mode = "separate_async"

    def scoring_client(self) -> Any:
        return self.standalone_server_manager.get_client()
