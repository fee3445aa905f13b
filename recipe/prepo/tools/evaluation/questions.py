"""Sets of questions from parquet files in verl's form."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recipe.prepo.errors import DataError
from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rows import COLUMNS, validate_files, validate_rows


@dataclass(frozen=True)
class Question:
    """One row: the chat messages, and what the reward function needs."""

    prompt_id: str
    messages: list[dict[str, str]]
    data_source: str
    ground_truth: Any
    extra_info: dict[str, Any]


@dataclass(frozen=True)
class QuestionSet:
    """One file. ``name`` is the file's without ``.parquet``; ``sha256`` is that of the whole file."""

    name: str
    path: str
    sha256: str
    questions: tuple[Question, ...]


def load_sets(paths: Sequence[Path], *, max_questions: int | None = None, seed: int = 0) -> list[QuestionSet]:
    """Read and check the files; each is one set.

    In a file without any ``extra_info.prompt_id``, rows get ``<file name>/<row number>``.

    Args:
        max_questions: draw this many questions of each set, by the seed. Smaller sets are taken whole.

    Raises:
        DataError: a file is missing or breaks the data contract (:mod:`recipe.prepo.rows`), two files have one name,
            or two questions have one prompt_id.
    """
    named: dict[str, Path] = {}
    for path in paths:
        if path.stem in named:
            raise DataError(
                f"--data: {named[path.stem]} and {path} are both called {path.stem}, and results are identified by that"
                f" name. Rename one of them."
            )
        named[path.stem] = path
    sets = [_load(path) for path in paths]
    owners: dict[str, str] = {}
    for one in sets:
        for question in one.questions:
            if owners.setdefault(question.prompt_id, one.path) != one.path:
                raise DataError(
                    f"extra_info.prompt_id {question.prompt_id!r} is in {owners[question.prompt_id]} and in {one.path};"
                    f" samples are stored under it. Leave one of the files out of --data."
                )
    return [_draw(one, max_questions, seed) for one in sets]


def _load(path: Path) -> QuestionSet:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"--data {path} {what}. Give parquet files, such as those of python -m data_prep.")
    try:
        schema = pq.read_schema(path)
        info = schema.field("extra_info").type if "extra_info" in schema.names else None
        lacks_ids = info is not None and pa.types.is_struct(info) and info.get_field_index("prompt_id") < 0
        if not lacks_ids:
            validate_files([path])
        rows = pq.read_table(path, columns=list(COLUMNS)).to_pylist()
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise DataError(f"--data {path} cannot be read as a parquet file in verl's form: {error}") from error
    if lacks_ids:
        for number, row in enumerate(rows):
            row["extra_info"] = {**(row["extra_info"] or {}), "prompt_id": f"{path.stem}/{number}"}
        validate_rows(pa.Table.from_pylist(rows), name=str(path))
    return QuestionSet(path.stem, str(path.absolute()), file_sha256(path), tuple(map(_question, rows)))


def _question(row: dict[str, Any]) -> Question:
    return Question(
        prompt_id=row["extra_info"]["prompt_id"],
        messages=[{"role": message["role"], "content": message["content"]} for message in row["prompt"]],
        data_source=row["data_source"],
        ground_truth=row["reward_model"]["ground_truth"],
        extra_info=row["extra_info"],
    )


def _draw(one: QuestionSet, max_questions: int | None, seed: int) -> QuestionSet:
    if max_questions is None or max_questions >= len(one.questions):
        return one
    drawn = make_generator(seed, f"questions of {one.name}").permutation(len(one.questions))[:max_questions]
    return replace(one, questions=tuple(one.questions[i] for i in sorted(drawn.tolist())))


def file_sha256(path: Path) -> str:
    """Hexadecimal digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
