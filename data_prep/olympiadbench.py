"""OlympiadBench (He et al., arXiv 2402.14008): the open-ended, text-only, English mathematics part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_prep.spec import DatasetSpec, Problem, first_field, text_or_none
from recipe.prepo.errors import DataError


def to_problem(row: Mapping[str, Any]) -> Problem:
    """``final_answer`` is a list of one text, which may have several answers (``is_multiple_answer``)."""
    answers = first_field(row, "final_answer")
    if isinstance(answers, str):
        answers = [answers]
    if len(answers) != 1:
        raise DataError(f"final_answer has {len(answers)} entries where one is expected: {answers!r}")
    question = first_field(row, "question")
    if row.get("context"):
        question = f"{row['context']}\n{question}"
    is_multiple = row.get("is_multiple_answer")
    extra = {
        "subject": row.get("subfield"),
        "answer_type": row.get("answer_type"),
        "unit": row.get("unit"),
        "error": text_or_none(row.get("error")),
        "is_multiple_answer": None if is_multiple is None else bool(is_multiple),
    }
    return Problem(question, str(answers[0]).strip(), text_or_none(first_field(row, "id")), extra)


SPEC = DatasetSpec(
    "olympiadbench", "Hothan/OlympiadBench", {"test": "train"}, to_problem, hub_config="OE_TO_maths_en_COMP"
)
