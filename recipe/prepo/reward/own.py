"""The user's own reward function: loaded as verl 0.9.1 loads it, and called so that every failure says why.

A run puts :func:`grade` in front of the function (:func:`in_front_of`), so that a worker's error names the function,
the prompt, the cause and the line. ``load_reward`` and ``grade_rows`` try a function without a run.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import inspect
import math
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from recipe.prepo.errors import ConfigError, RewardError, root_cause
from recipe.prepo.reward.score import golds_of

KEY = "reward.custom_reward_function"
WANTED = (
    "It must return a finite number, or a dictionary with such a number as 'score' (and 'acc', 1 for correct or 0)."
)
_loading = threading.RLock()  # verl calls from many threads


class _NoRewardError(ValueError):
    """What the function returned is not a reward; the message begins with "returned"."""


def load_reward(function: Mapping[str, Any]) -> Callable[..., Any]:
    """The function that ``reward.custom_reward_function`` names.

    Args:
        function: that section: ``path`` (a file, or ``pkg://package.module``), ``name``, ``reward_kwargs``.

    Raises:
        ConfigError: the file is missing, does not import (names its line), or has no such function.
    """
    with _loading:
        return _load(str(function["path"]), str(function.get("name")))


@functools.cache
def _load(path: str, name: str) -> Callable[..., Any]:
    try:
        module = _import(path)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{KEY}.path={path} does not import: {_cause(error)}. Correct the file or the path."
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if inspect.isfunction(value) and key[0] != "_"]
        raise ConfigError(f"{KEY}.name={name}: {path} has no such function, only {', '.join(names) or 'none'}.")
    return found


def _import(path: str) -> ModuleType:
    if path.startswith("pkg://"):
        return importlib.import_module(path.removeprefix("pkg://").replace("/", "."))
    file = Path(path.removeprefix("file://"))
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    spec = importlib.util.spec_from_file_location(f"prepo_reward_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ImportError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_front_of(function: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``reward.custom_reward_function`` that calls the function through :func:`grade`.

    This recipe's own reward, and a section without a function, stay as they are.

    Raises:
        ConfigError: as :func:`load_reward`.
    """
    section = dict(function)
    if not section.get("path") or str(section["path"]).startswith("pkg://recipe.prepo.reward"):
        return section
    is_async = inspect.iscoroutinefunction(load_reward(section))
    return {
        "path": f"pkg://{__name__}",
        "name": "grade_async" if is_async else "grade",  # verl 0.9.1 awaits by the kind of the function
        "reward_kwargs": {"reward_function": section},
    }


def grade(*, reward_function: Mapping[str, Any], **arguments: Any) -> Any:
    """Call the user's function on one response, with verl's arguments.

    Args:
        reward_function: the section that :func:`load_reward` takes.
        arguments: ``data_source``, ``solution_str``, ``ground_truth``, ``extra_info`` and what else verl gives.

    Returns:
        What the function returned, as plain numbers and texts: a number, or a dictionary with ``score``.

    Raises:
        RewardError: it raised, or returned something else. Names the function, the prompt, the cause and the line.
    """
    function = load_reward(reward_function)
    try:
        return plain(function(**{**arguments, **(reward_function.get("reward_kwargs") or {})}))
    except (Exception, SystemExit) as error:
        raise _failed(reward_function, arguments, error) from error


async def grade_async(*, reward_function: Mapping[str, Any], **arguments: Any) -> Any:
    """:func:`grade` for a coroutine function."""
    function = load_reward(reward_function)
    try:
        return plain(await function(**{**arguments, **(reward_function.get("reward_kwargs") or {})}))
    except (Exception, SystemExit) as error:
        raise _failed(reward_function, arguments, error) from error


def grade_row(function: Mapping[str, Any], row: Mapping[str, Any], response: str) -> dict[str, Any]:
    """What the function returns for a response to a row, without a run: a dictionary with ``score``.

    Args:
        function: as in :func:`load_reward`.
        row: has verl's columns ``data_source``, ``reward_model`` and ``extra_info``.

    Raises:
        ConfigError, RewardError: as :func:`load_reward` and :func:`grade`.
    """
    arguments = {
        "data_source": row["data_source"],
        "solution_str": response,
        "ground_truth": row["reward_model"]["ground_truth"],
        "extra_info": {**(row.get("extra_info") or {}), "num_turns": None, "rollout_reward_scores": {}},  # as verl
    }
    if inspect.iscoroutinefunction(load_reward(function)):
        result = asyncio.run(grade_async(reward_function=function, **arguments))
    else:
        result = grade(reward_function=function, **arguments)
    return result if isinstance(result, dict) else {"score": result}


def grade_rows(function: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The scores of each row's first gold answer, in a box and, last, behind ``####``; errors as :func:`grade_row`."""
    golds = ["".join(golds_of(row["reward_model"]["ground_truth"])[:1]) for row in rows]
    responses = [f"\\boxed{{{gold}}}\n#### {gold}" for gold in golds]
    return [float(grade_row(function, *each)["score"]) for each in zip(rows, responses, strict=True)]


def plain(result: Any) -> Any:
    """A reward as plain Python values; other entries of a dictionary become text, and None is left out.

    Raises:
        ValueError: the score is not a finite number.
    """
    if not isinstance(result, Mapping):
        return _number(result, "returned")
    if "score" not in result:
        raise _NoRewardError(
            f"returned a dictionary without 'score' (its keys: {', '.join(map(str, result)) or 'none'})"
        )
    values = {str(key): _value(value) for key, value in result.items() if value is not None}
    return {**values, "score": _number(result["score"], "returned 'score':")}


def _number(value: Any, what: str) -> float:
    number = _value(value)
    if not isinstance(number, int | float) or not math.isfinite(number):
        raise _NoRewardError(f"{what} {value!r}")
    return number


def _value(value: Any) -> Any:
    if hasattr(value, "item") and getattr(value, "size", None) != 0:  # scalars of NumPy and torch
        try:
            value = value.item()
        except (ValueError, RuntimeError):
            value = value.tolist()
    return value if value is None or isinstance(value, int | float | str) else str(value)


def _failed(function: Mapping[str, Any], arguments: Mapping[str, Any], error: BaseException) -> RewardError:
    is_mine = isinstance(error, _NoRewardError)
    prompt = (arguments.get("extra_info") or {}).get("prompt_id")
    return RewardError(
        f"the reward function {function.get('name')} of {function['path']} "
        f"{error if is_mine else f'raised {_cause(error)}'} for prompt {prompt!r} (data source "
        f"'{arguments.get('data_source')}')." + (f" {WANTED}" if is_mine else "")
    )


def _cause(error: BaseException) -> str:
    return root_cause("".join(traceback.format_exception(error, chain=False)))
