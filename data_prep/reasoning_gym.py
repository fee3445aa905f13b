"""Problems from the generators of reasoning-gym, graded by difficulty: ``python -m data_prep reasoning_gym``.

Each task has its own generator and its own scoring, and no file is needed. A level of difficulty is reasoning-gym's own
(``set_global_level`` of the task's curriculum; 0 is the easiest). The responses are graded by
:mod:`recipe.prepo.reward.reasoning_gym`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.common import Summary, build_row, write_parquet
from data_prep.prepare import PromptStyle, question_hash
from data_prep.spec import Problem
from recipe.prepo.config import did_you_mean
from recipe.prepo.errors import ConfigError
from recipe.prepo.reward.reasoning_gym import load_reasoning_gym

NAME = "reasoning_gym"
INSTRUCTION = "Answer with just the final answer."
DRAWS_PER_ROW = 20  # an easy task has few different problems, so most draws may repeat earlier ones


def prepare_reasoning_gym(
    out_dir: Path,
    *,
    tasks: Sequence[str],
    levels: Sequence[int],
    num_train: int,
    num_test: int,
    seed: int,
    style: PromptStyle,
) -> list[Summary]:
    """Write ``reasoning_gym_{train,test}.parquet`` with equal shares of each task and level.

    The held-out problems are drawn first, from another seed, and none of them is in the training set. A share that has
    too few different problems is smaller.

    Raises:
        ConfigError: reasoning-gym is not installed or does not know a task or level.
    """
    shares = [(task, level) for task in tasks for level in levels]
    generators = {share: _generator(*share) for share in shares}
    seen: set[str] = set()
    summaries = []
    for split, number, split_seed in (("test", num_test, seed + 1_000_003), ("train", num_train, seed)):
        summary = Summary(NAME, split, f"{NAME}: {', '.join(tasks)}", out_dir / f"{NAME}_{split}.parquet")
        rows: list[dict[str, Any]] = []
        for i, (task, level) in enumerate(shares):
            wanted = number * (i + 1) // len(shares) - number * i // len(shares)
            found = [
                _row(task, level, *drawn, split, style)
                for drawn in _new(generators[task, level], split_seed, wanted, seen)
            ]
            if len(found) < wanted:
                summary.flag("fewer_different_problems", f"{task}, level {level}", f"{len(found)} of {wanted}")
            rows += found
        write_parquet(rows, summary.path)
        summary.num_read = summary.num_kept = len(rows)
        summary.write()
        summaries.append(summary)
    return summaries[::-1]


def _generator(task: str, level: int) -> Any:
    """Makes the data set of a task for a seed and a size."""
    gym = load_reasoning_gym()
    from reasoning_gym.factory import CURRICULA, create_curriculum

    if task not in CURRICULA:
        hint = did_you_mean(task, CURRICULA) or f" Known: {', '.join(sorted(CURRICULA))}."
        raise ConfigError(f"--tasks {task}: reasoning-gym has no such task with levels.{hint}")
    if level < 0:
        raise ConfigError(f"--difficulty {level}: levels count from 0, the easiest.")
    curriculum = create_curriculum(task)
    curriculum.set_global_level(level)
    options = vars(curriculum.generate_configuration())
    return lambda seed, size: gym.create_dataset(task, **options | {"seed": seed, "size": size})


def _new(generator: Any, seed: int, wanted: int, seen: set[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Index and entry of the first ``wanted`` problems that were not seen before."""
    for index, entry in enumerate(generator(seed, max(1, wanted * DRAWS_PER_ROW))):
        if wanted == 0:
            return
        if entry["question"] not in seen:
            seen.add(entry["question"])
            wanted -= 1
            yield index, entry


def _row(task: str, level: int, index: int, entry: dict[str, Any], split: str, style: PromptStyle) -> dict[str, Any]:
    problem = Problem(entry["question"], entry["answer"])
    return build_row(
        data_source=f"{NAME}/{task}",
        messages=style.messages(problem),
        ground_truth=problem.gold,
        prompt_id=f"{NAME}/{task}/{question_hash(problem)}",
        split=split,
        index=index,
        extra={"level": str(level), "entry": json.dumps(entry["metadata"], default=str)},
    )
