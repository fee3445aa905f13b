r"""The reward: 1.0 for a response whose final answer equals the gold answer, else 0.0.

The configuration names it as verl's ``reward.custom_reward_function`` (``path: pkg://recipe.prepo.reward``, ``name:
compute_score``). verl calls it from many threads at once, so sympy runs in a separate process with a time limit
(:mod:`recipe.prepo.reward.grading_process`). Two kinds of ``data_source`` are graded in another way: a response to
``mini_math…`` must end in ``####`` and an integer, and ``reasoning_gym/…`` has its own scoring
(:mod:`recipe.prepo.reward.reasoning_gym`).
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from recipe.prepo.errors import ConfigError, DataError
from recipe.prepo.reward import reasoning_gym
from recipe.prepo.reward.extract import FinalAnswer, after_hashes, final_answer, marked_answer
from recipe.prepo.reward.grading_process import GradingStopped, ask
from recipe.prepo.reward.notation import nesting_depth
from recipe.prepo.reward.quantity import Quantity, quantity, same_quantity, unit_name

__all__ = ["DEFAULT_TIME_LIMIT_S", "TIME_LIMIT_ENV", "compute_score", "golds_of", "marked_answer"]

TIME_LIMIT_ENV = "PREPO_GRADING_TIME_LIMIT_S"
DEFAULT_TIME_LIMIT_S = 5.0
MAX_ANSWER_CHARS = 2048
MAX_NESTING = 32  # deeper nesting is degenerate repetition, and parsing it would take the whole time limit


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
        ground_truth: the gold answer (``reward_model.ground_truth``), text or a number; or a list of golds (list,
            tuple, array, or JSON text of a list of strings), of which any one counts.
        extra_info: the row's ``extra_info``. OlympiadBench's fields are used: ``is_multiple_answer`` (the gold lists
            several answers, all required), ``error`` (absolute tolerance) and ``unit`` (what the problem asks for).
        time_limit_s: seconds for one comparison; by default ``PREPO_GRADING_TIME_LIMIT_S``, which a run sets from
            ``prepo.grading_time_limit_s``, else 5.
        kwargs: further arguments of verl (the reward model's address and tokenizer); unused.

    Returns:
        ``score`` and ``acc``, both 1.0 or 0.0, and ``timed_out``, which is 1.0 when a comparison reached its time limit
        or crashed the grading process (``score`` is then 0.0). Always these keys: verl logs each per data source.

    Raises:
        DataError: the gold is empty.
        ConfigError: the time limit is not a positive number.
        PrepoError: the grading process cannot be started.

    >>> compute_score("gsm8k", r"… so \boxed{1,000}", "1000")
    {'score': 1.0, 'acc': 1.0, 'timed_out': 0.0}
    """
    golds = golds_of(ground_truth)
    if not golds:
        raise DataError(f"{data_source}: the gold answer is empty, so no response can be correct. Drop such rows.")
    limit_s = _time_limit_s(time_limit_s)
    if data_source.startswith("mini_math"):
        is_correct = any(_ends_in_integer(solution_str, gold) for gold in golds)
        return {"score": float(is_correct), "acc": float(is_correct), "timed_out": 0.0}
    if data_source.startswith(reasoning_gym.DATA_SOURCE):
        score = reasoning_gym.score_response(data_source, solution_str, golds[0], extra_info or {})
        return {"score": score, "acc": float(score >= 1.0), "timed_out": 0.0}
    answer, timed_out = final_answer(solution_str), 0.0
    for gold in golds:
        try:
            if _is_correct(answer, gold, extra_info or {}, limit_s):
                return {"score": 1.0, "acc": 1.0, "timed_out": 0.0}
        except GradingStopped:
            timed_out = 1.0
    return {"score": 0.0, "acc": 0.0, "timed_out": timed_out}


def golds_of(ground_truth: Any) -> list[str]:
    r"""The gold answers in ``ground_truth``, without empty ones.

    >>> golds_of("[3, 4]"), golds_of('["3", "4"]'), golds_of([3, 4.0, None, ""])
    (['[3, 4]'], ['3', '4'], ['3', '4.0'])
    """
    if hasattr(ground_truth, "tolist"):  # numpy arrays and scalars
        ground_truth = ground_truth.tolist()
    if isinstance(ground_truth, str) and re.fullmatch(r"""\s*\[\s*["'].*["']\s*\]\s*""", ground_truth, re.DOTALL):
        with contextlib.suppress(ValueError, SyntaxError):
            ground_truth = ast.literal_eval(
                re.sub(r"(?<!\\)\\(?=[A-Za-z{}%$,;! ])", r"\\\\", ground_truth)
            )  # bare LaTeX
    if isinstance(ground_truth, (list, tuple, set)):
        return [gold for part in ground_truth for gold in golds_of(part)]
    is_missing = ground_truth is None or ground_truth != ground_truth  # None or NaN
    gold = "" if is_missing else str(ground_truth).strip()
    return [gold] if gold else []


def _is_correct(found: FinalAnswer, gold: str, extra_info: Mapping[str, Any], time_limit_s: float) -> bool:
    answer = found.text
    if not found.is_marked:
        return ask("is_answered", gold=gold, text=answer, time_limit_s=time_limit_s) is True
    if not answer or len(answer) > MAX_ANSWER_CHARS or nesting_depth(answer) > MAX_NESTING:
        return False
    is_list, unit = bool(extra_info.get("is_multiple_answer")), str(extra_info.get("unit") or "")
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


def _tolerance(error: Any) -> Fraction:
    """An absolute tolerance such as "1e-1"; 0 if there is none (the field may mean something else in other data)."""
    try:
        return abs(Fraction(str(error)))
    except (ValueError, ZeroDivisionError):
        return Fraction(0)


def _ends_in_integer(response: str, gold: str) -> bool:
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
            f"The time limit for grading one answer is {value!r}, but must be a positive number of seconds. Set"
            f" prepo.grading_time_limit_s=5.0 (outside a run: the environment variable {TIME_LIMIT_ENV})."
        )
    return seconds
