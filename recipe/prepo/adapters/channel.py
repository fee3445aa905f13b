"""Words between the driver and the trainer, which may be on different nodes: entries in Ray's own key-value store.

Every entry belongs to one Ray job, so that runs that share a cluster do not hear each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.experimental import internal_kv

from recipe.prepo.adapters.failures import reason

STOP = "stop"  # driver -> trainer: the name of the signal that asked
STOPPED = "stopped"  # trainer -> driver: the step after which it stopped
FAULT = "fault"  # trainer -> driver: what died, for when the trainer's own error cannot arrive
FAILED = "failed"  # trainer -> driver: how many rollouts failed, and what the first one said
_RETRY_S = 0.5
WORDS = (STOP, STOPPED, FAULT, FAILED)


def _key(word: str) -> bytes:
    return f"prepo/{ray.get_runtime_context().get_job_id()}/{word}".encode()


def say(word: str, text: str) -> None:
    """Leave ``text`` for the other side; needs a Ray that is up."""
    internal_kv._internal_kv_put(_key(word), text.encode(), overwrite=True)


def hear(word: str) -> str:
    """What the other side left; empty when nothing."""
    found = internal_kv._internal_kv_get(_key(word))
    return found.decode() if found else ""


def clear() -> None:
    """Forget everything that this job said."""
    for word in WORDS:
        internal_kv._internal_kv_del(_key(word))


# ---- the driver's side ----------------------------------------------------------------------------------------------


def ask_to_stop(signal_name: str, closed: threading.Event) -> None:
    """Ask the trainer to stop after its step, as soon as there is a Ray to ask through."""
    while not closed.wait(_RETRY_S):
        if ray.is_initialized():
            say(STOP, signal_name)
            return


def fault_behind(error: Exception) -> str:
    """What the trainer said about the fault before ``error`` arrived; empty when ``error`` is nothing but itself."""
    said = hear(FAULT) if ray.is_initialized() else ""
    if not said and isinstance(error, RayActorError):
        return f"the trainer's process died: {reason(error)}. The same command goes on from the last checkpoint."
    return said


class CallFirst:
    """An actor class that calls ``first`` before it makes an actor: verl's ``run_ppo`` does so once Ray is up."""

    def __init__(self, actor_class: Any, first: Callable[[], None]) -> None:
        self._actor_class = actor_class
        self._first = first

    def options(self, **options: Any) -> CallFirst:
        return CallFirst(self._actor_class.options(**options), self._first)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        self._first()
        return self._actor_class.remote(*args, **kwargs)
