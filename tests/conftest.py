"""Shares of the suite: each test file runs in one process, and so do all runs of the real stack, in turn."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest share first: the real stack's runs take about as long as everything else."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)
    for item in items:
        group = "real_stack" if item.get_closest_marker("e2e") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
