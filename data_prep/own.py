"""Your own data: rows of almost any form, found by the names of their columns.

A question is text, chat messages (``role``/``content`` or ``from``/``value``), JSON text of them, or content parts. A
gold answer is text, a number, or a list of which any one counts; of a solution or an assistant's reply it is the final
answer (after ``####``, in ``<answer>`` or ``\\boxed{}``, or after "the answer is").
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep.common import Summary
from data_prep.prepare import PromptStyle, prepare_split
from data_prep.sources import SPLITS, Located, hub_splits, local_files, looks_local, read_files, read_hub
from data_prep.spec import DatasetSpec, Problem, RowDropped
from recipe.prepo.config import did_you_mean
from recipe.prepo.errors import DataError
from recipe.prepo.reward.extract import after_hashes, is_prose, last_boxed, marked_answer
from recipe.prepo.reward.score import golds_of
from recipe.prepo.rows import MEDIA_KEYS

PROMPT_ID_COLUMNS = ("extra_info.prompt_id", "prompt_id")
ID_COLUMNS = (*PROMPT_ID_COLUMNS, "unique_id", "id", "uuid", "question_id", "problem_id")
ROLE_NAMES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
NUM_NAMED = 100  # rows whose fields are taken for the columns of a file
NUM_SHOWN, MAX_SHOWN_CHARS = 3, 2000
# Where files have the question and the gold answer, best first, in small letters; dots lead into an object.
QUESTION_COLUMNS: tuple[str, ...] = ("prompt", "problem", "question", "query", "messages", "conversations")
QUESTION_COLUMNS += ("conversation", "extra_info.question", "instruction", "input", "task", "text")
ANSWER_COLUMNS: tuple[str, ...] = ("reward_model.ground_truth", "ground_truth", "final_answer", "answer", "gold")
ANSWER_COLUMNS += ("gold_answer", "correct_answer", "expected_answer", "reference_answer", "extra_info.answer")
ANSWER_COLUMNS += ("answers", "target", "label", "labels", "solution", "completion", "response", "output")
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class OwnOptions:
    """Columns of the source; None finds them by their names. Dots lead into an object (``extra_info.answer``).

    Attributes:
        keep: columns that go into ``extra_info``, for a reward function that reads them.
        name: prefix of the files and ids, and ``data_source`` of rows without one; None takes the source's name.
        hold_out: rows that go into a test file instead.
    """

    question: str | None = None
    answer: str | None = None
    id: str | None = None
    keep: Sequence[str] = ()
    name: str | None = None
    config: str | None = None
    hold_out: int = 0


def prepare_own(
    source: str, options: OwnOptions, *, splits: Sequence[str] | None, out_dir: Path, style: PromptStyle
) -> list[Summary]:
    """Write ``<out_dir>/<name>_<split>.parquet`` for each split of a file, a folder or a data set on the hub.

    Raises:
        DataError: the source cannot be read, lacks a split or a named column, or has no column for question or answer.
    """
    found, summaries = _find(source, options.config, splits), []
    name = options.name or _name_of(source)
    for split, (where, rows) in found.items():
        located = list(rows)
        columns = _Columns.of(where, [row for _, row in located[:NUM_NAMED]], options)
        columns = columns.with_usable_ids(located)
        print(f"{where}: {columns}")
        spec = DatasetSpec(name, source, {}, columns.to_problem, keeps_ungradable=True)
        hold_out = options.hold_out if "test" not in found else 0
        summaries += prepare_split(spec, split, where, located, out_dir, style, hold_out=hold_out)
    return summaries


def show_first_rows(path: Path, model: str | None) -> str:
    """The first rows of a file as the model sees them: through its chat template, or else as ``role: text``.

    Raises:
        DataError: there is no such model, or it has no chat template.
    """
    rows = next(pq.ParquetFile(path).iter_batches(batch_size=NUM_SHOWN)).to_pylist()
    texts = ["\n".join(f"{each['role']}: {each['content']}" for each in row["prompt"]) for row in rows]
    if model:
        from transformers import AutoTokenizer

        try:
            render = AutoTokenizer.from_pretrained(model).apply_chat_template
            texts = [render(row["prompt"], add_generation_prompt=True, tokenize=False) for row in rows]
        except Exception as error:  # the library and templates raise many kinds of error
            raise DataError(f"--model {model} cannot show the rows: {type(error).__name__}: {error}") from error
    lines = [f"first rows of {path}" + ("" if model else " (through a chat template: --model MODEL)")]
    for number, (row, text) in enumerate(zip(rows, texts, strict=True), start=1):
        cut = f"… ({len(text) - MAX_SHOWN_CHARS} more characters)" if len(text) > MAX_SHOWN_CHARS else ""
        gold = row["reward_model"]["ground_truth"]
        lines += [f"--- row {number} of {row['data_source']}, gold {gold!r}", text[:MAX_SHOWN_CHARS] + cut]
    return "\n".join(lines)


# ---- sources --------------------------------------------------------------------------------------------------------


def _find(source: str, config: str | None, splits: Sequence[str] | None) -> dict[str, tuple[str, Iterable[Located]]]:
    """Split -> where it is, and its rows."""
    if not looks_local(source) and re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        names = splits or hub_splits(source, config)
        return {name: (f"{source}, split {name}", read_hub(source, config, name)) for name in names}
    files = local_files(source)
    if len(files) == 1 and Path(source).expanduser().is_file():
        if splits and len(splits) > 1:
            raise DataError(f"--split {' '.join(splits)}: {source} is one file. Name one, or use --hold-out ROWS.")
        files = {splits[0]: next(iter(files.values()))} if splits else files
    if "" in files:
        files = {"train": [*files.pop("train", []), *files.pop("")], **files}
    if missing := [split for split in splits or () if split not in files]:
        raise DataError(f"--split {' '.join(missing)}: {source} has {', '.join(files)}.")
    return {split: (source, read_files(files[split])) for split in splits or files}


def _name_of(source: str) -> str:
    words = [word for word in re.split(r"[^a-z0-9]+", Path(source).stem.lower()) if word and word not in SPLITS]
    return "_".join(words) or "own"


# ---- rows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Columns:
    """Which columns of a source hold what."""

    names: Sequence[str]
    question: str
    answer: str | None  # None: the last reply of the messages
    id: str | None
    keep: Sequence[str]
    id_is_named: bool

    @classmethod
    def of(cls, where: str, rows: Sequence[Mapping[str, Any]], options: OwnOptions) -> _Columns:
        names = list(dict.fromkeys(name for row in rows for name in _names(row)))
        if not names:
            raise DataError(f"{where}: it has no rows.")

        def named(option: str, name: str) -> str:
            if any(_lookup(row, name) is not None for row in rows):
                return name
            if other := guess_column(names, [name.strip().lower()]):
                return other
            hint = did_you_mean(name, names)
            raise DataError(f"--{option} {name}: {where} has no such column.{hint} Its columns: {', '.join(names)}.")

        question = named("question", options.question) if options.question else guess_column(names, QUESTION_COLUMNS)
        answer = named("answer", options.answer) if options.answer else None
        if question and not answer:
            others = [name for name in names if name != question]
            answer = guess_column(others, ANSWER_COLUMNS)
            if not answer and any(_ends_in_reply(_lookup(row, question)) for row in rows):
                return cls(names, question, None, *cls._rest(names, options, named))
        if not question or not answer:
            what = " and ".join(word for word, found in (("question", question), ("answer", answer)) if not found)
            raise DataError(
                f"{where}: none of its columns is known as the {what}: {', '.join(names)}. Give --question KEY --answer"
                f" KEY (nested: --answer extra_info.answer)."
            )
        return cls(names, question, answer, *cls._rest(names, options, named))

    @staticmethod
    def _rest(names: Sequence[str], options: OwnOptions, named: Any) -> tuple[str | None, Sequence[str], bool]:
        own_id = named("id", options.id) if options.id else guess_column(names, ID_COLUMNS)
        return own_id, [named("keep", name) for name in options.keep], bool(options.id)

    def __str__(self) -> str:
        used = (self.question, self.answer or self.question, self.id or self.question, *self.keep, "data_source")
        fields = tuple(f"{name}." for name in used)
        ignored = [name for name in self.names if name not in used and not name.startswith(fields)]
        return (
            f"question {self.question}, answer {self.answer or f'the last reply in {self.question}'}, id "
            f"{self.id or 'from the question'}" + (f"; not used: {', '.join(ignored)}" if ignored else "")
        )

    def with_usable_ids(self, located: Sequence[Located]) -> _Columns:
        """The same without an id column that was only guessed and does not name each question by one id."""
        if self.id is None or self.id_is_named:
            return self
        questions: dict[str, str] = {}
        for _, row in located:
            own_id, question = str(_lookup(row, self.id) or ""), json.dumps(_lookup(row, self.question), default=str)
            if not own_id or questions.setdefault(own_id, question) != question:
                return _Columns(self.names, self.question, self.answer, None, self.keep, self.id_is_named)
        return self

    def to_problem(self, row: Mapping[str, Any]) -> Problem:
        if any(row.get(key) not in (None, [], "") for key in (*MEDIA_KEYS, "image", "video", "audio")):
            raise RowDropped("image_video_or_audio")
        messages = to_messages(_lookup(row, self.question))
        more = _lookup(row, "input") if self.question.lower() == "instruction" else None
        is_chat, reply = not isinstance(messages, str), ""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": f"{messages}\n{more}" if more else messages}]
        while messages and messages[-1]["role"] == "assistant":
            reply = messages.pop()["content"]
        if messages and messages[-1]["role"] != "user":
            raise RowDropped("last_message_not_from_user", f"it is from {messages[-1]['role']}")
        gold = to_gold(_lookup(row, self.answer) if self.answer else reply)
        own_id = None if self.id is None else _lookup(row, self.id)
        named = self.id is not None and self.id.lower() in PROMPT_ID_COLUMNS
        data_source = row.get("data_source")
        return Problem(
            messages[-1]["content"] if messages else "",
            gold,
            source_id=None if own_id is None else to_gold(own_id),
            extra={name.rpartition(".")[2]: _lookup(row, name) for name in self.keep},
            before=messages[:-1],
            is_chat=is_chat,
            data_source=data_source if isinstance(data_source, str) else None,
            id_is_whole=named,
        )


def _names(row: Mapping[str, Any]) -> list[str]:
    """A row's columns, and the fields of those that are objects."""
    names: list[str] = []
    for name, value in row.items():
        value = _parsed(value)
        names += [f"{name}.{field}" for field in value] if isinstance(value, dict) and value else [name]
    return names


