"""Words between the driver and the trainer, which may be on different nodes: entries in Ray's own key-value store.

Every entry belongs to one Ray job, so that runs that share a cluster do not hear each other.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.experimental import internal_kv

from recipe.prepo.errors import ConfigError
from recipe.prepo.supervise.failures import reason

STOP = "stop"  # driver -> trainer: the name of the signal that asked
STOPPED = "stopped"  # trainer -> driver: the step after which it stopped
FAULT = "fault"  # trainer -> driver: what died, for when the trainer's own error cannot arrive
FAILED = "failed"  # trainer -> driver: how many rollouts failed, and what the first one said
QUEUE, QUEUE_NAMESPACE = "TransferQueueController", "transfer_queue"
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
            with contextlib.suppress(RayError, RuntimeError):  # no answer: asked again
                say(STOP, signal_name)
                return


def fault_behind(error: Exception) -> str:
    """What the trainer said about the fault before ``error`` arrived; empty when ``error`` is nothing but itself."""
    said = hear(FAULT) if ray.is_initialized() else ""
    # What the trainer raised, perhaps for another actor's death, arrives as a RayTaskError.
    if not said and isinstance(error, RayActorError) and not isinstance(error, RayTaskError):
        return f"the trainer's process died: {reason(error)}. The same command goes on from the last checkpoint."
    return said


def require_lone_run() -> None:
    """One run at a time: TransferQueue has one name in a cluster, and a second run would train on the first one's data.

    Raises:
        ConfigError: another run is on this Ray cluster.
    """
    try:
        ray.get_actor(QUEUE, namespace=QUEUE_NAMESPACE)
    except ValueError:
        return
    raise ConfigError(
        f"another training runs on this Ray cluster ({ray.get_runtime_context().gcs_address}), and TransferQueue would "
        f"mix the rollouts of the two. Wait for its end, or start a Ray for each: unset RAY_ADDRESS, or another Slurm "
        f"job"
    )


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
