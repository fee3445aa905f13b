"""Rows of prompts by their ids."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.prepo.maths.prompt_index import PromptIndex, hash_ids


def test_rows_come_in_the_order_of_the_question() -> None:
    index = PromptIndex(["d", "a", "c", "b"])
    assert len(index) == 4
    found = index.rows(["a", "b", "c", "d", "a", "d"])
    assert found.tolist() == [1, 3, 2, 0, 1, 0]
    assert found.dtype == np.int64
    assert index.rows(("c",)).tolist() == [2]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), unique=True, max_size=30), st.randoms())
@settings(max_examples=100, deadline=None)
def test_any_different_ids_are_found(ids: list[str], random: object) -> None:
    asked = list(ids)
    random.shuffle(asked)  # type: ignore[attr-defined]
    assert PromptIndex(ids).rows(asked).tolist() == [ids.index(prompt_id) for prompt_id in asked]


def test_ids_are_compared_as_they_stand() -> None:
    # Composed and decomposed, upper and lower case, spaces, leading zeros, the empty id, characters beyond 16 bits.
    ids = ["é", "e\u0301", "É", "a", "a ", " a", "A", "1", "01", "", "𝔸", "日本語", "a\x00", "a\nb"]
    assert PromptIndex(ids).rows(list(reversed(ids))).tolist() == list(reversed(range(len(ids))))


@pytest.mark.parametrize(("seed", "is_at_home"), [("7", True), ("8", False)])
def test_an_index_of_another_process_is_refused(seed: str, is_at_home: bool, tmp_path: Path) -> None:
    """Its hashes mean nothing there: no id would be found, or a wrong one."""
    file = tmp_path / "index"
    make = "import pickle, sys; from recipe.prepo.maths.prompt_index import PromptIndex; "
    make += "sys.stdout.buffer.write(pickle.dumps(PromptIndex(['a', 'b'])))"
    made = subprocess.run([sys.executable, "-c", make], capture_output=True, check=True, env=with_seed("7"))
    file.write_bytes(made.stdout)
    use = f"import pickle; print(pickle.loads(open({str(file)!r}, 'rb').read()).rows(['b']))"
    used = subprocess.run([sys.executable, "-c", use], capture_output=True, text=True, env=with_seed(seed), check=False)
    assert (used.stdout == "[1]\n") == is_at_home
    assert ("made in another process" in used.stderr) == (not is_at_home)
    with pytest.raises(AssertionError, match="another process"):
        pickle.loads(made.stdout).rows(["b"])


def with_seed(seed: str) -> dict[str, str]:
    return {**os.environ, "PYTHONHASHSEED": seed}


@pytest.mark.parametrize("ids", [["a", "b", "a"], ["x", "a", "b", "c", "d", "e", "f", "x"], ["é", "e", "é"], ["", ""]])
def test_same_id_twice_is_refused_with_both_rows(ids: list[str]) -> None:
    first, second = [i for i, prompt_id in enumerate(ids) if ids.count(prompt_id) == 2]
    with pytest.raises(ValueError, match=rf"rows {first} and {second} .*same prompt_id"):
        PromptIndex(ids)


def test_unknown_id_is_a_bug_that_names_it() -> None:
    index = PromptIndex([f"p{i}" for i in range(50)])
    # Hashes below, between and above those of the set: many unknown ids reach every place.
    for i in range(200):
        with pytest.raises(AssertionError, match=f"'unknown{i}'"):
            index.rows(["p1", f"unknown{i}", "p2"])
    with pytest.raises(AssertionError, match="'p50'"):
        index.rows(["p50", "p51"])


def test_unknown_id_above_every_hash() -> None:
    ids = [f"p{i}" for i in range(20)]
    highest = ids.pop(int(np.argmax(hash_ids(ids))))
    with pytest.raises(AssertionError, match=f"'{highest}'"):
        PromptIndex(ids).rows([ids[0], highest])


def test_empty_lookup_and_empty_set() -> None:
    for ids in ([], ["a"], ["a", "b"]):
        found = PromptIndex(ids).rows([])
        assert found.shape == (0,) and found.dtype == np.int64
    assert len(PromptIndex([])) == 0
    with pytest.raises(AssertionError, match="'a'"):
        PromptIndex([]).rows(["a"])
