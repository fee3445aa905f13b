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
    question: str | None = None,
    messages: Sequence[Mapping[str, str]] | None = None,
    ability: str = "math",
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One row in verl's form. Give either ``question`` (it becomes one user message) or ``messages``.

    ``extra`` is added to ``extra_info``. It may not replace ``prompt_id``, ``split`` or ``index``.

    >>> row = build_row(data_source="d", question="1+1?", ground_truth="2", prompt_id="d/0", split="train", index=0)
    >>> row["prompt"], row["reward_model"]
    ([{'role': 'user', 'content': '1+1?'}], {'style': 'rule', 'ground_truth': '2'})
    >>> row["extra_info"]
    {'prompt_id': 'd/0', 'split': 'train', 'index': 0}
    """
    assert (question is None) != (messages is None), "give either question or messages"
    own = {"prompt_id": prompt_id, "split": split, "index": index}
    extra = extra or {}
    assert not own.keys() & extra.keys(), f"extra may not set {', '.join(own)}"
    if messages is None:
        messages = [{"role": "user", "content": question or ""}]
    return {
        "data_source": data_source,
        "prompt": [{"role": m["role"], "content": m["content"]} for m in messages],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": ground_truth},
        "extra_info": {**own, **extra},
    }


def validate_rows(table: pa.Table, *, name: str) -> None:
    """Check every row of ``table``; ``name`` stands for it in messages and is usually the file's path.

    Raises:
        DataError: names ``name``, the first bad row (counted from 0), the field and the remedy. Refused are a missing
            column, an empty or malformed prompt, a ``prompt_id`` that is missing, not text or not unique, and an empty
            gold answer.
    """
    _check_columns(table.schema, name)
    _check_unique({name: _check_batches(table.to_batches(), name)})


def validate_files(paths: Iterable[str | Path]) -> int:
    """Check parquet files that are used together. Reads only the columns that the contract needs.

    Returns:
        The number of rows of all files together.

    Raises:
        DataError: as :func:`validate_rows`; also for a file that is missing or not parquet, and for a ``prompt_id``
            that is in two of the files.
    """
    ids: dict[str, pa.ChunkedArray] = {}
    for path in map(Path, paths):
        name = str(path)
        if name in ids:
            raise DataError(f"{name}: this data file is listed twice, which would double its prompts. List it once.")
        with _open_parquet(path) as parquet:
            _check_columns(parquet.schema_arrow, name)
            ids[name] = _check_batches(parquet.iter_batches(columns=_LEAVES), name)
    _check_unique(ids)
    return sum(map(len, ids.values()))


def data_sources(paths: Iterable[str | Path]) -> set[str]:
    """The data sources in parquet files that have passed :func:`validate_files`."""
    columns = (_open_parquet(Path(path)).read(columns=["data_source"]).column(0) for path in paths)
    return {source for column in columns for source in pc.unique(column).to_pylist()}


def _open_parquet(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise DataError(f"data file {path} {what}. {_REMAKE}, or correct the path in the configuration.")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"data file {path} cannot be read as parquet ({error}). {_REMAKE}.") from error


def _fail(name: str, row: int, field: str, what: str) -> NoReturn:
    raise DataError(f"{name}: row {row} (counted from 0), field {field}: {what}. Repair the row, or: {_REMAKE}.")


def _has_field(type_: pa.DataType, field: str) -> bool:
    return pa.types.is_struct(type_) and type_.get_field_index(field) >= 0


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_)


def _is_text(type_: pa.DataType) -> bool:
    return pa.types.is_string(type_) or pa.types.is_large_string(type_)


def _check_columns(schema: pa.Schema, name: str) -> None:
    missing = [column for column in COLUMNS if schema.get_field_index(column) < 0]
    if missing:
        raise DataError(
            f"{name}: column {', '.join(missing)} is missing (found: {', '.join(schema.names)}). {_REMAKE}."
        )
    for column, field in (("extra_info", "prompt_id"), ("reward_model", "ground_truth")):
        if not _has_field(type_ := schema.field(column).type, field):
            _fail(name, 0, f"{column}.{field}", f"it is missing ({column} is {type_})")
    prompt = schema.field("prompt").type
    if not (_is_list(prompt) and _has_field(prompt.value_type, "role") and _has_field(prompt.value_type, "content")):
        _fail(name, 0, "prompt", f"it is {prompt}, but must be chat messages: a list of {{role, content}}")


def _check_batches(batches: Iterable[pa.RecordBatch], name: str) -> pa.ChunkedArray:
    """Check each batch; returns the column of prompt ids."""
    ids, start = [], 0
    for batch in batches:
        prompts = batch.column("prompt")
        messages, row_of_message = pc.list_flatten(prompts), pc.list_parent_indices(prompts)
        roles = pc.struct_field(messages, "role")
        prompt_ids = pc.struct_field(batch.column("extra_info"), "prompt_id")
        golds = pc.struct_field(batch.column("reward_model"), "ground_truth")
        # Golds of other types than text are left to the reward function that reads them.
        for field, values, rows, must_be_text in (
            ("data_source", batch.column("data_source"), None, True),
            ("prompt", prompts, None, False),
            ("prompt.role", roles, row_of_message, True),
            ("prompt.content", pc.struct_field(messages, "content"), row_of_message, True),
            ("reward_model.ground_truth", golds, None, False),
            ("extra_info.prompt_id", prompt_ids, None, True),
        ):
            if pa.types.is_dictionary(values.type):  # a categorical column of pandas
                values = values.dictionary_decode()
            if (at := _first(_is_empty(values))) >= 0:
                row = at if rows is None else rows[at].as_py()
                _fail(name, start + row, field, "it is missing or empty")
            if must_be_text and not _is_text(values.type):
                _fail(name, start, field, f"it is {values[0].as_py()!r} ({values.type}), but must be text")
        if (at := _first(pc.invert(pc.is_in(roles, value_set=pa.array(ROLES, roles.type))))) >= 0:
            what = f"role {roles[at].as_py()!r} is none of {', '.join(ROLES)}"
            _fail(name, start + row_of_message[at].as_py(), "prompt.role", what)
        ids.append(prompt_ids.cast(pa.large_string()))
        start += len(batch)
    if start == 0:
        raise DataError(f"{name}: the file has no rows. {_REMAKE}.")
    return pa.chunked_array(ids, type=pa.large_string())


def _first(mask: pa.Array) -> int:
    """Position of the first true value; -1 when there is none."""
    return pc.index(mask, True).as_py()


def _is_empty(values: pa.Array) -> pa.Array:
    """True where a value is null, blank text or an empty list."""
    if _is_text(values.type):
        empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0)
    elif _is_list(values.type):
        empty = pc.equal(pc.list_value_length(values), 0)
    else:
        return pc.is_null(values)
    return pc.fill_null(empty, True)


def _check_unique(ids: Mapping[str, pa.ChunkedArray]) -> None:
    by_file_and_row = pd.concat({name: column.to_pandas() for name, column in ids.items()})
    repeated = by_file_and_row[by_file_and_row.duplicated()]
    if repeated.empty:
        return
    prompt_id = repeated.iloc[0]
    (first, row), (second, again) = by_file_and_row[by_file_and_row == prompt_id].index[:2]
    where = f"{first}: rows {row} and {again}"
    if first != second:
        where = f"{first} row {row} and {second} row {again}"
    raise DataError(
        f"{where} (counted from 0), field extra_info.prompt_id: both are {prompt_id!r}, but it must be unique"
        f" in all files that are used together, because statistics are stored under it. Drop one of the rows, or:"
        f" {_REMAKE}."
    )
