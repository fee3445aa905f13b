"""Choosing and submitting prompts beside the training step, in the asynchronous modes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class BackgroundDispatch:
    """Runs dispatches one after the other, in the order in which they were asked for, in a thread of its own.

    A failed dispatch fails the trainer: :meth:`check` and :meth:`wait` raise what it raised.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prepo-dispatch")
        self._pending: deque[Future[Any]] = deque()

    def submit(self, dispatch: Callable[..., Any], *args: Any) -> None:
        """Ask for ``dispatch(*args)`` after the ones before it."""
        self._pending.append(self._executor.submit(dispatch, *args))

    def check(self) -> None:
        """Raise the error of a dispatch that failed; does not wait."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()

    def wait(self) -> None:
        """Return when every dispatch is done; raises the first error among them."""
        while self._pending:
            self._pending.popleft().result()
