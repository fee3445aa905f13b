"""Dispatches run in order, beside the caller, and their failures reach whoever waits or polls."""

from __future__ import annotations

import threading
import time

import pytest

from recipe.prepo.trainer.dispatch import BackgroundDispatch


def test_dispatches_run_in_order_without_making_the_caller_wait() -> None:
    dispatch, may_go, done = BackgroundDispatch(), threading.Event(), []

    def first() -> None:
        assert may_go.wait(10)
        done.append(1)

    dispatch.submit(first)
    dispatch.submit(done.append, 2)
    dispatch.check()
    assert done == []
    may_go.set()
    dispatch.wait()
    assert done == [1, 2]


def test_wait_raises_what_a_dispatch_raised() -> None:
    dispatch = BackgroundDispatch()
    dispatch.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dispatch.wait()
    dispatch.wait()  # told once


def test_check_raises_it_without_waiting_for_later_ones() -> None:
    dispatch, may_go = BackgroundDispatch(), threading.Event()
    dispatch.submit(lambda: 1 / 0)
    dispatch.submit(may_go.wait, 10)
    deadline = time.monotonic() + 10
    with pytest.raises(ZeroDivisionError):
        while time.monotonic() < deadline:
            dispatch.check()
            time.sleep(0.01)
    may_go.set()
    dispatch.wait()
