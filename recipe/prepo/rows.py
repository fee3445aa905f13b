"""The data contract: what a training or validation row must hold, and its checks.

A data file is parquet or JSON lines with verl's columns: ``data_source`` (text), ``prompt`` (chat messages: a list of
``{role, content}``; ``data.prompt_key`` names another column), ``reward_model`` (``{style, ground_truth}``), and
usually ``ability`` and ``extra_info``. Statistics, audit lines and resumed runs refer to a prompt by
``extra_info.prompt_id``, unique text. A file without that field gets ids that :func:`content_ids` derives.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recipe.prepo.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
MEDIA_KEYS = ("images", "videos", "audios")
SINGLE_TURN = "single_turn_agent"
TOKENIZED_AT_ONCE = 1024


@dataclass
class RowFacts:
    """What :func:`validate_files` found in files that are used together.

    Attributes:
        num_without_id: rows of files without ``extra_info.prompt_id``.
        agent_loops: values of verl's column ``agent_name``; empty without one.
        media: file, row and column of the first image, video or audio; empty if there is none.
        ungradable: file, row and value of the first gold that the default reward can never match; empty if none.
        ids: ids of each file with ``extra_info.prompt_id``, by its name.
    """

    num_rows: int = 0
    num_without_id: int = 0
    data_sources: set[str] = field(default_factory=set)
    agent_loops: set[str] = field(default_factory=set)
    media: str = ""
    ungradable: str = ""
    ids: dict[str, pa.ChunkedArray] = field(default_factory=dict)


def content_ids(prompts: Iterable[Any], golds: Iterable[Any]) -> list[str]:
    """An id for each row from its prompt and gold alone: 16 hex digits of the SHA-256 of their JSON.

    The second row with the same content gets ``-2`` appended, the third ``-3``.

    >>> content_ids([[{"role": "user", "content": "1+1?"}]] * 2, ["2", "2"])
    ['721350edfc80e11f', '721350edfc80e11f-2']
    """
    seen: Counter[str] = Counter()
    ids = []
    for prompt, gold in zip(prompts, golds, strict=True):
        messages = [{key: value for key, value in message.items() if value is not None} for message in prompt]
        text = json.dumps([messages, gold], sort_keys=True, default=str)
        own = hashlib.sha256(text.encode()).hexdigest()[:16]
        seen[own] += 1
        ids.append(own if seen[own] == 1 else f"{own}-{seen[own]}")
    return ids


def validate_rows(table: pa.Table, *, name: str) -> None:
    """Check every row of ``table``; ``name`` stands for it in messages and is usually the file's path.

    Raises:
        DataError: names the first bad row (counted from 0), the field and the remedy. Refused are a missing column, an
            empty or malformed prompt, an id that is not text, not unique or missing in some rows, and an empty gold.
    """
    facts = RowFacts()
    _check_file(name, table.schema, lambda _: table, "prompt", MEDIA_KEYS, facts)
    _check_unique(facts.ids)


def validate_files(
    paths: Iterable[str | Path], *, prompt_key: str = "prompt", media_keys: Sequence[str] = MEDIA_KEYS
) -> RowFacts:
    """Check data files that are used together: :func:`validate_rows`, and whether verl can join their columns."""
    facts, schemas = RowFacts(), dict[str, pa.Schema]()
    for name in map(str, paths):
        if name in schemas:
            raise DataError(f"{name}: this data file is listed twice, which would double its prompts. List it once.")
        schemas[name], read = _open(name)
        _check_file(name, schemas[name], read, prompt_key, media_keys, facts)
    _check_joinable(schemas)
    _check_unique(facts.ids)
    return facts


def read_prompts(
    paths: Iterable[str | Path],
    *,
    prompt_key: str = "prompt",
    max_samples: int = -1,
    shuffle: bool = False,
    seed: int | None = None,
) -> list[list[dict[str, Any]]]:
    """The prompts of checked files; ``max_samples`` drawn as verl 0.9.1 does (``data.shuffle``, ``data.seed``)."""
    prompts = [prompt for path in paths for prompt in _open(str(path))[1]([prompt_key])[prompt_key].to_pylist()]
    if not 0 < max_samples < len(prompts):
        return prompts
    drawn = np.arange(max_samples)
    if shuffle:
        drawn = np.random.default_rng(seed).choice(len(prompts), size=max_samples, replace=False)
    return [prompts[i] for i in drawn]


def read_table(path: str | Path) -> pa.Table:
    """A data file as it is, or a DataError that says how to make one."""
    schema, read = _open(str(path))
    return read(schema.names)


def read_ids(paths: Iterable[str | Path], prompt_key: str = "prompt") -> list[str]:
    """The ids of the rows of files that have passed :func:`validate_files`; a file without ids has derived ones."""
    ids: list[str] = []
    for name in map(str, paths):
        schema, read = _open(name)
        if "extra_info" in schema.names and "prompt_id" in _fields(schema.field("extra_info").type):
            ids += [info["prompt_id"] for info in read(["extra_info.prompt_id"]).column("extra_info").to_pylist()]
        else:
            rows = read([prompt_key, "reward_model.ground_truth"]).to_pylist()
            golds = [row["reward_model"]["ground_truth"] for row in rows]
            ids += content_ids([row[prompt_key] for row in rows], golds)
    return ids


def first_rows(path: str | Path, number: int) -> list[dict[str, Any]]:
    """The first rows of a file that has passed :func:`validate_files`, with the columns that a reward reads."""
    schema, read = _open(str(path))
    names = [name for name in ("data_source", "reward_model", "extra_info") if name in schema.names]
    return read(names).slice(0, number).to_pylist()


def rows_within_limit(
    prompts: Sequence[Any], tokenizer: Any, template_kwargs: Mapping[str, Any], max_prompt_tokens: int
) -> int:
    """How many of these chat messages verl 0.9.1's ``data.filter_overlong_prompts`` leaves.

    Raises:
        DataError: the chat template fails for every prompt.
    """
    options = {**template_kwargs, "add_generation_prompt": True, "tokenize": False}
    texts: list[str] = []
    failure: Exception | None = None
    for prompt in prompts:
        try:
            texts.append(tokenizer.apply_chat_template(prompt, **options))
        except Exception as error:  # templates raise many kinds of error
            failure = error
    if failure and not texts:
        raise DataError(
            f"the model's chat template fails for every prompt: {type(failure).__name__}: {failure}. Set one that takes"
            f" their roles: actor_rollout_ref.model.custom_chat_template=…"
        )
    # A token has at least one byte, so that most prompts need no tokenizer, which takes minutes for long files.
    unclear = [text for text in texts if len(text.encode()) > max_prompt_tokens]
    num_within = len(texts) - len(unclear)
    for start in range(0, len(unclear), TOKENIZED_AT_ONCE):
        tokens = tokenizer(unclear[start : start + TOKENIZED_AT_ONCE], add_special_tokens=False)["input_ids"]
        num_within += sum(len(row) <= max_prompt_tokens for row in tokens)
    return num_within


_Read = Callable[[Sequence[str]], pa.Table]
MAKE = "python -m data_prep own --source FILE_OR_HUB_ID --question KEY --answer KEY --out DIR"


def _open(path: str) -> tuple[pa.Schema, _Read]:
    """The file's schema, and a function that reads some of its columns, as verl 0.9.1 reads them.

    verl takes the suffixes .parquet, .json and .jsonl, and leaves the types of JSON to the library datasets.
    """
    if not Path(path).is_file():
        make = MAKE if Path(path).suffix else MAKE.replace("FILE_OR_HUB_ID", path)
        raise DataError(f"data file {path} does not exist, or is no file. Correct the path, or make it: {make}.")
    try:
        if path.endswith((".json", ".jsonl")):
            import datasets

            datasets.disable_progress_bars()
            datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it logs what it raises
            table = datasets.load_dataset("json", data_files=path)["train"].with_format("arrow")[:]
            return table.schema, lambda leaves: table.select(list(dict.fromkeys(leaf.split(".")[0] for leaf in leaves)))
        if path.endswith(".parquet"):
            return pq.read_schema(path), lambda leaves: pq.ParquetFile(path).read(columns=list(leaves))
    except Exception as error:  # the libraries raise many kinds of error
        kind, cause = path.rpartition(".")[2], " ".join(str(error.__cause__ or error).split()) or "it has no rows"
        raise DataError(f"data file {path} cannot be read as {kind} ({cause}). Make it again: {MAKE}.") from error
    raise DataError(
        f"data file {path}: verl reads .parquet, .json and .jsonl files only. Make one:"
        f" python -m data_prep own --source {path} --out DIR."
    )


def _check_file(
    name: str, schema: pa.Schema, read: _Read, prompt_key: str, media_keys: Sequence[str], facts: RowFacts
) -> None:
    """Check one file's columns, then its rows, and add what is found to ``facts``."""
    types: dict[str, pa.DataType] = {field.name: field.type for field in schema}
    command = f"python -m data_prep own --source {name} --out DIR"

    def fail(row: int, field: str, what: str) -> NoReturn:
        raise DataError(
            f"{name}: row {row} (counted from 0), field {field}: {what}. Repair the row, or make a new file: {command}."
        )

    if missing := [column for column in ("data_source", prompt_key, "reward_model") if column not in types]:
        hint = " (data.prompt_key names the prompts' column)" if prompt_key in missing else ""
        raise DataError(
            f"{name}: column {', '.join(missing)} is missing{hint}; found: {', '.join(types)}. Make a file with verl's "
            f"columns: {command}."
        )
    type_ = types["reward_model"]
    if "ground_truth" not in _fields(type_):
        fail(0, "reward_model.ground_truth", f"it is missing (reward_model is {type_})")
    type_ = types[prompt_key]
    if not _is_list(type_) or not {"role", "content"} <= set(_fields(type_.value_type)):
        fail(0, prompt_key, f"it is {type_}, but must be chat messages: a list of {{role, content}}")
    type_ = types.get("extra_info", pa.null())
    if not pa.types.is_struct(type_) and not pa.types.is_null(type_):
        fail(0, "extra_info", f"it is {type_}, but must be an object with named fields")
    has_ids, media = "prompt_id" in _fields(type_), [key for key in media_keys if key in types]
    leaves = ["data_source", prompt_key, "reward_model.ground_truth", *media]
    leaves += ["extra_info.prompt_id"] * has_ids + ["agent_name"] * ("agent_name" in types)
    start, ids = 0, []
    for batch in read(leaves).to_batches():
        prompts, golds = batch[prompt_key], pc.struct_field(batch["reward_model"], "ground_truth")
        messages, row_of_message = pc.list_flatten(prompts), pc.list_parent_indices(prompts)
        roles = pc.struct_field(messages, "role")
        fields = [
            ("data_source", batch["data_source"], None, True),
            (prompt_key, prompts, None, False),
            (f"{prompt_key}.role", roles, row_of_message, True),
            (f"{prompt_key}.content", pc.struct_field(messages, "content"), row_of_message, True),
            # Golds of other types than text are left to the reward function that reads them.
            ("reward_model.ground_truth", golds, None, False),
        ]
        if has_ids:
            ids.append(pc.struct_field(batch["extra_info"], "prompt_id"))
            fields.append(("extra_info.prompt_id", ids[-1], None, True))
        for path, values, row_of_value, must_be_text in fields:
            if pa.types.is_dictionary(values.type):  # a categorical column of pandas
                values = values.dictionary_decode()
            if (at := pc.index(_is_empty(values), True).as_py()) >= 0:
                fail(start + (row_of_value[at].as_py() if row_of_value else at), path, "it is missing or empty")
            if must_be_text and not _is_text(values.type):
                fail(start, path, f"it is {values[0].as_py()!r} ({values.type}), but must be text")
        if (at := pc.index(pc.is_in(roles, value_set=pa.array(ROLES, roles.type)), False).as_py()) >= 0:
            what = f"role {roles[at].as_py()!r} is none of {', '.join(ROLES)}"
            fail(start + row_of_message[at].as_py(), f"{prompt_key}.role", what)
        facts.data_sources |= set(pc.unique(batch["data_source"]).to_pylist())
        if "agent_name" in types:
            facts.agent_loops |= set(filter(None, pc.unique(batch["agent_name"]).to_pylist()))
        for key in media:
            if not facts.media and (at := pc.index(_is_empty(batch[key]), False).as_py()) >= 0:
                facts.media = f"{name}: row {start + at} (counted from 0), column {key}"
        if not facts.ungradable and (at := _first_ungradable(golds)) >= 0:
            where = f"{name}: row {start + at} (counted from 0), field reward_model.ground_truth"
            facts.ungradable = f"{where} is {str(golds[at].as_py())[:80]}"
        start += len(batch)
    if start == 0:
        raise DataError(f"{name}: the file has no rows. Make it again: {command}.")
    facts.num_rows += start
    facts.num_without_id += 0 if has_ids else start
    if has_ids:
        facts.ids[name] = pa.chunked_array([each.cast(pa.large_string()) for each in ids])


