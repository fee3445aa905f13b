"""Is an answer equal to the gold answer? Mathematics is left to math-verify (https://github.com/huggingface/Math-Verify).

Runs without any time limit of its own, so training code reaches it only through :mod:`recipe.prepo.grader_process`.
Harder rules for what counts as equal belong into :func:`is_equal`.

Golds are always handed to math-verify between dollar signs: without, bare LaTeX parses to nothing or to one number out
of it (``3\\sqrt{13}`` to 3); inside ``\\boxed{}``, ``8\\%`` parses to text only.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any, Literal

from math_verify import parse, verify

from recipe.prepo.answers import compact, plain_number, split_list, tidy

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns once that its own time limit is off

_AROUND_OPERATORS = re.compile(r"(?<=[\w)}\]])\s*([-+*/=<>])\s*(?=[\w\\({\[])")
GoldKind = Literal["math", "text", "none"]


def is_equal(gold: str, answer: str, *, is_list: bool | None = None) -> bool:
    r"""Whether ``answer`` (the content of a box) means the same as ``gold``.

    Args:
        gold: bare LaTeX or text, with or without ``$``.
        answer: the response's final answer alone.
        is_list: True when the gold is known to be a list of answers, so that ``58,500`` is two numbers; None when not
            known. A list is compared part by part, in any order, and repeats count.

    >>> is_equal(r"\frac{1}{2}", "0.5"), is_equal("16,3,1,1", "1,3,16"), is_equal("1,-2", r"x=-2 \text{ or } x=1")
    (True, False, True)
    """
    gold, answer = tidy(gold), tidy(answer)
    if not gold or not answer:
        return False
    if compact(gold) == compact(answer):
        return True
    gold_parts = _parts(gold, is_list)
    if len(gold_parts) > 1:
        answer_parts = split_list(answer, is_list=True)
        if len(answer_parts) == len(gold_parts):
            return _is_same_multiset(gold_parts, answer_parts)
        if "\\pm" not in gold + answer:
            return False
    return _is_same(gold, answer)


def is_answered(gold: str, text: str) -> bool:
    """Whether the answer that math-verify finds in running ``text`` (the end of a response) equals ``gold``."""
    return verify(_parse(tidy(gold)), parse(text, parsing_timeout=None), timeout_seconds=None)


def kind_of_gold(gold: str, *, is_list: bool | None = None) -> GoldKind:
    """How a gold can be compared: as mathematics, only as literal text, or not at all.

    "none" means that math-verify finds nothing in the gold, or does not find it equal to itself.
    """
    kinds = [_kind_of_part(part) for part in _parts(tidy(gold), is_list)]
    if not kinds or "none" in kinds:
        return "none"
    return "text" if "text" in kinds else "math"


def _kind_of_part(part: str) -> GoldKind:
    parsed = _parse(part)
    if verify(parsed, parsed, timeout_seconds=None):
        return "math"
    with_text = parse(f"${part}$", parsing_timeout=None)
    return "text" if verify(with_text, with_text, timeout_seconds=None) else "none"


def _parts(gold: str, is_list: bool | None) -> list[str]:
    parts = split_list(gold, is_list=bool(is_list))
    return split_list(gold, is_list=True) if len(parts) > 1 else parts


@lru_cache(maxsize=4096)
def _parse(expression: str) -> list[Any]:
    r"""Without math-verify's fallback to a string, in which "units" are lost: ``\sin^2 t`` would equal ``\sin^2 m``."""
    expression = _AROUND_OPERATORS.sub(r"\1", expression)  # else "a + b + c" is read as "a +" with units
    return parse(f"${expression}$", parsing_timeout=None, fallback_mode="no_fallback")


def _is_same(gold: str, answer: str) -> bool:
    if compact(gold) == compact(answer):
        return True
    gold_value, answer_value = plain_number(gold), plain_number(answer)
    if gold_value is not None and answer_value is not None:
        if gold_value == answer_value:
            return True
        if gold_value.denominator == 1:
            return False
    return verify(_parse(gold), _parse(answer), timeout_seconds=None)


def _is_same_multiset(gold_parts: list[str], answer_parts: list[str]) -> bool:
    left = list(answer_parts)
    for gold in gold_parts:
        match = next((answer for answer in left if _is_same(gold, answer)), None)
        if match is None:
            return False
        left.remove(match)
    return True
