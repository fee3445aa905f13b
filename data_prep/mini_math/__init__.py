"""Mini-math: a generated data set, and a model small enough to learn it by RL on a CPU in minutes."""

from __future__ import annotations

from pathlib import Path

from data_prep.common import Summary, build_row, write_parquet
from data_prep.mini_math.task import Problem, Split, Task, sample_pool

DATA_SOURCE = "mini_math"


def prepare(
    out_dir: Path, *, num_train: int = 3_000, num_test: int = 300, seed: int = 0, task: Task = "words"
) -> list[Summary]:
    """Write ``mini_math_train.parquet`` and ``mini_math_test.parquet``; the same arguments give the same files.

    A question's text alone decides which file it may be in, so no question is in both, whatever the seeds.

    Raises:
        DataError: a number is below 1, or above the number of distinct questions that were found.
    """
    return [
        _write_split(out_dir, "train", num_train, seed, task),
        _write_split(out_dir, "test", num_test, seed, task),
    ]


def _write_split(out_dir: Path, split: Split, num_problems: int, seed: int, task: Task) -> Summary:
    problems = sample_pool(num_problems, split=split, seed=seed, task=task)
    path = out_dir / f"{DATA_SOURCE}_{split}.parquet"
    write_parquet([_row(problem, split, index) for index, problem in enumerate(problems)], path)
    summary = Summary(DATA_SOURCE, split, f"generated, seed {seed}", path, num_problems, num_problems)
    summary.write()
    return summary


def _row(problem: Problem, split: Split, index: int) -> dict[str, object]:
    return build_row(
        data_source=DATA_SOURCE,
        question=problem.question,
        ground_truth=str(problem.answer),
        prompt_id=problem.prompt_id,
        split=split,
        index=index,
        extra={"num_ops": problem.num_ops, "scale": problem.scale},
    )
