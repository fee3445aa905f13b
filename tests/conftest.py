"""Shares of the suite: each test file runs in one process, and so do all runs of the real stack, in turn."""

from typing import Any

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

REAL_STACK = "tests/e2e/"


class Shares(LoadScopeScheduling):
    """The real stack's tests are one share. (xdist 3.8's own ``--dist loadgroup`` has no effect with pytest 9.2.)"""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return REAL_STACK if file.startswith(REAL_STACK) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return Shares(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest share first: the real stack's runs take about as long as everything else."""
    items.sort(key=lambda item: not item.nodeid.startswith(REAL_STACK))
