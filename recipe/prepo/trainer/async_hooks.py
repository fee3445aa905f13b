"""Hooks of the asynchronous modes: prompts are chosen and submitted in the background (verl 0.9.1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from omegaconf import DictConfig
from verl.utils.debug import marked_timer

from recipe.prepo.trainer.hooks import PrepoHooks


class BackgroundDispatch:
    """Runs dispatches in a thread, one after the other, in the order in which they were submitted."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepo-dispatch")
        self._pending: deque[Future[Any]] = deque()

    def submit(self, dispatch: Callable[..., Any], *args: Any) -> None:
        self._pending.append(self._executor.submit(dispatch, *args))

    def check(self, *, wait: bool = False) -> None:
        """Raise the first error among the dispatches that are done; ``wait`` for all of them."""
        while self._pending and (wait or self._pending[0].done()):
            self._pending.popleft().result()


class AsyncHooks(PrepoHooks):
    """Scores, chooses and submits in a thread. The trainer waits only for what is missing at the update.

    Only the thread reads the data and asks the controller for choices. Only the trainer weighs and closes a step, and
    it waits for the thread first. So a step's choices depend on the weights and the rules' state at its beginning, not
    on timing, and nothing is in flight when weights are pushed or a checkpoint is written.
    """

    def __init__(self, config: DictConfig) -> None:
        self._dispatch = BackgroundDispatch()
        super().__init__(config)

    @property
    def first_round(self) -> int:
        """K: verl's asynchronous buffer itself refills each group that it discards."""
        return self.prepo.num_selected

    def _add_batch_to_generate(self) -> None:
        self._dispatch.submit(super()._add_batch_to_generate)

    def _add_prompts_to_generate(self, num_prompts: int) -> int:
        """Warm-up batches and refills. Each batch of a longer warm-up is chosen from its own |B| candidates."""
        for start in range(0, num_prompts, self.first_round):
            self._dispatch.submit(super()._add_prompts_to_generate, min(self.first_round, num_prompts - start))
        return num_prompts

    def on_poll(self) -> None:
        self._dispatch.check()
        super().on_poll()

    def wait_for_dispatch(self) -> None:
        with marked_timer("dispatch_wait", self.timing_raw):
            self._dispatch.check(wait=True)
