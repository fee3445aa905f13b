r"""The reward: 1.0 for a response whose final answer equals the gold answer, else 0.0.

To be named as verl's ``reward.custom_reward_function`` (``path: pkg://recipe.prepo.reward``, ``name: compute_score``).
verl calls it from threads of an event loop's executor, many at a time; sympy's work is done in a separate process with
a time limit (:mod:`recipe.prepo.reward.worker`).

The final answer of a response is the content of the last balanced ``\boxed{…}``; without one, the rest of the line
after the last ``####``; without that, what math-verify finds in the end of the response. Data whose ``data_source``
starts with ``mini_math`` is stricter: the response must end in ``####`` and an integer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from recipe.prepo.errors import ConfigError, DataError
from recipe.prepo.reward.extract import (
    Quantity,
    after_hashes,
    last_boxed,
    nesting_depth,
    quantity,
    same_quantity,
    unit_name,
)
from recipe.prepo.reward.worker import GradingStopped, ask

TIME_LIMIT_ENV = "PREPO_GRADING_TIME_LIMIT_S"
DEFAULT_TIME_LIMIT_S = 5.0
MAX_ANSWER_CHARS = 2048
MAX_NESTING = 32  # degenerate repetition; parsing it would take the whole time limit
TAIL_CHARS = 1024


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    time_limit_s: float | None = None,
    **kwargs: Any,
) -> dict[str, float]:
    r"""Grade one response.

    Args:
        data_source: the row's data source.
        solution_str: the response, special tokens removed.
        ground_truth: the gold answer (``reward_model.ground_truth``).
        extra_info: the row's ``extra_info``. Read from it: ``is_multiple_answer`` (the gold is a list), ``error`` (the
            absolute tolerance of a numeric gold) and ``unit`` (what the problem asks for); as OlympiadBench has them.
        time_limit_s: seconds for one comparison; default from ``PREPO_GRADING_TIME_LIMIT_S``, else 5.
        kwargs: what else verl passes (reward model's address and tokenizer); not used.

    Returns:
        ``score`` and ``acc``, both 1.0 or 0.0, and ``timed_out``, 1.0 when the comparison reached its time limit or
        took the grading process down (``score`` is then 0.0). Always these keys: verl logs each for every data source.

    Raises:
        DataError: the gold is empty.
        ConfigError: the time limit is not a positive number.
        PrepoError: the grading process cannot be started.

    >>> compute_score("gsm8k", r"… so \boxed{1,000}", "1000")
    {'score': 1.0, 'acc': 1.0, 'timed_out': 0.0}
    """
    gold = "" if ground_truth is None else str(ground_truth).strip()
    if not gold:
        raise DataError(f"{data_source}: the gold answer is empty, so no response could be right. Drop such rows.")
    limit = _time_limit_s(time_limit_s)
    try:
        is_right = _is_right(data_source, solution_str, gold, extra_info or {}, limit)
    except GradingStopped:
        return {"score": 0.0, "acc": 0.0, "timed_out": 1.0}
    return {"score": float(is_right), "acc": float(is_right), "timed_out": 0.0}


def _is_right(data_source: str, response: str, gold: str, extra_info: Mapping[str, Any], time_limit_s: float) -> bool:
    if data_source.startswith("mini_math"):
        return _is_right_integer(response, gold)
    is_list = bool(extra_info.get("is_multiple_answer"))
    answer = marked_answer(response)
    if answer is None:
        return ask("is_answered", gold=gold, text=response[-TAIL_CHARS:], time_limit_s=time_limit_s) is True
    if not answer or len(answer) > MAX_ANSWER_CHARS or nesting_depth(answer) > MAX_NESTING:
        return False
    unit = str(extra_info.get("unit") or "")
    if not (is_list and "," in gold):
        of_gold = quantity(gold)
        verdict = same_quantity(
            Quantity(of_gold.body, of_gold.value, of_gold.unit or unit_name(unit)),
            quantity(answer),
            _tolerance(extra_info.get("error")),
        )
        if verdict is not None:
            return verdict
    return ask("is_equal", gold=gold, answer=answer, is_list=is_list, unit=unit, time_limit_s=time_limit_s) is True


def marked_answer(response: str) -> str | None:
    """The last ``\\boxed{…}``, else the rest of the line after the last ``####``; None where neither stands."""
    answer = last_boxed(response)
    if answer is None and (rest := after_hashes(response)) is not None:
        answer = rest.partition("\n")[0].strip()
    return answer


def _tolerance(error: Any) -> Fraction:
    """An absolute tolerance such as "1e-1"; 0 where there is none (the field may mean something else in other data)."""
    try:
        return abs(Fraction(str(error)))
    except (ValueError, ZeroDivisionError):
        return Fraction(0)


def _is_right_integer(response: str, gold: str) -> bool:
    answer = after_hashes(response)
    is_integer = answer is not None and len(answer) < MAX_ANSWER_CHARS and re.fullmatch(r"-?[0-9]+", answer)
    return bool(is_integer) and int(answer or "") == int(gold)


def _time_limit_s(given: float | None) -> float:
    value: Any = os.environ.get(TIME_LIMIT_ENV, DEFAULT_TIME_LIMIT_S) if given is None else given
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(
            f"the time limit for grading one answer is {value!r}, but must be a positive number of seconds. Set"
            f" {TIME_LIMIT_ENV}, or reward.custom_reward_function.reward_kwargs.time_limit_s, to one such as 5."
        )
    return seconds