def _lookup(row: Mapping[str, Any], path: str) -> Any:
    """Value of a column; with dots, of a field of an object or of JSON text of one. None where there is none."""
    if path in row:
        return row[path]
    name, dot, rest = path.partition(".")
    inner = _parsed(row.get(name)) if dot else None
    return _lookup(inner, rest) if isinstance(inner, dict) else None


def _parsed(value: Any) -> Any:
    """JSON or Python text of a list or an object as that; other values as they are."""
    if isinstance(value, str) and re.match(r"\s*(\{\s*[\"']|\[\s*[\{\"'])", value):
        for parse in (json.loads, ast.literal_eval):
            with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                parsed = parse(value.strip())
                return parsed if isinstance(parsed, (dict, list)) else value
    return value


def to_messages(value: Any) -> str | Messages:
    """A question as text or as chat messages.

    Raises:
        RowDropped: part of it is neither.

    >>> to_messages([{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}])
    [{'role': 'user', 'content': '1+1?'}, {'role': 'assistant', 'content': '2'}]
    """
    value = _parsed(value)
    if isinstance(value, dict):
        value = value.get("messages", [value])
    if isinstance(value, list) and any(isinstance(each, dict) and ("role" in each or "from" in each) for each in value):
        return [_message(each) for each in value]
    return _text(value)


