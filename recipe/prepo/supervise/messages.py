"""Driver-trainer messages through Ray's key-value store; the two may be on different nodes.

Keys contain the Ray job, so that runs that share a cluster do not read each other's messages.
"""

from __future__ import annotations

import contextlib
import re
import threading
import traceback
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.experimental import internal_kv

from recipe.prepo.errors import ConfigError, PrepoError, root_cause

STOP = "stop"  # driver -> trainer: the name of the signal
STOPPED = "stopped"  # trainer -> driver: the step after which it stopped
FAULT = "fault"  # trainer -> driver: what died, in case the trainer's own error cannot arrive
FAILED = "failed"  # trainer -> driver: how many rollouts failed, and the latest error
REMARK = "remark"  # trainer -> driver, with a number from 0: what to print
QUEUE, QUEUE_NAMESPACE = "TransferQueueController", "transfer_queue"
_RETRY_S = 0.5


def _full_key(key: str) -> bytes:
    return f"prepo/{ray.get_runtime_context().get_job_id()}/{key}".encode()


def put(key: str, text: str) -> None:
    internal_kv._internal_kv_put(_full_key(key), text.encode(), overwrite=True)


def get(key: str) -> str:
    """The other side's message; empty where there is none."""
    return (internal_kv._internal_kv_get(_full_key(key)) or b"").decode()


def clear() -> None:
    internal_kv._internal_kv_del(_full_key(""), del_by_prefix=True)


def describe(error: BaseException) -> str:
    """The kind of an error, its first line, and the line of the user's code that raised it.

    >>> describe(KeyError("answer"))
    "KeyError: 'answer'"
    """
    trace = str(error) if isinstance(error, RayError) else "".join(traceback.format_exception(error))
    error = _unwrapped(error)
    first_line = str(error).strip().partition("\n")[0]
    if isinstance(error, PrepoError):
        return first_line
    return root_cause(trace) or f"{type(error).__name__}: {first_line or 'no text'}"


def reason(error: BaseException) -> str:
    """Ray's own account of a death, or else the first line of the error.

    >>> reason(RuntimeError("The actor died.\\n\\tpid: 7\\nWorker exit detail: Code 2. End of file. Some more"))
    'Code 2. End of file'
    """
    error = _unwrapped(error)
    text = str(error).strip() or repr(error)
    detail = text.partition("Worker exit detail: ")[2] or text.partition("The actor is dead because ")[2]
    if "creation task" in text:
        detail = root_cause(text)
    return (detail or text).splitlines()[0].partition(" Some ")[0].strip().rstrip(".")


def _unwrapped(error: BaseException) -> BaseException:
    """What another process raised; the text of Ray's error would begin with the remote traceback."""
    return error.cause if isinstance(error, RayTaskError) else error


def failed_process(text: str) -> str:
    """Process id of the worker in which an error with this text began, or that died; "" where it is not known.

    >>> failed_process("ray::Outer.run() (pid=7, ip=::1) … ray::Inner.load() (pid=8, ip=::1) … OSError: no file")
    '8'
    """
    return (re.findall(r"\(pid[ =](\d+)", text.partition("direct cause")[0]) or [""])[-1]


_numbers = {"told": 0, "read": 0}  # of the remarks, on each side
_reading = threading.Lock()


def tell(text: str) -> None:
    put(f"{REMARK}{_numbers['told']}", text)
    _numbers["told"] += 1


def request_stop(signal_name: str, closed: threading.Event) -> None:
    """Ask the trainer to stop after its step, as soon as Ray can be reached; gives up once ``closed`` is set."""
    while not closed.wait(_RETRY_S):
        if ray.is_initialized():
            with contextlib.suppress(RayError, RuntimeError):
                put(STOP, signal_name)
                return


def new_remarks() -> list[str]:
    """What the trainer told since the last call."""
    found = []
    with _reading:
        while ray.is_initialized() and (text := get(f"{REMARK}{_numbers['read']}")):
            _numbers["read"] += 1
            found.append(text)
    return found


def fault_behind(error: Exception) -> str:
    """The fault that the trainer reported before ``error`` arrived; empty where there was none."""
    reported = get(FAULT) if ray.is_initialized() else ""
    # An error that the trainer raised, perhaps because another actor died, arrives as a RayTaskError.
    if not reported and isinstance(error, RayActorError) and not isinstance(error, RayTaskError):
        return f"the trainer's process died: {reason(error)}. The same command resumes from the last checkpoint."
    return reported


def require_lone_run() -> None:
    """Refuse a second run on one cluster: TransferQueue has one name there, and would mix the rollouts of the two."""
    try:
        ray.get_actor(QUEUE, namespace=QUEUE_NAMESPACE)
    except ValueError:
        return
    raise ConfigError(
        f"another training runs on this Ray cluster ({ray.get_runtime_context().gcs_address}), and TransferQueue would "
        f"mix the rollouts of the two. Wait until it ends, or give each run a Ray of its own: unset RAY_ADDRESS, or "
        f"submit another Slurm job"
    )


class CallFirst:
    """An actor class that calls ``first`` before it creates an actor. verl's ``run_ppo`` does so once Ray is up."""

    def __init__(self, actor_class: Any, first: Callable[[], None]) -> None:
        self._actor_class = actor_class
        self._first = first

    def options(self, **options: Any) -> CallFirst:
        return CallFirst(self._actor_class.options(**options), self._first)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        self._first()
        return self._actor_class.remote(*args, **kwargs)
