"""What the base class of the rules saves, checks and loads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import Stateful
from recipe.prepo.run.checkpoint import load_state, save_state


class Inner(Stateful):
    saved = ("count_N",)

    def __init__(self) -> None:
        self._count_N = np.zeros(3, dtype=np.int32)


class Everything(Stateful):
    saved = ("generator", "share", "steps", "target", "measured", "seen_2", "rows", "inner")

    def __init__(self, seed: int = 0) -> None:
        self._generator = make_generator(seed, "test")
        self._share, self._steps = 0.5, 0
        self._target: float | None = None
        self._measured: list[float] = []
        self._seen_2 = np.zeros((2, 2))
        self._rows = np.empty((0, 3))
        self._inner = Inner()


def used() -> Everything:
    state = Everything(seed=1)
    state._generator.integers(10, size=5, dtype=np.int32)  # leaves half of a 64-bit draw
    state._share, state._steps, state._target = 0.25, 7, 0.1
    state._measured.append(1 / 3)
    state._seen_2 += 1.5
    state._rows = np.arange(6.0).reshape(2, 3)
    state._inner._count_N += 4
    return state


def test_loaded_state_is_the_saved_one(tmp_path: Path) -> None:
    mine = used()
    saved = mine.state_dict()
    save_state(tmp_path, saved)
    other = Everything(seed=9)
    other.load_state_dict(load_state(tmp_path))
    np.testing.assert_equal(other.state_dict(), saved)
    assert (other._share, other._steps, other._target) == (0.25, 7, 0.1)
    assert other._generator.integers(2**60, size=9).tolist() == mine._generator.integers(2**60, size=9).tolist()


def test_saved_state_does_not_follow_the_object_nor_the_object_the_state() -> None:
    mine, other = used(), Everything()
    saved = mine.state_dict()
    kept = copy.deepcopy(saved)
    other.load_state_dict(saved)
    for each in (mine, other):
        each._measured.append(2.0)
        each._seen_2 += 1.0
        each._inner._count_N[0] = 99
        each._generator.random()
        np.testing.assert_equal(saved, kept)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("generator", {}, "PCG64"),
        ("generator", np.random.MT19937(0).state, "PCG64"),
        ("generator", [1, 2], "state"),
        *((name, value, name) for name in ("share", "target") for value in ("x", True, [0.5])),
        ("steps", "many", "steps"),
        ("measured", 0.4, "measured"),
        ("seen_2", np.zeros((2, 1)), "Everything: the saved 'seen_2' has another type or shape"),
        ("seen_2", np.zeros(4), "seen_2"),
        ("seen_2", np.zeros((3, 2)), "seen_2"),
        ("seen_2", np.zeros((2, 2), dtype=np.float32), "seen_2"),
        ("seen_2", [[0.0] * 2] * 2, "seen_2"),
        ("rows", np.zeros((7, 2)), "rows"),
        ("rows", np.zeros(3), "rows"),
        ("inner", {}, "Inner saves"),
        ("inner", {"count_N": np.zeros(3)}, "count_N"),
        ("inner", None, "Inner saves"),
    ],
)
def test_state_that_does_not_fit_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Everything().load_state_dict({**used().state_dict(), name: value})
