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
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.common import Summary, write_parquet
from data_prep.sources import Located, find_local_file, looks_local, read_file, read_hub
from data_prep.spec import DatasetSpec, Problem
from recipe.prepo.errors import DataError
from recipe.prepo.reward.extract import is_prose
from recipe.prepo.reward.notation import compact, tidy
from recipe.prepo.reward.quantity import plain_number
from recipe.prepo.reward.worker import GradingStopped, ask
from recipe.prepo.rows import build_row

GOLD_TIME_LIMIT_S = 5.0
GOLD_TRIES = 3
PROGRESS_EVERY = 1000


@dataclass(frozen=True)
class PromptStyle:
    """What surrounds the question: an instruction after it, and an optional system message before it."""

    instruction: str
    system: str | None = None

    def messages(self, question: str) -> list[dict[str, str]]:
        """Chat messages for one question.

        >>> PromptStyle("Think.").messages("1+1?")
        [{'role': 'user', 'content': '1+1?\\nThink.'}]
        """
        content = f"{question}\n{self.instruction}" if self.instruction else question
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": content}]


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
    for split in splits or list(spec.splits):
        if not looks_local(source):
            hub_split = spec.splits[split]
            config = spec.hub_config if source == spec.hub_id else None
            found[split] = (f"{source}, split {hub_split}", read_hub(source, config, hub_split))
        elif path := find_local_file(source, split, tuple(spec.splits)):
            found[split] = (str(path), read_file(path))
        elif splits:
            raise DataError(f"--source {source} has no {split} split of {spec.name}.")
    if not found:
        raise DataError(f"--source {source} has none of the splits {', '.join(spec.splits)} of {spec.name}.")
    return [_prepare_split(spec, split, name, rows, out_dir, style) for split, (name, rows) in found.items()]


def _prepare_split(
    spec: DatasetSpec, split: str, source: str, rows: Iterable[Located], out_dir: Path, style: PromptStyle
) -> Summary:
    summary = Summary(spec.name, split, source, out_dir / f"{spec.name}_{split}.parquet")
    kept = _without_unverifiable(_without_repeats(_problems(spec, rows, summary), summary), summary)
    if not kept:
        raise DataError(f"{source}: none of its {summary.num_read} rows can be used.\n{summary}")
    write_parquet(_to_rows(spec, split, source, kept, style), summary.path)
    summary.num_kept = len(kept)
    summary.write()
    return summary


def _problems(spec: DatasetSpec, rows: Iterable[Located], summary: Summary) -> Iterable[_Kept]:
    for index, (where, row) in enumerate(rows):
        summary.num_read += 1
        try:
            problem = spec.to_problem(row)
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
        group = groups.setdefault(kept.problem.question.strip(), [])
        same = [earlier for earlier in group if _is_same_gold(earlier.problem.gold, kept.problem.gold)]
        exact = [earlier for earlier in same if earlier.problem.question == kept.problem.question]
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
        is_exact = sum(other.problem.question == kept.problem.question for other in group) > 1
        reason = "conflicting_gold" if is_exact else "conflicting_gold_but_for_outer_spaces"
        summary.drop(reason, kept.where, f"same question, different golds: {golds}")
    return []


def _is_same_gold(first: str, second: str) -> bool:
    values = plain_number(first), plain_number(second)
    return compact(first) == compact(second) or (values[0] is not None and values[0] == values[1])


def _without_unverifiable(problems: list[_Kept], summary: Summary) -> list[_Kept]:
    """Compare each gold with itself through math-verify. Plain numbers need no check: they compare exactly."""
    to_check = [kept for kept in problems if plain_number(tidy(kept.problem.gold)) is None]
    refused: set[str] = set()
    for number, kept in enumerate(to_check, start=1):
        gold = kept.problem.gold
        if is_prose(gold):
            reason, kind = "prose_gold", "none"
        else:
            reason, kind = "unverifiable_gold", _kind_of_gold(gold, kept.problem.extra.get("is_multiple_answer"))
        if kind == "none":
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
        own_id = problem.source_id or hashlib.sha256(problem.question.strip().encode()).hexdigest()[:16]
        prompt_id = f"{spec.name}/{own_id}"
        if prompt_id in rows:
            raise DataError(
                f"{source}: {where[prompt_id]} and {kept.where} have the same id {own_id!r} but different questions."
                " Correct the ids in the source, or remove its id field: ids are then made from the question text."
            )
        where[prompt_id] = kept.where
        rows[prompt_id] = build_row(
            data_source=spec.name,
            messages=style.messages(problem.question.strip()),
            ground_truth=problem.gold,
            prompt_id=prompt_id,
            split=split,
            index=kept.index,
            extra={"source_id": problem.source_id, **problem.extra},
        )
    return list(rows.values())