def _first_ungradable(golds: pa.Array) -> int:
    """Index of the first gold that the default reward matches with no response (an object or bytes); -1 for none."""
    type_ = golds.type
    while _is_list(type_):
        type_ = type_.value_type
    if pa.types.is_nested(type_) or pa.types.is_binary(type_) or pa.types.is_large_binary(type_):
        return 0
    if not _is_text(golds.type):
        return -1
    return int(pc.index(pc.match_substring_regex(golds, r'^\s*\{\s*"[^"]*"\s*:'), True).as_py())


def _fields(type_: pa.DataType) -> list[str]:
    return [field.name for field in type_] if pa.types.is_struct(type_) else []


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_)


def _is_text(type_: pa.DataType) -> bool:
    return pa.types.is_string(type_) or pa.types.is_large_string(type_)


def _is_empty(values: pa.Array) -> pa.Array:
    """True where a value is null, NaN, blank text or an empty list."""
    if _is_text(values.type):
        lengths = pc.utf8_length(pc.utf8_trim_whitespace(values))
    elif _is_list(values.type):
        lengths = pc.list_value_length(values)
    else:
        return pc.is_null(values, nan_is_null=True)
    return pc.fill_null(pc.equal(lengths, 0), True)


def _check_joinable(schemas: Mapping[str, pa.Schema]) -> None:
    """Refuse files that ``datasets.concatenate_datasets``, with which verl joins them, would refuse."""
    (first, schema), *others = schemas.items()
    if all(schema.equals(other) for _, other in others):
        return
    import datasets

    def nulls(schema: pa.Schema) -> Any:  # one row: the library does not compare data sets without rows
        return datasets.Dataset(pa.table([pa.nulls(1, field.type) for field in schema], schema))

    for name, other in others:
        try:
            datasets.concatenate_datasets([nulls(schema), nulls(other)])
        except ValueError as error:
            types = [
                {field.name: field.type for column in each for field in _leaves(column)} for each in (schema, other)
            ]
            difference = "; ".join(
                f"{field} is {type_} in the first, {types[1][field]} in the second"
                for field, type_ in types[0].items()
                if types[1].get(field, type_) != type_
            )
            raise DataError(
                f"{first} and {name} cannot be used together, because verl cannot join their columns: "
                f"{difference or error}. Make both again with the same command: {MAKE}."
            ) from error


def _leaves(field: pa.Field) -> list[pa.Field]:
    return [leaf for each in field.flatten() for leaf in _leaves(each)] if _fields(field.type) else [field]


def _check_unique(ids: Mapping[str, pa.ChunkedArray]) -> None:
    if not ids:
        return
    by_file_and_row = pd.concat({name: each.to_pandas() for name, each in ids.items()})
    repeated = by_file_and_row[by_file_and_row.duplicated()]
    if not repeated.empty:
        prompt_id = repeated.iloc[0]
        (first, row), (second, again) = by_file_and_row[by_file_and_row == prompt_id].index[:2]
        rows = f"rows {row} and {again}" if first == second else f"row {row} and {second} row {again}"
        raise DataError(
            f"{first}: {rows} (counted from 0), field extra_info.prompt_id: both are {prompt_id!r}, but it must be"
            f" unique in all files that are used together, because statistics are stored under it. Drop one of the"
            f" rows, or make the file again: {MAKE}."
        )
