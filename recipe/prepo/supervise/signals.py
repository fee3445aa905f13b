"""Stopping on request: the first signal asks for the end of the step and a checkpoint, a second one stops at once.

SIGTERM and SIGINT (Ctrl-C) ask and, when they come again, insist; SIGUSR1, the early warning that a batch system such
as Slurm sends before its time limit (``--signal=B:USR1@300``), only asks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
INSISTING = (signal.SIGTERM, signal.SIGINT)
NOTICE = (
    "stop asked for ({name}): the run ends after the step it is in, with a checkpoint; Ctrl-C or SIGTERM stops now\n"
)


class StopSignals:
    """Catches the signals while its ``with`` block runs; must be entered in the main thread.

    Args:
        forward: called once, in a thread of its own, with the name of the first signal; it may block and try again,
            and should return early when ``closed`` (an event, its second argument) is set.
    """

    def __init__(self, forward: Callable[[str, threading.Event], None]) -> None:
        self._forward = forward
        self._asked = threading.Event()
        self._closed = threading.Event()
        self._name = ""
        self._insisted = 0
        self._before: dict[int, Any] = {}
        self._thread = threading.Thread(target=self._wait_and_forward, daemon=True, name="prepo-stop")

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.getsignal(number) for number in ASKING}
        self.install()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._closed.set()
        self._asked.set()
        self._thread.join()
        if self._insisted and isinstance(error, KeyboardInterrupt):
            raise SystemExit(128 + self._insisted) from None
        if isinstance(error, SystemExit) and error.code == signal.SIGTERM:  # of ray.init's own handler
            raise SystemExit(128 + signal.SIGTERM) from None

    @property
    def asked_by(self) -> str:
        """Name of the first signal, such as «SIGTERM»; empty when there was none."""
        return self._name

    def install(self) -> None:
        """Take the signals, again if need be: ``ray.init`` sets a SIGTERM handler of its own."""
        for number in ASKING:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self._name:
            self._name = name
            self._asked.set()
            _tell(NOTICE.format(name=name))
        elif number in INSISTING:
            self._insisted = number
            _tell(f"stopping at once ({name})\n")
            raise KeyboardInterrupt  # the one error that also ends a ray.get

    def _wait_and_forward(self) -> None:
        self._asked.wait()
        if not self._closed.is_set():
            self._forward(self._name, self._closed)


def _tell(text: str) -> None:
    """Write to standard error from inside of a handler, where print() is not safe.

    The reader may be gone: Ctrl-C also ends the ``tee`` that the output is piped to.
    """
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
