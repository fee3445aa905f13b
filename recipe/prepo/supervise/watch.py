"""Notices that a process of the run died, where verl 0.9.1 would wait for ever or fail with something else.

A lost agent-loop worker leaves its prompts «running», and the replay buffer polls on; a lost reward worker or rollout
server fails groups, and the step goes on with what is left; a lost engine lets the weight transfer wait. So a thread
of the trainer calls every process of the run in turn: a call to a dead one fails at once, also when it was waiting
behind long work, and a busy one just answers later. No answer is never taken for a death.
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
from recipe.prepo.supervise.failures import reason

INTERVAL_S = 1.0  # between two calls to a process that answered
CHECK_LIMIT_S = 10.0  # `require_alive` takes a process that is silent for so long for a busy one
EXIT_LIMIT_S = 60.0  # after a death the trainer's process ends itself, whatever it is waiting for


@dataclass(frozen=True)
class Member:
    """One process of the run.

    Args:
        name: how the message calls it, such as «rollout server (vLLM replica 0)».
        handle: of its Ray actor.
    """

    name: str
    handle: Any


@dataclass(frozen=True)
class Sign:
    """What a process answered."""

    pid: int
    node: str
    engine_died: bool


def look(actor: Any) -> Sign:
    """Runs in the watched process. vLLM's engine is a child process of the rollout server, which outlives it."""
    engine_died = bool(getattr(getattr(actor, "engine", None), "errored", False))
    return Sign(os.getpid(), ray.util.get_node_ip_address(), engine_died)


class Watch(threading.Thread):
    """Calls the members until one is dead, then interrupts the main thread; a context manager.

    Args:
        members: the processes.
        how_to_go_on: the second half of the message, asked for when something died.
        exit_limit_s: seconds from a death to the end of this process, if nothing else ends it before.

    Raises:
        FaultError: on leaving the block with an error, when a member died.
    """

    def __init__(
        self, members: list[Member], how_to_go_on: Callable[[], str], *, exit_limit_s: float = EXIT_LIMIT_S
    ) -> None:
        super().__init__(daemon=True, name="prepo-watch")
        self._members = members
        self._how_to_go_on = how_to_go_on
        self._exit_limit_s = exit_limit_s
        self._signs: dict[str, Sign] = {}
        self._calls: dict[Any, Member] = {}
        self._lock = threading.Lock()  # one caller of `_round` at a time
        self._leaving = False
        self._left = threading.Event()
        self._fault = ""
        self._in_main = threading.current_thread() is threading.main_thread()

    # ---- in the trainer's main thread -------------------------------------------------------------------------------

    def __enter__(self) -> Watch:
        if self._in_main:
            self._handler_before = signal.signal(signal.SIGUSR2, self._interrupt)
        self.require_alive()
        self.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, _trace: Any) -> None:
        self._leaving = True  # an interrupt would now only replace the message
        # The error may come from the very death that the thread is about to notice.
        if isinstance(error, KeyboardInterrupt | Exception) and not isinstance(error, FaultError):
            self._round_until_fault(limit_s=2 * INTERVAL_S)
        with self._lock:
            self._left.set()
            if self._in_main:
                signal.signal(signal.SIGUSR2, self._handler_before)
        if error is not None and self._fault:
            raise FaultError(self._fault) from (None if isinstance(error, KeyboardInterrupt) else error)

    def require_alive(self) -> None:
        """Ask every process once more.

        Raises:
            FaultError: one is dead.
        """
        self._round_until_fault(limit_s=0.0)
        if self._fault:
            raise FaultError(self._fault)

    def _round_until_fault(self, *, limit_s: float) -> None:
        with self._lock:
            self._round(CHECK_LIMIT_S, wait_for_all=True)
        if not self._fault and limit_s and not self._left.wait(limit_s):
            with self._lock:
                self._round(CHECK_LIMIT_S, wait_for_all=True)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if not self._leaving:
            raise KeyboardInterrupt  # the one error that also ends a ray.get

    # ---- in the thread ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        while not self._left.wait(INTERVAL_S):
            with self._lock:
                if self._left.is_set():
                    return
                self._round(INTERVAL_S, wait_for_all=False)
                if self._fault and self._in_main:
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
            if self._fault:
                # Closing the tracker or the queue can hang as well, so leaving the block is not enough.
                threading.Event().wait(self._exit_limit_s)
                os._exit(EXIT_FAULT)

    def _round(self, limit_s: float, *, wait_for_all: bool) -> None:
        """Call whoever is not being called, and read the answers that come within the limit."""
        if self._fault:
            return
        waiting = {member.name for member in self._calls.values()}
        for member in self._members:
            if member.name not in waiting:
                self._calls[member.handle.__ray_call__.remote(look)] = member
        calls = list(self._calls)
        answered, _ = ray.wait(calls, num_returns=len(calls) if wait_for_all else 1, timeout=limit_s)
        if not wait_for_all:
            answered, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        for call in answered:
            self._read(self._calls.pop(call), call)

    def _read(self, member: Member, call: Any) -> None:
        try:
            sign = ray.get(call)
        except ActorUnavailableError:
            return  # the network, perhaps: asked again
        except RayActorError as error:
            self._report(f"the {member.name}{self._place(member)} died: {reason(error)}")
        else:
            self._signs[member.name] = sign
            if sign.engine_died:
                self._report(f"the engine of the {member.name}{self._place(member)} died")

    def _place(self, member: Member) -> str:
        sign = self._signs.get(member.name)
        return f" (pid {sign.pid} on {sign.node})" if sign else ""

    def _report(self, what: str) -> None:
        if not self._fault:
            self._fault = f"{what}. {self._how_to_go_on()}"
            messages.say(messages.FAULT, self._fault)
