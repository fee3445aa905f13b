"""Workarounds for verl 0.9.1 on every platform; ``tests/contract/test_verl_workarounds.py`` says when one can go."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, MutableMapping
from types import ModuleType
from typing import Any

# Set by the driver for every process of a run.
RUN_ID_ENV = "PREPO_RUN_ID"
SOCKET = "/rl-colocate-zmq-"


class _WithoutFlush(logging.LoggerAdapter):  # type: ignore[type-arg]
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, {name: value for name, value in kwargs.items() if name != "flush"}


def log_without_flush(trainer_separate_async: ModuleType) -> None:
    """verl 0.9.1 calls ``logger.info(..., flush=True)`` where ``hybrid_engine=False``, which logging refuses."""
    module = vars(trainer_separate_async)
    module["logger"] = _WithoutFlush(module["logger"], {})


def name_weight_sockets_by_run(module: ModuleType) -> None:
    """Put the run's id into the names of the sockets through which weights are pushed.

    verl 0.9.1 names them by Ray's job id, which is 01000000 in every new cluster, so two runs on one machine would push
    their weights into each other's servers. ``module`` is the sender's (``vllm_rollout``, ``ServerAdapter``) or the
    receiver's (``utils``, ``vLLMColocateWorkerExtension``).
    """
    run_id = os.environ.get(RUN_ID_ENV)
    if not run_id:
        return
    members = vars(module)
    if "ServerAdapter" in members:
        sender = members["ServerAdapter"]
        sender.__init__ = _renamed_after_init(sender.__init__, run_id)
    if "vLLMColocateWorkerExtension" in members:
        receiver = members["vLLMColocateWorkerExtension"]
        stock = receiver._get_zmq_handle
        receiver._get_zmq_handle = functools.wraps(stock)(lambda self: _named_by_run(stock(self), run_id))


def _renamed_after_init(stock: Callable[..., None], run_id: str) -> Callable[..., None]:
    @functools.wraps(stock)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        stock(self, *args, **kwargs)
        self.zmq_handle = _named_by_run(self.zmq_handle, run_id)

    return init


def _named_by_run(handle: str, run_id: str) -> str:
    return handle.replace(SOCKET, f"{SOCKET}{run_id}-", 1)
