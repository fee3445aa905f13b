"""Waiting for other processes."""

import time
from collections.abc import Callable


def wait_until(
    holds: Callable[[], object], what: str = "", *, limit_s: float = 20.0, show: Callable[[], str] = lambda: ""
) -> None:
    """Look again and again; fails with ``what`` and the end of what ``show`` returns after ``limit_s`` seconds."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, f"not in {limit_s:.0f} s: {what}\n{show()[-6000:]}"
        time.sleep(0.1)
