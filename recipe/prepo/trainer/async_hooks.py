"""Hooks of the asynchronous modes: prompts are chosen and submitted while the trainer goes on (verl 0.9.1)."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig
from transfer_queue import KVBatchMeta
from verl.utils.debug import marked_timer

from recipe.prepo.trainer.dispatch import BackgroundDispatch
from recipe.prepo.trainer.hooks import PrepoMixin


class BackgroundDispatchMixin(PrepoMixin):
    """Scores, chooses and submits in a thread, so that the trainer only waits for what it still lacks at the update.

    The thread alone reads the data and asks the controller for choices; the trainer alone weighs and closes a step,
    and it waits for the thread before. So a step's choices are made with the weights and the rules' state that its
    beginning left, whatever the timing, and nothing is in flight when a checkpoint is written or weights are pushed.
    """

    def __init__(self, config: DictConfig) -> None:
        self._dispatch = BackgroundDispatch()
        super().__init__(config)

    @property
    def first_round(self) -> int:
        """Prompts that a step asks for: verl's asynchronous buffer refills each group that is thrown away."""
        return self.controller.identity.num_selected

    def _add_batch_to_generate(self) -> None:
        self._dispatch.submit(super()._add_batch_to_generate)

    def _add_prompts_to_generate(self, num_prompts: int) -> int:
        """Warm-up batches and refills; a warm-up of several batches chooses each from its own |B| candidates."""
        most = self.controller.identity.num_selected
        for start in range(0, num_prompts, most):
            self._dispatch.submit(super()._add_prompts_to_generate, min(most, num_prompts - start))
        return num_prompts

    def on_poll(self) -> None:
        super().on_poll()
        self._dispatch.check()

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        self.wait_for_dispatch()
        return super()._compute_advantage(batch, metrics)

    def wait_for_dispatch(self) -> None:
        """Wait until everything that was asked for is scored, chosen and submitted."""
        with marked_timer("dispatch_wait", self.timing_raw):
            self._dispatch.wait()
