"""Grades one response as training does, and tells which answer it gave."""

from __future__ import annotations

from dataclasses import dataclass

from recipe.prepo.reward.extract import after_hashes
from recipe.prepo.reward.notation import compact
from recipe.prepo.reward.quantity import exact_number
from recipe.prepo.reward.score import compute_score, marked_answer
from recipe.prepo.tools.evaluation.questions import Question


@dataclass(frozen=True)
class Graded:
    """``reward`` is 1.0 or 0.0; ``answer`` is None where the response marks none; ``timed_out``: counted as wrong."""

    reward: float
    answer: str | None
    timed_out: bool


def grade(question: Question, response: str) -> Graded:
    """The reward of training (:mod:`recipe.prepo.reward.score`) and the response's final answer.

    Raises:
        DataError: the gold answer is empty.
    """
    scores = compute_score(question.data_source, response, question.ground_truth, question.extra_info)
    return Graded(scores["score"], final_answer(question.data_source, response), bool(scores["timed_out"]))


def final_answer(data_source: str, response: str) -> str | None:
    r"""What the reward function judges: the last ``\boxed{…}``, else the rest of the line after the last ``####``.

    >>> final_answer("math", r"so \boxed{\frac12}."), final_answer("gsm8k", "#### 18\nyes"), final_answer("math", "18")
    ('\\frac12', '18', None)
    """
    if data_source.startswith("mini_math"):  # a box marks nothing there
        response = (after_hashes(response) or "").partition("\n")[0].strip()
        return response or None
    return marked_answer(response) or None


def vote(answer: str | None) -> str | None:
    r"""What wrong answers are counted by: the same exact number, or the same characters without spaces, is one answer.

    >>> vote("0.5") == vote(r"\frac12"), vote("x + 1") == vote("x+1"), vote(None)
    (True, True, None)
    """
    if answer is None:
        return None
    value = exact_number(answer)
    return compact(answer) if value is None else str(value)
