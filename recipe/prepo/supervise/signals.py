"""Stopping on a signal: the first one requests a stop after the step, with a checkpoint; a second one stops at once.

SIGTERM and SIGINT (Ctrl-C) do both. SIGUSR1, which Slurm sends before the time limit, only requests.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

REQUESTING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
FORCING = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Catches the signals while its ``with`` block runs; must be entered in the main thread.

    ``forward`` is called once, in its own thread, with the first signal's name and an event at which it should return.
    """

    def __init__(self, forward: Callable[[str, threading.Event], None]) -> None:
        self._forward = forward
        self.requested_by = ""  # name of the first signal, such as "SIGTERM"
        self._requested, self._closed = threading.Event(), threading.Event()
        self._forced_by = 0
        self._handlers_before: dict[int, Any] = {}
        self._thread = threading.Thread(target=self._wait_and_forward, daemon=True, name="prepo-stop")

    def __enter__(self) -> StopSignals:
        self._handlers_before = {number: signal.getsignal(number) for number in REQUESTING}
        self.install()
        self._thread.start()
        return self

    def __exit__(self, _kind: Any, error: BaseException | None, _trace: Any) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._closed.set()
        self._requested.set()
        self._thread.join()
        if self._forced_by and isinstance(error, KeyboardInterrupt):
            raise SystemExit(128 + self._forced_by) from None
        if isinstance(error, SystemExit) and error.code == signal.SIGTERM:  # raised by ray.init's own handler
            raise SystemExit(128 + signal.SIGTERM) from None

    def install(self) -> None:
        """Install the handlers, again where needed: ``ray.init`` replaces the one for SIGTERM."""
        for number in REQUESTING:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self.requested_by:
            self.requested_by = name
            self._requested.set()
            _print(
                f"stop requested ({name}): the run ends after its current step, with a checkpoint; "
                f"Ctrl-C or SIGTERM stops now\n"
            )
        elif number in FORCING:
            self._forced_by = number
            _print(f"stopping at once ({name})\n")
            raise KeyboardInterrupt  # the only error that also ends a ray.get

    def _wait_and_forward(self) -> None:
        self._requested.wait()
        if not self._closed.is_set():
            self._forward(self.requested_by, self._closed)


def _print(text: str) -> None:
    """Write to standard error from a signal handler, where print() is not safe.

    The reader may be gone: Ctrl-C also ends the ``tee`` that the output is piped to.
    """
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
