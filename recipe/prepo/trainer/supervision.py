"""The moments at which a trainer calls its supervisor, as an object that does nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from transfer_queue import KVBatchMeta


class NoSupervision:
    """A run that nobody supervises. ``recipe.prepo.supervise.Supervisor`` overrides these methods.

    Args:
        trainer: the trainer, whose parts verl builds only later.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def stop_requested(self) -> bool:
        """Whether the run should end now: before its first step, or after a step."""
        return False

    def stopped(self) -> None:
        """The run ends after the trainer's current step because of :meth:`stop_requested`."""

    def training(self, agent_loop_manager: Any) -> AbstractContextManager[None]:
        """Surrounds the whole training. It may replace an error by one that says more."""
        return nullcontext()

    def polling(self) -> None:
        """Called again and again while the trainer waits for rollouts. An error ends the wait."""

    def before_advantages(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> None:
        """Check the rollouts that are about to be trained on, and add metrics about them."""

    def saving(self) -> AbstractContextManager[None]:
        """Surrounds the writing of a checkpoint. It may raise first, so that nothing is written."""
        return nullcontext()
