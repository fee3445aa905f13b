"""Grades responses to reasoning-gym's problems (``data_source`` "reasoning_gym/<task>") with its own scoring."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from recipe.prepo.errors import ConfigError
from recipe.prepo.reward.extract import marked_answer

DATA_SOURCE = "reasoning_gym/"
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")


def load_reasoning_gym() -> Any:
    """The package; it is an optional one.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise ConfigError(
            f"these problems are made and graded by reasoning-gym, which cannot be imported ({error}). Install it: "
            f"pip install 'reasoning-gym>=0.1.25,<0.2' (or this project with the extra [real])."
        ) from error
    return reasoning_gym


@functools.cache
def _scoring(task: str) -> Callable[..., float]:
    scoring: Callable[..., float] = load_reasoning_gym().get_score_answer_fn(task)
    return scoring


def score_response(data_source: str, response: str, gold: str, extra_info: Mapping[str, Any]) -> float:
    """Score in [0, 1] of a response, by the task's own rule.

    The answer is what stands in ``<answer>`` tags or in another mark of a final answer; without a mark, the last number
    of the response if the gold is a number, else its last line.

    >>> _answer("2 + 3 is 5, I think.", "5"), _answer("So:\\nblue", "red"), _answer("<answer> 7</answer> or 8", "7")
    ('5', 'blue', '7')
    """
    entry = {"answer": gold, "metadata": json.loads(extra_info.get("entry") or "{}")}
    return float(_scoring(data_source.removeprefix(DATA_SOURCE))(_answer(response, gold), entry))


def _answer(response: str, gold: str) -> str:
    tagged = re.findall(r"<answer>(.*?)</answer>", response, re.DOTALL)
    if tagged:
        return str(tagged[-1]).strip()
    marked = marked_answer(response)
    if marked:
        return marked
    numbers = NUMBER.findall(response)
    if NUMBER.fullmatch(gold):
        return str(numbers[-1]).rstrip(",") if numbers else ""
    return (response.strip().splitlines() or [""])[-1].strip()