def _message(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise RowDropped("malformed_messages", repr(value)[:80])
    role = str(value.get("role") or value.get("from") or "user").lower()
    content = next((value[key] for key in ("content", "value", "text", "ground_truth") if key in value), "")
    return {"role": ROLE_NAMES.get(role, role), "content": _text(content)}


def _text(value: Any) -> str:
    """Text, a number, or text parts joined."""
    if isinstance(value, list):
        return "".join(map(_text, value))
    if isinstance(value, dict):
        if value.get("type", "text") != "text":
            raise RowDropped("image_video_or_audio", str(value["type"]))
        return _text(next((value[key] for key in ("text", "content", "value") if key in value), ""))
    return "" if value is None or value != value else str(value).replace("\r\n", "\n")


def _ends_in_reply(value: Any) -> bool:
    with contextlib.suppress(RowDropped):
        messages = to_messages(value)
        return isinstance(messages, list) and bool(messages) and messages[-1]["role"] == "assistant"
    return False


def to_gold(value: Any) -> str:
    r"""A gold answer as text; several, of which any one counts, as JSON text of their list; "" for none.

    >>> to_gold(27.0), to_gold("so 1,000 + 1 = 1,001\n#### 1,001"), to_gold(["3", 4]), to_gold([{"text": ["x"]}])
    ('27', '1001', '["3", "4"]', 'x')
    """
    if not isinstance(value, str):
        value = value.tolist() if hasattr(value, "tolist") else value
    value = _parsed(value)
    if isinstance(value, dict):
        known = ("ground_truth", "answer", "final_answer", "content", "value", "text")
        found = next((value[key] for key in known if value.get(key) is not None), None)
        return json.dumps(value, ensure_ascii=False, default=str) if found is None else to_gold(found)
    if isinstance(value, list):
        replies = [each for each in value if isinstance(each, dict) and each.get("role") == "assistant"]
        golds = [gold for each in replies[-1:] or value for gold in golds_of(to_gold(each))]
        return json.dumps(list(dict.fromkeys(golds)), ensure_ascii=False) if len(set(golds)) > 1 else "".join(golds[:1])
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return _final_answer(_text(value))


def _final_answer(text: str) -> str:
    """The final answer of a solution; other text as it is."""
    after = after_hashes(text)
    if after and "\n" not in after:
        return re.sub(r"(?<=\d),(?=\d{3})", "", after)
    if tags := re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL | re.IGNORECASE):
        return _final_answer(tags[-1])
    boxed = last_boxed(text)
    if boxed is None and (is_prose(text) or "answer" in text.lower()):
        boxed = marked_answer(text)
    return (boxed or text).strip()


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
