"""Workarounds for verl 0.9.1 on every platform; ``tests/contract/test_verl_workarounds.py`` says when one can go."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import MutableMapping
from types import ModuleType
from typing import Any

# Set by the driver for every process of a run.
RUN_ID_ENV = "PREPO_RUN_ID"
SOCKET = "/rl-colocate-zmq-"


class _WithoutFlush(logging.LoggerAdapter):  # type: ignore[type-arg]
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, {name: value for name, value in kwargs.items() if name != "flush"}


def log_without_flush(trainer_separate_async: Any) -> None:
    """verl 0.9.1 calls ``logger.info(..., flush=True)`` where ``hybrid_engine=False``, which logging refuses."""
    trainer_separate_async.logger = _WithoutFlush(trainer_separate_async.logger, {})


def name_weight_sockets_by_run(module: ModuleType) -> None:
    """Put the run's id into the names of the sockets through which weights are pushed, on both sides.

    verl 0.9.1 names them by Ray's job id, which is 01000000 in every new cluster, so two runs on one machine would push
    their weights into each other's servers.
    """
    own_name = f"{SOCKET}{os.environ.get(RUN_ID_ENV)}-"
    if not os.environ.get(RUN_ID_ENV):
        return
    if sender := vars(module).get("ServerAdapter"):
        init = sender.__init__

        @functools.wraps(init)
        def renamed(self: Any, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **kwargs)
            self.zmq_handle = self.zmq_handle.replace(SOCKET, own_name, 1)

        sender.__init__ = renamed
    if receiver := vars(module).get("vLLMColocateWorkerExtension"):
        handle = receiver._get_zmq_handle
        receiver._get_zmq_handle = functools.wraps(handle)(lambda self: handle(self).replace(SOCKET, own_name, 1))
