"""A reward function for ``benchmarks.faults``: this recipe's own, which sometimes hangs or raises.

Only incorrect answers hang, so that the rewards stay those of an undisturbed run. Files in the folder
``PREPO_FAULTS_DIR`` choose the next fault; each file is used once: ``grader-N`` (a comparison that never ends in the
grading process), ``function-N`` (the reward function never returns) and ``error-N`` (it raises). While a file
``errors`` exists, every answer raises.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from recipe.prepo.reward.score import compute_score as grade

ENDLESS = r"\boxed{9^{9^{9^{9}}}}"
_never = threading.Event()


def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Any = None, **kwargs: Any
) -> dict[str, float]:
    """As :func:`recipe.prepo.reward.score.compute_score`."""
    result = grade(data_source, solution_str, ground_truth, extra_info, **kwargs)
    folder = Path(os.environ["PREPO_FAULTS_DIR"])
    kind = "" if result["score"] else _take(folder)
    if kind == "error" or (folder / "errors").exists():
        raise KeyError("answer")
    if kind == "grader":
        return grade("math", ENDLESS, "17", time_limit_s=2.0)
    if kind == "function":
        _never.wait()
    return result


def _take(folder: Path) -> str:
    for file in sorted(folder.glob("[!.]*-*")):  # a leading dot marks used files
        try:
            file.rename(folder / f".used.{file.name}")
        except FileNotFoundError:  # another thread took it
            continue
        return file.name.partition("-")[0]
    return ""
