"""Rows of prompts by their ids."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.prepo.maths.prompt_index import PromptIndex


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), unique=True, max_size=30), st.randoms())
@settings(max_examples=100, deadline=None)
def test_any_different_ids_are_found(ids: list[str], random: object) -> None:
    asked = list(ids)
    random.shuffle(asked)  # type: ignore[attr-defined]
    assert PromptIndex(ids).rows(asked).tolist() == [ids.index(prompt_id) for prompt_id in asked]


def test_ids_are_compared_as_they_stand() -> None:
    # Composed and decomposed, upper and lower case, spaces, leading zeros, the empty id, characters beyond 16 bits.
    ids = ["é", "e\u0301", "É", "a", "a ", " a", "A", "1", "01", "", "𝔸", "日本語", "a\x00", "a\nb"]
    assert PromptIndex(ids).rows([*reversed(ids), "a"]).tolist() == [*reversed(range(len(ids))), 3]


@pytest.mark.parametrize("ids", [["x", "a", "b", "c", "d", "e", "f", "x"], ["", ""]])
def test_same_id_twice_is_refused_with_both_rows(ids: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"rows 0 and {len(ids) - 1} .*same prompt_id"):
        PromptIndex(ids)


@pytest.mark.parametrize("size", [0, 1, 50])
def test_unknown_id_is_a_bug_that_names_it_wherever_its_hash_lies(size: int) -> None:
    ids = [f"p{i}" for i in range(size)]
    assert PromptIndex(ids).rows([]).shape == (0,)
    for i in range(200):
        with pytest.raises(AssertionError, match=f"'unknown{i}'"):
            PromptIndex(ids).rows([*ids[:1], f"unknown{i}"])
