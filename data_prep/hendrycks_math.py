r"""MATH (Hendrycks et al., arXiv 2103.03874): 7,500 + 5,000 competition problems; the gold is boxed in the solution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_prep.spec import DatasetSpec, Problem, first_field, text_or_none
from recipe.prepo.reward.extract import last_boxed


def to_problem(row: Mapping[str, Any]) -> Problem:
    r"""The gold is the last ``\boxed{…}`` (or ``\boxed 3``, ``\fbox{…}``) of ``solution``, else ``answer``."""
    boxed = last_boxed(first_field(row, "solution"))
    gold = boxed if boxed is not None else str(row.get("answer") or "")
    extra = {"level": text_or_none(row.get("level")), "subject": row.get("type") or row.get("subject")}
    question = first_field(row, "problem", "question")
    return Problem(question, gold, source_id=text_or_none(row.get("unique_id")), extra=extra)


SPEC = DatasetSpec("math", "DigitalLearningGmbH/MATH-lighteval", {"train": "train", "test": "test"}, to_problem)
