"""Run a function once a module has been imported, whether that is now or later in the process."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

Callback = Callable[[ModuleType], Any]


class _AfterImportFinder(importlib.abc.MetaPathFinder):
    """Finds awaited modules through the other finders, and calls back after their loader has run."""

    def __init__(self) -> None:
        self.waiting: dict[str, list[Callback]] = {}
        self._looking_for: set[str] = set()

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> Any:
        if fullname not in self.waiting or fullname in self._looking_for:
            return None
        self._looking_for.add(fullname)
        try:
            spec: Any = importlib.util.find_spec(fullname)
        finally:
            self._looking_for.discard(fullname)
        if spec is None or spec.loader is None:
            return spec
        stock_exec = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            stock_exec(module)
            for callback in self.waiting[fullname]:
                callback(module)
            del self.waiting[fullname]  # only now: after a failed import the next try needs the callbacks

        spec.loader.exec_module = exec_module
        return spec


_FINDER = _AfterImportFinder()


def after_import(module_name: str, callback: Callback) -> None:
    """Call ``callback(module)`` once ``module_name`` has been imported; at once if it already is.

    An exception of the callback reaches the importer of the module.
    """
    if module_name in sys.modules:
        callback(sys.modules[module_name])
        return
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    _FINDER.waiting.setdefault(module_name, []).append(callback)
