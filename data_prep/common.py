"""Shared by all data sets: writing the file, and the summary of kept and dropped rows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recipe.prepo.rows import validate_rows

DEFAULT_INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
NUM_LISTED = 20

# Every file has these fields of extra_info, null if the data set lacks them. verl concatenates a run's files with
# `datasets.concatenate_datasets`, which refuses structs that differ.
EXTRA_FIELDS: dict[str, pa.DataType] = {
    "prompt_id": pa.string(),
    "split": pa.string(),
    "index": pa.int64(),
    "source_id": pa.string(),
    "level": pa.string(),
    "subject": pa.string(),
    "answer_type": pa.string(),
    "unit": pa.string(),
    "error": pa.string(),
    "is_multiple_answer": pa.bool_(),
}


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


@dataclass
class Listing:
    """Rows that were dropped or flagged for one reason: their number, and the first ``NUM_LISTED`` as `where: what`."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, where: str, detail: str = "") -> None:
        """Count one row; ``where`` is its place in the source."""
        self.count += 1
        if len(self.first) < NUM_LISTED:
            self.first.append(f"{where}: {detail}" if detail else where)


@dataclass
class Summary:
    """Outcome of preparing one split. ``num_read`` is ``num_kept`` plus all dropped."""

    dataset: str
    split: str
    source: str
    path: Path
    num_read: int = 0
    num_kept: int = 0
    dropped: dict[str, Listing] = field(default_factory=dict)
    flagged: dict[str, Listing] = field(default_factory=dict)

    def drop(self, reason: str, where: str, detail: str = "") -> None:
        """Count one row as dropped."""
        self.dropped.setdefault(reason, Listing()).add(where, detail)

    def flag(self, remark: str, where: str, detail: str = "") -> None:
        """Record a remark on a row that was kept."""
        self.flagged.setdefault(remark, Listing()).add(where, detail)

    def as_dict(self) -> dict[str, Any]:
        """The content of the summary file."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "source": self.source,
            "file": self.path.name,
            "rows_read": self.num_read,
            "rows_kept": self.num_kept,
            "dropped": {reason: asdict(listing) for reason, listing in sorted(self.dropped.items())},
            "flagged": {remark: asdict(listing) for remark, listing in sorted(self.flagged.items())},
        }

    def write(self) -> Path:
        """Write ``<file stem>.summary.json`` beside the parquet file; returns its path."""
        path = self.path.with_name(f"{self.path.stem}.summary.json")
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n"
        _replace_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        return path

    def __str__(self) -> str:
        lines = [f"{self.path}: read {self.num_read}, kept {self.num_kept} (source: {self.source})"]
        for word, listings in (("dropped", self.dropped), ("kept but flagged", self.flagged)):
            for reason, listing in sorted(listings.items()):
                lines.append(f"  {word} {listing.count}, {reason}:")
                lines += [f"    {row}" for row in listing.first]
                if listing.count > len(listing.first):
                    lines.append(f"    … and {listing.count - len(listing.first)} more")
        return "\n".join(lines)


def write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Check ``rows`` (made by ``build_row``) and write them in order. The same rows give the same bytes.

    The file is written atomically. Fields of ``extra_info`` beyond ``EXTRA_FIELDS`` come after those.

    Raises:
        DataError: a row breaks the data contract.
    """
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=_schema(rows))
    validate_rows(table, name=str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace_atomically(path, lambda temporary: pq.write_table(table, temporary, compression="snappy"))


def _schema(rows: Sequence[Mapping[str, Any]]) -> pa.Schema:
    own = sorted({key for row in rows for key in row["extra_info"]} - EXTRA_FIELDS.keys())
    inferred = {key: pa.array([row["extra_info"].get(key) for row in rows]).type for key in own}
    return pa.schema(
        {
            "data_source": pa.string(),
            "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
            "ability": pa.string(),
            "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
            "extra_info": pa.struct({**EXTRA_FIELDS, **inferred}),
        }
    )


def _replace_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
