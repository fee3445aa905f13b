"""The data contract: what a training or validation row must hold, and its checks.

A data file is parquet or JSON lines with verl's columns: ``data_source`` (text), ``prompt`` (chat messages: a list of
``{role, content}``; ``data.prompt_key`` names another column), ``reward_model`` (``{style, ground_truth}``), and
usually ``ability`` and ``extra_info``. Statistics, audit lines and resumed runs refer to a prompt by
``extra_info.prompt_id``, unique text. A file without that field gets ids that :func:`content_ids` derives.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
# Where files have the question and the gold answer, best first, in small letters; dots lead into an object.
QUESTION_COLUMNS: tuple[str, ...] = ("prompt", "problem", "question", "query", "messages", "conversations")
QUESTION_COLUMNS += ("conversation", "extra_info.question", "instruction", "input", "task", "text")
ANSWER_COLUMNS: tuple[str, ...] = ("reward_model.ground_truth", "ground_truth", "final_answer", "answer", "gold")
ANSWER_COLUMNS += ("gold_answer", "correct_answer", "expected_answer", "reference_answer", "extra_info.answer")
ANSWER_COLUMNS += ("answers", "target", "label", "labels", "solution", "completion", "response", "output")


@dataclass(frozen=True)
class RowFacts:
    """What :func:`validate_files` found in files that are used together.

    Attributes:
        num_without_id: rows of files without ``extra_info.prompt_id``.
        agent_loops: values of verl's column ``agent_name``; empty without one.
        media: file, row and column of the first image, video or audio; empty if there is none.
        ungradable: file, row and value of the first gold that the default reward can never match; empty if none.
    """

    num_rows: int
    num_without_id: int
    data_sources: frozenset[str]
    agent_loops: frozenset[str]
    media: str
    ungradable: str


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


def guess_column(names: Iterable[str], wanted: Sequence[str]) -> str | None:
    """The first of ``wanted`` among a file's columns, or the objects that hold them, as written there.

    >>> guess_column(["Problem", "Correct Answer "], ANSWER_COLUMNS), guess_column(["goldAnswer.text"], ["gold_answer"])
    ('Correct Answer ', 'goldAnswer')
    """
    names = list(names)
    known = [*names, *(name.partition(".")[0] for name in names)]
    words = [re.sub(r"(?<=[a-z])(?=[A-Z])|[\s-]+", "_", name.strip()).lower() for name in known]
    by_words = dict(zip(reversed(words), reversed(known), strict=True))
    return next((by_words[each] for each in wanted if each in by_words), None)


def own_command(path: str, names: Sequence[str]) -> str:
    """The command that makes a data file from the one at ``path``, whose columns (nested ones with dots) are given."""
    question, answer = guess_column(names, QUESTION_COLUMNS), guess_column(names, ANSWER_COLUMNS)
    options = "".join(
        f" --{option} {value!r}" if value and " " in value else f" --{option} {value or option.upper()}"
        for option, value in (("question", question), ("answer", answer))
    )
    unknown = "" if question and answer else f" (its columns: {', '.join(names)})"
    return f"python -m data_prep own --source {path}{options} --out DIR{unknown}"


def validate_rows(table: pa.Table, *, name: str) -> None:
    """Check every row of ``table``; ``name`` stands for it in messages and is usually the file's path.

    Raises:
        DataError: names ``name``, the first bad row (counted from 0), the field and the remedy. Refused are a missing
            column, an empty or malformed prompt, a ``prompt_id`` that is not text or not unique, or missing in some
            rows only, and an empty gold answer.
    """
    checked = _FileCheck(name, table.schema, "prompt", MEDIA_KEYS)
    checked.read(table.to_batches())
    _check_unique([checked])


def validate_files(
    paths: Iterable[str | Path], *, prompt_key: str = "prompt", media_keys: Sequence[str] = MEDIA_KEYS
) -> RowFacts:
    """Check data files that are used together. Reads only what it checks.

    Raises:
        DataError: as :func:`validate_rows`; also for a file that is missing or unreadable, for a ``prompt_id`` that is
            in two of the files, and for files whose columns differ so that verl cannot join them.
    """
    files: dict[str, _FileCheck] = {}
    for name in map(str, paths):
        if name in files:
            raise DataError(f"{name}: this data file is listed twice, which would double its prompts. List it once.")
        with _open(name) as (schema, read):
            files[name] = _FileCheck(name, schema, prompt_key, media_keys)
            files[name].read(read(files[name].leaves))
    _check_joinable(list(files.values()))
    _check_unique(list(files.values()))
    checked = files.values()
    return RowFacts(
        num_rows=sum(file.num_rows for file in checked),
        num_without_id=sum(file.num_rows for file in checked if not file.has_ids),
        data_sources=frozenset().union(*(file.data_sources for file in checked)),
        agent_loops=frozenset().union(*(file.agent_loops for file in checked)),
        media=next((file.media for file in checked if file.media), ""),
        ungradable=next((file.ungradable for file in checked if file.ungradable), ""),
    )


def read_prompts(
    paths: Iterable[str | Path],
    *,
    prompt_key: str = "prompt",
    max_samples: int = -1,
    shuffle: bool = False,
    seed: int | None = None,
) -> list[list[dict[str, Any]]]:
    """The prompts of files that have passed :func:`validate_files`, in order; ``max_samples`` drawn as verl 0.9.1 does.

    ``shuffle`` and ``seed`` are verl's ``data.shuffle`` and ``data.seed``.
    """
    prompts: list[list[dict[str, Any]]] = []
    for name in map(str, paths):
        with _open(name) as (_, read):
            prompts += [prompt for batch in read([prompt_key]) for prompt in batch.column(prompt_key).to_pylist()]
    if not 0 < max_samples < len(prompts):
        return prompts
    drawn = np.arange(max_samples)
    if shuffle:
        drawn = np.random.default_rng(seed).choice(len(prompts), size=max_samples, replace=False)
    return [prompts[i] for i in drawn]


def read_ids(paths: Iterable[str | Path], prompt_key: str = "prompt") -> list[str]:
    """The ids of the rows of files that have passed :func:`validate_files`; a file without ids has derived ones."""
    ids: list[str] = []
    for name in map(str, paths):
        with _open(name) as (schema, read):
            if "extra_info" in schema.names and "prompt_id" in _fields(schema.field("extra_info").type):
                infos = (
                    info for batch in read(["extra_info.prompt_id"]) for info in batch.column("extra_info").to_pylist()
                )
                ids += [info["prompt_id"] for info in infos]
            else:
                rows = [row for batch in read([prompt_key, "reward_model.ground_truth"]) for row in batch.to_pylist()]
                golds = [row["reward_model"]["ground_truth"] for row in rows]
                ids += content_ids([row[prompt_key] for row in rows], golds)
    return ids


def first_rows(path: str | Path, number: int) -> list[dict[str, Any]]:
    """The first rows of a file that has passed :func:`validate_files`, with the columns that a reward reads."""
    with _open(str(path)) as (schema, read):
        names = [name for name in ("data_source", "reward_model", "extra_info") if name in schema.names]
        return next(iter(read(names))).slice(0, number).to_pylist()


def rows_within_limit(
    prompts: Sequence[Any], tokenizer: Any, template_kwargs: Mapping[str, Any], max_prompt_tokens: int
) -> int:
    """How many prompts verl 0.9.1's ``data.filter_overlong_prompts`` leaves.

    Args:
        prompts: chat messages of each row, from :func:`read_prompts`.
        template_kwargs: ``data.apply_chat_template_kwargs``, and ``tools`` where the run has some.

    Raises:
        DataError: the chat template fails for every prompt. verl drops a prompt for which it fails.
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


