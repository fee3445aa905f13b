"""The data contract: what a training or validation row must hold, and its check.

A data file is a parquet file with verl's columns: ``data_source`` (text), ``prompt`` (chat messages: a list of
``{role, content}``), ``ability`` (text), ``reward_model`` (``{style, ground_truth}``) and ``extra_info`` (a struct).
This project adds one rule: ``extra_info.prompt_id`` is unique text, because statistics, audit lines and resumed runs
refer to prompts by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recipe.prepo.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
COLUMNS = ("data_source", "prompt", "reward_model", "extra_info")
_LEAVES = ["data_source", "prompt", "reward_model.ground_truth", "extra_info.prompt_id"]
_REMAKE = "Make the file with `python -m data_prep <dataset> --source <hub id or path> --out DIR`"


def build_row(
    *,
    data_source: str,
    ground_truth: str,
    prompt_id: str,
    split: str,
    index: int,
    question: str = "",
    messages: Sequence[Mapping[str, str]] | None = None,
    ability: str = "math",
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One row in verl's form. Give either ``question`` (it becomes one user message) or ``messages``.

    ``extra`` is added to ``extra_info``. It may not replace ``prompt_id``, ``split`` or ``index``.
    """
    return {
        "data_source": data_source,
        "prompt": [dict(message) for message in messages or [{"role": "user", "content": question}]],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": ground_truth},
        "extra_info": dict(prompt_id=prompt_id, split=split, index=index, **(extra or {})),
    }


def validate_rows(table: pa.Table, *, name: str) -> None:
    """Check every row of ``table``; ``name`` stands for it in messages and is usually the file's path.

    Raises:
        DataError: names ``name``, the first bad row (counted from 0), the field and the remedy. Refused are a missing
            column, an empty or malformed prompt, a ``prompt_id`` that is missing, not text or not unique, and an empty
            gold answer.
    """
    _check_unique({name: _check_rows(table.schema, table.to_batches(), name)})


def validate_files(paths: Iterable[str | Path]) -> int:
    """Check parquet files that are used together; returns the number of their rows. Reads only what it checks.

    Raises:
        DataError: as :func:`validate_rows`; also for a file that is missing or not parquet, and for a ``prompt_id``
            that is in two of the files.
    """
    ids: dict[str, pa.ChunkedArray] = {}
    for name in map(str, paths):
        if name in ids:
            raise DataError(f"{name}: this data file is listed twice, which would double its prompts. List it once.")
        with open_parquet(name) as file:
            ids[name] = _check_rows(file.schema_arrow, file.iter_batches(columns=_LEAVES), name)
    _check_unique(ids)
    return sum(map(len, ids.values()))


def data_sources(paths: Iterable[str | Path]) -> set[str]:
    """The data sources in parquet files that have passed :func:`validate_files`."""
    columns = (open_parquet(path).read(columns=["data_source"]).column(0) for path in paths)
    return {source for column in columns for source in pc.unique(column).to_pylist()}


def open_parquet(path: str | Path) -> pq.ParquetFile:
    """Open a data file, or raise a DataError that says how to make one."""
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        what = f"cannot be read as parquet ({error})" if Path(path).is_file() else "does not exist, or is no file"
        raise DataError(f"data file {path} {what}. Correct the path, or: {_REMAKE}.") from error


def _check_rows(schema: pa.Schema, batches: Iterable[pa.RecordBatch], name: str) -> pa.ChunkedArray:
    """Check the columns, then each batch; returns the prompt ids."""

    def fail(row: int, field: str, what: str) -> NoReturn:
        raise DataError(f"{name}: row {row} (counted from 0), field {field}: {what}. Repair the row, or: {_REMAKE}.")

    if missing := [column for column in COLUMNS if column not in schema.names]:
        found = ", ".join(schema.names)
        raise DataError(f"{name}: column {', '.join(missing)} is missing (found: {found}). {_REMAKE}.")
    for column, field in (("extra_info", "prompt_id"), ("reward_model", "ground_truth")):
        if field not in _fields(type_ := schema.field(column).type):
            fail(0, f"{column}.{field}", f"it is missing ({column} is {type_})")
    type_ = schema.field("prompt").type
    if not _is_list(type_) or not {"role", "content"} <= _fields(type_.value_type):
        fail(0, "prompt", f"it is {type_}, but must be chat messages: a list of {{role, content}}")
    ids, start = [], 0
    for batch in batches:
        prompts = batch.column("prompt")
        messages, row_of_message = pc.list_flatten(prompts), pc.list_parent_indices(prompts)
        roles = pc.struct_field(messages, "role")
        prompt_ids = pc.struct_field(batch.column("extra_info"), "prompt_id")
        # Golds of other types than text are left to the reward function that reads them.
        for field, values, row_of_value, must_be_text in (
            ("data_source", batch.column("data_source"), None, True),
            ("prompt", prompts, None, False),
            ("prompt.role", roles, row_of_message, True),
            ("prompt.content", pc.struct_field(messages, "content"), row_of_message, True),
            ("reward_model.ground_truth", pc.struct_field(batch.column("reward_model"), "ground_truth"), None, False),
            ("extra_info.prompt_id", prompt_ids, None, True),
        ):
            if pa.types.is_dictionary(values.type):  # a categorical column of pandas
                values = values.dictionary_decode()
            if (at := pc.index(_is_empty(values), True).as_py()) >= 0:
                fail(start + (row_of_value[at].as_py() if row_of_value else at), field, "it is missing or empty")
            if must_be_text and not _is_text(values.type):
                fail(start, field, f"it is {values[0].as_py()!r} ({values.type}), but must be text")
        if (at := pc.index(pc.is_in(roles, value_set=pa.array(ROLES, roles.type)), False).as_py()) >= 0:
            what = f"role {roles[at].as_py()!r} is none of {', '.join(ROLES)}"
            fail(start + row_of_message[at].as_py(), "prompt.role", what)
        ids.append(prompt_ids.cast(pa.large_string()))
        start += len(batch)
    if start == 0:
        raise DataError(f"{name}: the file has no rows. {_REMAKE}.")
    return pa.chunked_array(ids)


def _fields(type_: pa.DataType) -> set[str]:
    return {field.name for field in type_} if pa.types.is_struct(type_) else set()


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_)


def _is_text(type_: pa.DataType) -> bool:
    return pa.types.is_string(type_) or pa.types.is_large_string(type_)


def _is_empty(values: pa.Array) -> pa.Array:
    """True where a value is null, blank text or an empty list."""
    if _is_text(values.type):
        lengths = pc.utf8_length(pc.utf8_trim_whitespace(values))
    elif _is_list(values.type):
        lengths = pc.list_value_length(values)
    else:
        return pc.is_null(values)
    return pc.fill_null(pc.equal(lengths, 0), True)


def _check_unique(ids: Mapping[str, pa.ChunkedArray]) -> None:
    by_file_and_row = pd.concat({name: column.to_pandas() for name, column in ids.items()})
    repeated = by_file_and_row[by_file_and_row.duplicated()]
    if not repeated.empty:
        prompt_id = repeated.iloc[0]
        (first, row), (second, again) = by_file_and_row[by_file_and_row == prompt_id].index[:2]
        rows = f"rows {row} and {again}" if first == second else f"row {row} and {second} row {again}"
        raise DataError(
            f"{first}: {rows} (counted from 0), field extra_info.prompt_id: both are {prompt_id!r}, but it must be"
            f" unique in all files that are used together, because statistics are stored under it. Drop one of the"
            f" rows, or: {_REMAKE}."
        )
