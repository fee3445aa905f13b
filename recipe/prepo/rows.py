"""The contract of a training or validation row, and its check.

A data file is a parquet file with verl's columns: ``data_source`` (text), ``prompt`` (chat messages: a list of
``{role, content}``), ``ability`` (text), ``reward_model`` (``{style, ground_truth}``) and ``extra_info`` (a struct).
This project adds one rule: ``extra_info.prompt_id`` is text and unique, because per-prompt statistics, audit lines and
resumed runs refer to prompts by it.
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
_COLUMNS = ("data_source", "prompt", "reward_model", "extra_info")
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
    """One row in verl's form. Give either ``question`` (becomes one user message) or ``messages``.

    ``extra`` is added to ``extra_info``; it may not replace ``prompt_id``, ``split`` or ``index``.

    >>> row = build_row(data_source="d", question="1+1?", ground_truth="2", prompt_id="d/0", split="train", index=0)
    >>> row["prompt"], row["reward_model"]
    ([{'role': 'user', 'content': '1+1?'}], {'style': 'rule', 'ground_truth': '2'})
    >>> row["extra_info"]
    {'prompt_id': 'd/0', 'split': 'train', 'index': 0}
    """
    assert (question is None) != (messages is None), "give either question or messages"
    own = {"prompt_id": prompt_id, "split": split, "index": index}
    extra = dict(extra or {})
    assert not own.keys() & extra.keys(), f"extra may not set {sorted(own.keys() & extra.keys())}"
    if messages is None:
        messages = [{"role": "user", "content": question or ""}]
    return {
        "data_source": data_source,
        "prompt": [{"role": m["role"], "content": m["content"]} for m in messages],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": ground_truth},
        "extra_info": {**own, **extra},
    }


def validate_rows(table: pd.DataFrame | pa.Table, *, name: str) -> None:
    """Check every row of ``table`` against the contract.

    Args:
        table: the rows; a pandas frame or an Arrow table.
        name: what to call it in messages, usually the file's path.

    Raises:
        DataError: naming ``name``, the row (counted from 0) and the field of the first offence: a missing column, an
            empty or malformed prompt, a ``prompt_id`` that is missing, not text or not unique, an empty gold.
    """
    if isinstance(table, pd.DataFrame):
        table = _to_arrow(table, name)
    _check_columns(table.schema, name)
    _check_unique({name: _check_batches(table.to_batches(), name)})


def validate_files(paths: Iterable[str | Path]) -> int:
    """Check parquet files that are used together (concatenated), reading only the columns that the contract needs.

    Returns:
        The number of rows of all files together.

    Raises:
        DataError: as :func:`validate_rows`; also for a file that is missing or not parquet, and for a ``prompt_id``
            that stands in two of the files.
    """
    ids: dict[str, pa.ChunkedArray] = {}
    for path in map(Path, paths):
        name = str(path)
        if name in ids:
            raise DataError(
                f"{name}: listed twice among the data files. Every prompt would be there twice; list it once."
            )
        parquet = _open_parquet(path)
        with parquet:
            _check_columns(parquet.schema_arrow, name)
            columns = ["data_source", "prompt", "reward_model.ground_truth", "extra_info.prompt_id"]
            ids[name] = _check_batches(parquet.iter_batches(batch_size=65_536, columns=columns), name)
    _check_unique(ids)
    return sum(len(column) for column in ids.values())


def data_sources(paths: Iterable[str | Path]) -> set[str]:
    """The data sources in parquet files that have passed :func:`validate_files`."""
    return {
        source
        for path in paths
        for source in pc.unique(_open_parquet(Path(path)).read(columns=["data_source"]).column(0)).to_pylist()
    }


def _open_parquet(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise DataError(f"data file {path} {what}. {_REMAKE}, or correct the path in the configuration.")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"data file {path} cannot be read as parquet ({error}). {_REMAKE}.") from error


def _fail(name: str, row: int, field: str, what: str) -> NoReturn:
    raise DataError(f"{name}: row {row} (counted from 0), field {field}: {what}. Mend the row, or: {_REMAKE}.")


def _first(mask: pa.Array) -> int:
    """Position of the first true value; -1 when there is none."""
    return pc.index(mask, True).as_py()


def _has_field(type_: pa.DataType, field: str) -> bool:
    return pa.types.is_struct(type_) and type_.get_field_index(field) >= 0


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return pa.types.is_string(type_) or pa.types.is_large_string(type_)


def _check_columns(schema: pa.Schema, name: str) -> None:
    missing = [column for column in _COLUMNS if schema.get_field_index(column) < 0]
    if missing:
        raise DataError(
            f"{name}: column {', '.join(missing)} is missing (found: {', '.join(schema.names)}). {_REMAKE}."
        )
    for column, field in (("extra_info", "prompt_id"), ("reward_model", "ground_truth")):
        type_ = schema.field(column).type
        if not _has_field(type_, field):
            _fail(name, 0, f"{column}.{field}", f"it is missing ({column} is {type_})")
    prompt = schema.field("prompt").type
    is_list = pa.types.is_list(prompt) or pa.types.is_large_list(prompt)
    if not is_list or not (_has_field(prompt.value_type, "role") and _has_field(prompt.value_type, "content")):
        _fail(name, 0, "prompt", f"it is {prompt}, but must be chat messages: a list of {{role, content}}")


def _check_batches(batches: Iterable[pa.RecordBatch], name: str) -> pa.ChunkedArray:
    """Check each batch; returns the column of prompt ids."""
    ids, start = [], 0
    for batch in batches:
        _check_text(batch.column("data_source"), name, start, "data_source")
        _check_prompts(batch.column("prompt"), name, start)
        _check_golds(pc.struct_field(batch.column("reward_model"), "ground_truth"), name, start)
        prompt_ids = pc.struct_field(batch.column("extra_info"), "prompt_id")
        _check_text(prompt_ids, name, start, "extra_info.prompt_id")
        ids.append(prompt_ids.cast(pa.large_string()))
        start += len(batch)
    if start == 0:
        raise DataError(f"{name}: the file has no rows. {_REMAKE}.")
    return pa.chunked_array(ids, type=pa.large_string())


def _check_text(values: pa.Array, name: str, start: int, field: str) -> None:
    if (row := _first(pc.is_null(values))) >= 0:
        _fail(name, start + row, field, "it is missing (null)")
    if not _is_text(values.type):
        _fail(name, start, field, f"it is {values[0].as_py()!r} ({values.type}), but must be text")
    if (row := _first(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0))) >= 0:
        _fail(name, start + row, field, "it is empty")


def _check_prompts(prompts: pa.Array, name: str, start: int) -> None:
    if (row := _first(pc.is_null(prompts))) >= 0:
        _fail(name, start + row, "prompt", "it is missing (null)")
    if (row := _first(pc.equal(pc.list_value_length(prompts), 0))) >= 0:
        _fail(name, start + row, "prompt", "it has no messages")
    messages, parents = pc.list_flatten(prompts), pc.list_parent_indices(prompts)
    for field in ("role", "content"):
        values = pc.struct_field(messages, field)
        if not _is_text(values.type):
            _fail(name, start, f"prompt.{field}", f"it is {values.type}, but must be text")
        bad = pc.or_(pc.is_null(values), pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(values)), 0))
        if (message := _first(pc.fill_null(bad, True))) >= 0:
            _fail(name, start + parents[message].as_py(), f"prompt.{field}", "a message has none (null or empty)")
    roles = pc.struct_field(messages, "role")
    if (message := _first(pc.invert(pc.is_in(roles, value_set=pa.array(ROLES, roles.type))))) >= 0:
        what = f"role {roles[message].as_py()!r} is none of {', '.join(ROLES)}"
        _fail(name, start + parents[message].as_py(), "prompt.role", what)


def _check_golds(golds: pa.Array, name: str, start: int) -> None:
    """No gold may be empty; other types than text are left to the reward function that reads them."""
    empty = pc.is_null(golds)
    if _is_text(golds.type):
        empty = pc.or_(empty, pc.fill_null(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(golds)), 0), True))
    elif pa.types.is_list(golds.type):
        empty = pc.or_(empty, pc.fill_null(pc.equal(pc.list_value_length(golds), 0), True))
    if (row := _first(empty)) >= 0:
        _fail(name, start + row, "reward_model.ground_truth", "the gold answer is empty, so no response could be right")


def _check_unique(ids: Mapping[str, pa.ChunkedArray]) -> None:
    together = pa.chunked_array([chunk for column in ids.values() for chunk in column.chunks], type=pa.large_string())
    if pc.count_distinct(together).as_py() == len(together):
        return
    seen: dict[str, tuple[str, int]] = {}
    for name, column in ids.items():
        for row, prompt_id in enumerate(column.to_pylist()):
            if prompt_id in seen:
                _fail_duplicate(prompt_id, seen[prompt_id], (name, row))
            seen[prompt_id] = (name, row)
    raise AssertionError("count_distinct disagrees with the search for the duplicate")


def _fail_duplicate(prompt_id: str, first: tuple[str, int], second: tuple[str, int]) -> NoReturn:
    if first[0] == second[0]:
        where = f"{first[0]}: rows {first[1]} and {second[1]} (counted from 0)"
    else:
        where = f"{first[0]} row {first[1]} and {second[0]} row {second[1]} (counted from 0)"
    raise DataError(
        f"{where}: field extra_info.prompt_id: both are {prompt_id!r}, but it must be unique in all files that are used"
        f" together, because a prompt's statistics are kept by it. Drop one of the rows, or: {_REMAKE}."
    )


def _to_arrow(frame: pd.DataFrame, name: str) -> pa.Table:
    columns = {}
    for column in (c for c in _COLUMNS if c in frame.columns):
        try:
            columns[column] = pa.array(frame[column].tolist(), from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            row, field, what = _find_mixed(frame[column].tolist(), column, error)
            _fail(name, row, field, what)
    if not columns:
        raise DataError(
            f"{name}: column {', '.join(_COLUMNS)} is missing (found: {', '.join(map(str, frame.columns))})."
        )
    return pa.table(columns)


def _find_mixed(values: Sequence[Any], column: str, error: Exception) -> tuple[int, str, str]:
    """Where a column stops being of one type: (row, field, what is wrong)."""
    for row, value in enumerate(values):
        if column == "data_source" and not isinstance(value, str):
            return row, column, f"it is {value!r} ({type(value).__name__}), but must be text"
        if column in ("extra_info", "reward_model"):
            if not isinstance(value, Mapping):
                return row, column, f"it is {value!r} ({type(value).__name__}), but must be a struct"
            if column == "extra_info" and not isinstance(value.get("prompt_id"), str):
                prompt_id = value.get("prompt_id")
                return row, "extra_info.prompt_id", f"it is {prompt_id!r} ({type(prompt_id).__name__}), must be text"
        if column == "prompt" and (isinstance(value, (str, Mapping)) or not _are_messages(value)):
            return row, column, f"it is {value!r}, but must be chat messages: a list of {{role, content}}"
    return 0, column, f"its rows are not of one type ({error})"


def _are_messages(value: Any) -> bool:
    return isinstance(value, Iterable) and all(
        isinstance(m, Mapping) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value
    )
