"""Evaluation sets with a problem, a short answer and usually an id: AIME 2024 and 2025, AMC 2023, MATH-500."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_prep.spec import DatasetSpec, Problem, first_field, text_or_none
from recipe.prepo.reward.extract import last_boxed


def to_problem(row: Mapping[str, Any]) -> Problem:
    r"""The gold is ``answer`` as written ("025" keeps its zero; the number 27.0 is "27"), else ``solution``'s box."""
    answer = row.get("answer", row.get("Answer"))
    if answer is None:
        gold = last_boxed(first_field(row, "solution", "Solution")) or ""
    elif isinstance(answer, float) and answer.is_integer():
        gold = str(int(answer))
    else:
        gold = str(answer).strip()
    source_id = next((row[key] for key in ("unique_id", "id", "ID") if row.get(key) is not None), None)
    extra = {"level": text_or_none(row.get("level")), "subject": row.get("subject")}
    return Problem(first_field(row, "problem", "Problem", "question"), gold, text_or_none(source_id), extra)


AIME24 = DatasetSpec("aime24", "HuggingFaceH4/aime_2024", {"test": "train"}, to_problem)
AIME25 = DatasetSpec("aime25", "math-ai/aime25", {"test": "test"}, to_problem)
AMC23 = DatasetSpec("amc23", "math-ai/amc23", {"test": "test"}, to_problem)
MATH500 = DatasetSpec("math500", "HuggingFaceH4/MATH-500", {"test": "test"}, to_problem)
