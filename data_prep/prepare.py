"""From source rows to a parquet file: read, drop unusable rows, check gold answers, write.

Rows are dropped, counted and listed for these reasons:

- ``empty_question``, ``empty_gold``;
- ``exact_duplicate``: same question and gold as an earlier row, which is kept;
- ``conflicting_gold``: same question, different golds; all rows of that question are dropped;
- ``duplicate_but_for_outer_spaces``, ``conflicting_gold_but_for_outer_spaces``: the same, for questions that differ
  only in spaces at their ends (these are not written);
- ``prose_gold``: a sentence, of which math-verify would accept a fragment;
- ``unverifiable_gold``: math-verify does not find the gold equal to itself, so no response could be correct.

``prompt_id`` is ``<dataset>/<the source's own id>`` if the source has ids (``unique_id``, ``id``,
``extra_info.index``), else ``<dataset>/<first 16 hex digits of the SHA-256 of the question text>``. It depends neither
on the order of rows nor on the instruction.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.common import DEFAULT_INSTRUCTION, Summary, build_row, write_parquet
from data_prep.sources import Located, local_files, looks_local, read_files, read_hub
from data_prep.spec import DatasetSpec, Problem, RowDropped
from recipe.prepo.errors import DataError
from recipe.prepo.reward.extract import is_prose
from recipe.prepo.reward.grading_process import GradingStopped, ask
from recipe.prepo.reward.notation import compact, tidy
from recipe.prepo.reward.quantity import plain_number
from recipe.prepo.reward.score import golds_of

GOLD_TIME_LIMIT_S = 5.0
GOLD_TRIES = 3
PROGRESS_EVERY = 1000


@dataclass(frozen=True)
class PromptStyle:
    """What surrounds the question: an instruction after it, and an optional system message before it.

    ``instruction=None`` adds the default one to plain text that does not already say how to write the answer.
    """

    instruction: str | None
    system: str | None = None

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        """Chat messages for one question.

        >>> PromptStyle("Think.").messages(Problem("1+1?", "2"))
        [{'role': 'user', 'content': '1+1?\\nThink.'}]
        """
        content, instruction = problem.question.strip(), self.instruction
        if instruction is None:
            says_how = problem.is_chat or re.search(r"\\boxed|####|<answer>|Answer:", content)
            instruction = "" if says_how else DEFAULT_INSTRUCTION
        before = [dict(message) for message in problem.before if not (self.system and message["role"] == "system")]
        system = [{"role": "system", "content": self.system}] if self.system else []
        content = f"{content}\n{instruction}" if instruction else content
        return [*system, *before, {"role": "user", "content": content}]


@dataclass(frozen=True)
class _Kept:
    where: str
    index: int
    problem: Problem


def prepare(
    spec: DatasetSpec, *, source: str | None, splits: list[str] | None, out_dir: Path, style: PromptStyle
) -> list[Summary]:
    """Write ``<out_dir>/<name>_<split>.parquet`` for each of ``splits`` (default: all in the source).

    Raises:
        DataError: the source cannot be read, lacks a split, or its rows have no known form.
    """
    source = source or spec.hub_id
    found: dict[str, tuple[str, Iterable[Located]]] = {}  # the rows are read lazily
    files = local_files(source) if looks_local(source) else {}
    if len(spec.splits) == sum(map(len, files.values())) == 1:  # whatever it is called
        files = dict(zip(spec.splits, files.values(), strict=True))
    for split in splits or list(spec.splits):
        if not files:
            hub_split = spec.splits[split]
            config = spec.hub_config if source == spec.hub_id else None
            found[split] = (f"{source}, split {hub_split}", read_hub(source, config, hub_split))
        elif split in files:
            found[split] = (", ".join(map(str, files[split])), read_files(files[split]))
        elif splits:
            raise DataError(f"--source {source} has no {split} split of {spec.name}.")
    if not found:
        wanted = ", ".join(spec.splits)
        raise DataError(
            f"--source {source}: no file's name has one of the words {wanted}. Rename the files of {spec.name}."
        )
    return [
        summary
        for split, (name, rows) in found.items()
        for summary in prepare_split(spec, split, name, rows, out_dir, style)
    ]


def prepare_split(
    spec: DatasetSpec,
    split: str,
    source: str,
    rows: Iterable[Located],
    out_dir: Path,
    style: PromptStyle,
    *,
    hold_out: int = 0,
) -> list[Summary]:
    """Write one split, and with ``hold_out`` that many of its rows as ``test``: those of the smallest hashes.

    Raises:
        DataError: a row has no known form, or none can be used.
    """
    summary = Summary(spec.name, split, source, out_dir / f"{spec.name}_{split}.parquet")
    kept = _without_repeats(_problems(spec, rows, summary), summary)
    kept = _without_unverifiable(kept, summary, keep=spec.keeps_ungradable)
    if len(kept) <= hold_out:
        what = f"only {len(kept)}, with --hold-out {hold_out}," if kept else "none"
        raise DataError(f"{source}: {what} of its {summary.num_read} rows can be used.\n{summary}")
    by_hash = sorted(kept, key=lambda each: question_hash(each.problem))
    held = {each.where for each in by_hash[:hold_out]}
    parts = [(summary, [each for each in kept if each.where not in held])]
    if held:
        path = out_dir / f"{spec.name}_test.parquet"
        test = Summary(spec.name, "test", source, path, num_read=hold_out)
        parts.append((test, [each for each in kept if each.where in held]))
        summary.num_read -= hold_out
    for part, problems in parts:
        write_parquet(_to_rows(spec, part.split, source, problems, style), part.path)
        part.num_kept = len(problems)
        part.write()
    return [part for part, _ in parts]


def question_hash(problem: Problem) -> str:
    """The part of a ``prompt_id`` that is made from the question, where the source has no ids."""
    return hashlib.sha256(problem.text.strip().encode()).hexdigest()[:16]


def _problems(spec: DatasetSpec, rows: Iterable[Located], summary: Summary) -> Iterable[_Kept]:
    for index, (where, row) in enumerate(rows):
        summary.num_read += 1
        try:
            problem = spec.to_problem(row)
        except RowDropped as dropped:
            summary.drop(dropped.reason, where, dropped.detail)
            continue
        except (DataError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{summary.source}, {where}: not a known form of a {spec.name} row: {error}."
                " Is --source the right file?"
            ) from error
        if not problem.question.strip():
            summary.drop("empty_question", where)
        elif not tidy(problem.gold):
            summary.drop("empty_gold", where)
        else:
            yield _Kept(where, index, problem)


def _without_repeats(problems: Iterable[_Kept], summary: Summary) -> list[_Kept]:
    """The first row of each question; no row of a question with different golds."""
    groups: dict[str, list[_Kept]] = {}  # by question: one row for each different text and gold
    for kept in problems:
        group = groups.setdefault(kept.problem.text.strip(), [])
        same = [earlier for earlier in group if _is_same_gold(earlier.problem.gold, kept.problem.gold)]
        exact = [earlier for earlier in same if earlier.problem.text == kept.problem.text]
        if exact:
            summary.drop("exact_duplicate", kept.where, f"same question and gold as {exact[0].where}")
        else:
            group.append(kept)
    return [kept for group in groups.values() for kept in _one_of(group, summary)]


def _one_of(group: list[_Kept], summary: Summary) -> list[_Kept]:
    first, *others = group
    conflicting = [kept for kept in others if not _is_same_gold(first.problem.gold, kept.problem.gold)]
    if not conflicting:
        for kept in others:
            summary.drop("duplicate_but_for_outer_spaces", kept.where, f"same question and gold as {first.where}")
        return [first]
    golds = "; ".join(f"{kept.where} has {kept.problem.gold!r}" for kept in group)
    for kept in group:
        is_exact = sum(other.problem.text == kept.problem.text for other in group) > 1
        reason = "conflicting_gold" if is_exact else "conflicting_gold_but_for_outer_spaces"
        summary.drop(reason, kept.where, f"same question, different golds: {golds}")
    return []


def _is_same_gold(first: str, second: str) -> bool:
    values = plain_number(first), plain_number(second)
    return compact(first) == compact(second) or (values[0] is not None and values[0] == values[1])


def _without_unverifiable(problems: list[_Kept], summary: Summary, *, keep: bool) -> list[_Kept]:
    """Compare each gold with itself through math-verify. Plain numbers need no check: they compare exactly.

    Args:
        keep: only flag golds that the default reward cannot grade.
    """
    to_check = [kept for kept in problems if plain_number(tidy(kept.problem.gold)) is None]
    refused: set[str] = set()
    for number, kept in enumerate(to_check, start=1):
        gold, is_list = kept.problem.gold, kept.problem.extra.get("is_multiple_answer")
        kinds = ["prose" if is_prose(each) else _kind_of_gold(each, is_list) for each in golds_of(gold)]
        kind = next((each for each in ("math", "text", "prose") if each in kinds), "none")
        kind = "none" if gold.startswith('{"') else kind  # an object
        reason = "prose_gold" if kind == "prose" else "unverifiable_gold"
        if keep and kind in ("prose", "none"):
            summary.flag("gold_needs_own_reward", kept.where, f"gold {gold!r}")
        elif kind in ("prose", "none"):
            summary.drop(reason, kept.where, f"gold {gold!r}")
            refused.add(kept.where)
        elif kind == "text":
            summary.flag("gold_compared_as_text", kept.where, f"gold {gold!r}")
        if number % PROGRESS_EVERY == 0:
            print(f"{summary.dataset} {summary.split}: {number} of {len(to_check)} golds checked", file=sys.stderr)
    return [kept for kept in problems if kept.where not in refused]


def _kind_of_gold(gold: str, is_list: bool | None) -> Any:
    for _ in range(GOLD_TRIES):  # a busy machine can reach the time limit, too
        with contextlib.suppress(GradingStopped):
            return ask("kind_of_gold", gold=gold, is_list=is_list, time_limit_s=GOLD_TIME_LIMIT_S)
    return "none"


def _to_rows(
    spec: DatasetSpec, split: str, source: str, problems: list[_Kept], style: PromptStyle
) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    where: dict[str, str] = {}
    for kept in problems:
        problem = kept.problem
        own_id = problem.source_id or question_hash(problem)
        prompt_id = own_id if problem.id_is_whole and problem.source_id else f"{spec.name}/{own_id}"
        if prompt_id in rows:
            raise DataError(
                f"{source}: {where[prompt_id]} and {kept.where} have the same id {own_id!r} but different questions."
                " Correct the ids in the source, or remove its id field: ids are then made from the question text."
            )
        where[prompt_id] = kept.where
        rows[prompt_id] = build_row(
            data_source=problem.data_source or spec.name,
            messages=style.messages(problem),
            ground_truth=problem.gold,
            prompt_id=prompt_id,
            split=split,
            index=kept.index,
            extra={"source_id": problem.source_id, **problem.extra},
        )
    return list(rows.values())
