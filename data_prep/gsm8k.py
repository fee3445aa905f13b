"""GSM8K (Cobbe et al., arXiv 2110.14168): grade-school word problems, with the gold answer after ``####``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_prep.spec import DatasetSpec, Problem, first_field
from recipe.prepo.reward.extract import after_hashes


def to_problem(row: Mapping[str, Any]) -> Problem:
    """The gold is what follows the last ``####`` of ``answer``, without thousands commas."""
    gold = after_hashes(first_field(row, "answer")) or ""
    return Problem(question=first_field(row, "question"), gold=gold.replace(",", ""))


SPEC = DatasetSpec("gsm8k", "openai/gsm8k", {"train": "train", "test": "test"}, to_problem, hub_config="main")