def open_parquet(path: str | Path) -> pq.ParquetFile:
    """Open a data file, or raise a DataError that says how to make one."""
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, "parquet", error) from error


def _unreadable(path: str | Path, kind: str, error: Exception) -> DataError:
    cause = " ".join(str(error.__cause__ or error).split()) or "it has no rows"
    what = f"cannot be read as {kind} ({cause})" if Path(path).is_file() else "does not exist, or is no file"
    return DataError(f"data file {path} {what}. Correct the path, or make it: {_make(path)}.")


def _make(path: str | Path) -> str:
    source = "FILE_OR_HUB_ID" if Path(path).suffix else path
    return f"python -m data_prep own --source {source} --question KEY --answer KEY --out DIR"


_Read = Callable[[Sequence[str]], Iterable[pa.RecordBatch]]


@contextmanager
def _open(path: str) -> Iterator[tuple[pa.Schema, _Read]]:
    """The file's schema, and a function that reads some of its columns, as verl 0.9.1 reads them.

    verl takes the suffixes .parquet, .json and .jsonl, and leaves the types of JSON to the library datasets.
    """
    if path.endswith((".json", ".jsonl")) and Path(path).is_file():
        import datasets

        datasets.disable_progress_bars()
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it logs what it raises
        try:
            table = datasets.load_dataset("json", data_files=path)["train"].with_format("arrow")[:]
        except Exception as error:  # the library raises many kinds of error
            raise _unreadable(path, "JSON lines", error) from error
        yield (
            table.schema,
            lambda leaves: table.select(
                [name for name in table.column_names if name in {leaf.split(".")[0] for leaf in leaves}]
            ).to_batches(),
        )
    elif not path.endswith(".parquet") and Path(path).is_file():
        raise DataError(
            f"data file {path}: verl reads .parquet, .json and .jsonl files only. Make one:"
            f" python -m data_prep own --source {path} --out DIR."
        )
    else:
        with open_parquet(path) as file:
            yield file.schema_arrow, lambda leaves: file.iter_batches(columns=list(leaves))


