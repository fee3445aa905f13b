"""Notices when a process of the run dies, where verl 0.9.1 would wait for ever or fail with a misleading error.

A thread of the trainer calls every process in turn. A call to a dead process fails at once; a busy process answers
later. Silence never counts as death.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from recipe.prepo.errors import EXIT_FAULT, FaultError
from recipe.prepo.supervise import messages
from recipe.prepo.supervise.messages import reason

INTERVAL_S = 1.0  # between two rounds of calls
BUSY_AFTER_S = 10.0  # `require_alive` takes a process that is silent for so long for a busy one
EXIT_LIMIT_S = 60.0  # after a death the trainer's process ends itself, whatever it is waiting for


@dataclass(eq=False)
class Process:
    """One process of the run: its name in messages, such as "actor worker 0", and its Ray actor."""

    name: str
    handle: Any
    place: str = ""  # known after its first answer


def probe(actor: Any) -> tuple[str, bool]:
    """Runs in the watched process: where it is, and whether vLLM's engine, its child, has died under it."""
    engine_died = bool(getattr(getattr(actor, "engine", None), "errored", False))
    return f" (pid {os.getpid()} on {ray.util.get_node_ip_address()})", engine_died


class Watch(threading.Thread):
    """A context manager that calls processes until one is dead, and then interrupts the main thread.

    Leaving the block with an error after a death raises a FaultError, whose message ends with ``how_to_resume()``.
    Without that, this process ends ``exit_limit_s`` after the death.
    """

    def __init__(
        self, processes: list[Process], how_to_resume: Callable[[], str], *, exit_limit_s: float = EXIT_LIMIT_S
    ) -> None:
        super().__init__(daemon=True, name="prepo-watch")
        self._processes = processes
        self._how_to_resume = how_to_resume
        self._exit_limit_s = exit_limit_s
        self._calls: dict[Any, Process] = {}
        self._lock = threading.Lock()  # for one caller of `_round` at a time
        self._leaving = False
        self._left = threading.Event()
        self._fault = ""
        self._in_main = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Watch:
        if self._in_main:
            self._handler_before = signal.signal(signal.SIGUSR2, self._interrupt)
        self.require_alive()
        self.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, _trace: Any) -> None:
        self._leaving = True  # from here an interrupt would only replace the message
        # The error may come from the very death that the thread is about to notice.
        if isinstance(error, KeyboardInterrupt | Exception) and not isinstance(error, FaultError):
            self._ask_all()
            if not self._fault and not self._left.wait(2 * INTERVAL_S):
                self._ask_all()
        with self._lock:
            self._left.set()
            if self._in_main:
                signal.signal(signal.SIGUSR2, self._handler_before)
        if error is not None and self._fault:
            raise FaultError(self._fault) from (None if isinstance(error, KeyboardInterrupt) else error)

    def require_alive(self) -> None:
        """Call every process once more; a FaultError if one is dead."""
        self._ask_all()
        if self._fault:
            raise FaultError(self._fault)

    def _ask_all(self) -> None:
        with self._lock:
            self._round(BUSY_AFTER_S)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if not self._leaving:
            raise KeyboardInterrupt  # the only error that also ends a ray.get

    def run(self) -> None:
        while not self._left.wait(INTERVAL_S):
            with self._lock:
                if self._left.is_set():
                    return
                self._round(limit_s=0.0)
                if self._fault and self._in_main:
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
            if self._fault:
                # The interrupt is not always enough: closing the tracker or the queue can hang as well.
                threading.Event().wait(self._exit_limit_s)
                os._exit(EXIT_FAULT)

    def _round(self, limit_s: float) -> None:
        """Call every process that owes no answer, and read the answers that come within the limit."""
        if self._fault:
            return
        waiting = list(self._calls.values())
        for process in self._processes:
            if process not in waiting:
                self._calls[process.handle.__ray_call__.remote(probe)] = process
        answered, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=limit_s)
        for call in answered:
            if died := self._read(self._calls.pop(call), call):
                self._fault = f"{died}. {self._how_to_resume()}"
                messages.put(messages.FAULT, self._fault)
                return

    def _read(self, process: Process, call: Any) -> str:
        try:
            process.place, engine_died = ray.get(call)
        except ActorUnavailableError:
            return ""  # perhaps the network: it is called again
        except RayActorError as error:
            return f"the {process.name}{process.place} died: {reason(error)}"
        return f"the engine of the {process.name}{process.place} died" if engine_died else ""
