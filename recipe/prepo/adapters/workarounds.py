"""What verl 0.9.1 needs on every platform; ``tests/contract/test_verl_workarounds.py`` tells when it can go."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from types import ModuleType
from typing import Any


class _WithoutFlush(logging.LoggerAdapter):  # type: ignore[type-arg]
    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, {name: value for name, value in kwargs.items() if name != "flush"}


def log_without_flush(trainer_separate_async: ModuleType) -> None:
    """verl 0.9.1 calls ``logger.info(..., flush=True)`` where ``hybrid_engine=False``, which logging refuses."""
    module = vars(trainer_separate_async)
    module["logger"] = _WithoutFlush(module["logger"], {})