def column_names(schema: pa.Schema) -> list[str]:
    """Names of the columns, with the fields of struct columns as ``column.field``."""
    names = []
    for field in schema:
        names += [field.name] if not _fields(field.type) else [f"{field.name}.{each}" for each in _fields(field.type)]
    return names


class _FileCheck:
    """Checks one file's columns, then its rows, and keeps what the checks over all files need.

    Raises:
        DataError: the file breaks the contract.
    """

    def __init__(self, name: str, schema: pa.Schema, prompt_key: str, media_keys: Sequence[str]) -> None:
        self.name, self.schema, self.prompt_key = name, schema, prompt_key
        self.command = own_command(name, column_names(schema))
        self.num_rows = 0
        self.ids: list[pa.Array] = []
        self.data_sources: set[str] = set()
        self.agent_loops: set[str] = set()
        self.media = self.ungradable = ""
        self._media_keys = [key for key in media_keys if key in schema.names]
        self._check_columns()
        self.has_ids = "extra_info" in schema.names and "prompt_id" in _fields(schema.field("extra_info").type)
        self.leaves = ["data_source", prompt_key, "reward_model.ground_truth", *self._media_keys]
        self.leaves += ["extra_info.prompt_id"] * self.has_ids + ["agent_name"] * ("agent_name" in schema.names)

    def _check_columns(self) -> None:
        names = self.schema.names
        if missing := [column for column in ("data_source", self.prompt_key, "reward_model") if column not in names]:
            hint = " (data.prompt_key names the prompts' column)" if self.prompt_key in missing else ""
            raise DataError(
                f"{self.name}: column {', '.join(missing)} is missing{hint}; found: {', '.join(names)}. Make a file "
                f"with verl's columns: {self.command}."
            )
        type_ = self.schema.field("reward_model").type
        if "ground_truth" not in _fields(type_):
            self._fail(0, "reward_model.ground_truth", f"it is missing (reward_model is {type_})")
        type_ = self.schema.field(self.prompt_key).type
        if not _is_list(type_) or not {"role", "content"} <= set(_fields(type_.value_type)):
            self._fail(0, self.prompt_key, f"it is {type_}, but must be chat messages: a list of {{role, content}}")
        if "extra_info" in names:
            type_ = self.schema.field("extra_info").type
            if not pa.types.is_struct(type_) and not pa.types.is_null(type_):
                self._fail(0, "extra_info", f"it is {type_}, but must be an object with named fields")

    def _fail(self, row: int, field: str, what: str) -> NoReturn:
        raise DataError(
            f"{self.name}: row {row} (counted from 0), field {field}: {what}. Repair the row, or make a new file: "
            f"{self.command}."
        )

    def read(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Check the rows."""
        for batch in batches:
            self._check_batch(batch)
            self.num_rows += len(batch)
        if self.num_rows == 0:
            raise DataError(f"{self.name}: the file has no rows. Make it again: {self.command}.")

    def _check_batch(self, batch: pa.RecordBatch) -> None:
        start, prompts = self.num_rows, batch.column(self.prompt_key)
        messages, row_of_message = pc.list_flatten(prompts), pc.list_parent_indices(prompts)
        roles = pc.struct_field(messages, "role")
        golds = pc.struct_field(batch.column("reward_model"), "ground_truth")
        fields = [
            ("data_source", batch.column("data_source"), None, True),
            (self.prompt_key, prompts, None, False),
            (f"{self.prompt_key}.role", roles, row_of_message, True),
            (f"{self.prompt_key}.content", pc.struct_field(messages, "content"), row_of_message, True),
            # Golds of other types than text are left to the reward function that reads them.
            ("reward_model.ground_truth", golds, None, False),
        ]
        if self.has_ids:
            ids = pc.struct_field(batch.column("extra_info"), "prompt_id")
            fields.append(("extra_info.prompt_id", ids, None, True))
        for field, values, row_of_value, must_be_text in fields:
            if pa.types.is_dictionary(values.type):  # a categorical column of pandas
                values = values.dictionary_decode()
            if (at := pc.index(_is_empty(values), True).as_py()) >= 0:
                self._fail(start + (row_of_value[at].as_py() if row_of_value else at), field, "it is missing or empty")
            if must_be_text and not _is_text(values.type):
                self._fail(start, field, f"it is {values[0].as_py()!r} ({values.type}), but must be text")
        if (at := pc.index(pc.is_in(roles, value_set=pa.array(ROLES, roles.type)), False).as_py()) >= 0:
            what = f"role {roles[at].as_py()!r} is none of {', '.join(ROLES)}"
            self._fail(start + row_of_message[at].as_py(), f"{self.prompt_key}.role", what)
        if self.has_ids:
            self.ids.append(ids.cast(pa.large_string()))
        self.data_sources |= set(pc.unique(batch.column("data_source")).to_pylist())
        if "agent_name" in batch.schema.names:
            self.agent_loops |= {name for name in pc.unique(batch.column("agent_name")).to_pylist() if name}
        for key in self._media_keys:
            if not self.media and (at := pc.index(_is_empty(batch.column(key)), False).as_py()) >= 0:
                self.media = f"{self.name}: row {start + at} (counted from 0), column {key}"
        if not self.ungradable and (at := _first_ungradable(golds)) >= 0:
            where = f"{self.name}: row {start + at} (counted from 0), field reward_model.ground_truth"
            self.ungradable = f"{where} is {str(golds[at].as_py())[:80]}"


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


def _check_joinable(files: Sequence[_FileCheck]) -> None:
    """Refuse files that ``datasets.concatenate_datasets``, with which verl joins them, would refuse."""
    if len(files) < 2 or all(file.schema.equals(files[0].schema) for file in files):
        return
    import datasets

    # One row of nulls each: the library does not compare data sets without rows.
    nulls = [pa.table([pa.nulls(1, field.type) for field in file.schema], file.schema) for file in files]
    for file, table in zip(files[1:], nulls[1:], strict=True):
        try:
            datasets.concatenate_datasets([datasets.Dataset(nulls[0]), datasets.Dataset(table)])
        except ValueError as error:
            raise DataError(
                f"{files[0].name} and {file.name} cannot be used together, because verl cannot join their columns:"
                f" {_difference(files[0].schema, file.schema) or error}. Make both again with the same command: "
                f"{files[0].command}; {file.command}."
            ) from error


def _difference(first: pa.Schema, second: pa.Schema) -> str:
    """Columns and fields that both files have, with another type."""
    types = [{field.name: field.type for column in schema for field in _leaves(column)} for schema in (first, second)]
    return "; ".join(
        f"{name} is {type_} in the first, {types[1][name]} in the second"
        for name, type_ in types[0].items()
        if types[1].get(name, type_) != type_
    )


def _leaves(field: pa.Field) -> list[pa.Field]:
    return [leaf for each in field.flatten() for leaf in _leaves(each)] if _fields(field.type) else [field]


def _check_unique(files: Iterable[_FileCheck]) -> None:
    ids = {file.name: pa.chunked_array(file.ids, pa.large_string()).to_pandas() for file in files if file.has_ids}
    if not ids:
        return
    by_file_and_row = pd.concat(ids)
    repeated = by_file_and_row[by_file_and_row.duplicated()]
    if not repeated.empty:
        prompt_id = repeated.iloc[0]
        (first, row), (second, again) = by_file_and_row[by_file_and_row == prompt_id].index[:2]
        rows = f"rows {row} and {again}" if first == second else f"row {row} and {second} row {again}"
        raise DataError(
            f"{first}: {rows} (counted from 0), field extra_info.prompt_id: both are {prompt_id!r}, but it must be"
            f" unique in all files that are used together, because statistics are stored under it. Drop one of the"
            f" rows, or make the file again: {_make(first)}."
        )
