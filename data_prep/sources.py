"""Reading a data set's rows from a local file or folder, or from the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recipe.prepo.errors import DataError

SUFFIXES = (".jsonl", ".json", ".parquet")
Located = tuple[str, Mapping[str, Any]]  # the row's place ("line 17", "row 16"), and the row


def looks_local(source: str) -> bool:
    """Whether ``source`` names a file or folder, not a hub id (``owner/name``)."""
    return Path(source).expanduser().exists() or source.endswith(SUFFIXES) or source.startswith(("/", ".", "~"))


def find_local_file(source: str, split: str, all_splits: tuple[str, ...]) -> Path | None:
    """The file of ``split``; None if the source has only another split.

    A file belongs to the split in its name ("train" or "test"), or to the only split of the data set. In a folder, it
    is the file whose name starts with the split, else the only data file.

    Raises:
        DataError: there is no such file, or several match.
    """
    path = Path(source).expanduser()
    if path.is_file():
        named = [name for name in ("train", "test") if name in path.stem]
        if len(all_splits) == 1 or named == [split]:
            return path
        if len(named) == 1:
            return None
        raise DataError(
            f"{path}: its name has neither train nor test; rename it, or give a folder with train and test files."
        )
    if not path.is_dir():
        raise DataError(
            f"--source {source}: no such file or folder. Give a {', '.join(SUFFIXES)} file, a folder or a hub id."
        )
    files = sorted(p for folder in (path, path / "data") for p in folder.glob("*") if p.suffix in SUFFIXES)
    matching = [p for p in files if p.name.startswith(split)]
    if not matching and len(files) == 1 and len(all_splits) == 1:
        matching = files
    if len(matching) == 1:
        return matching[0]
    if len(matching) > 1:
        names = ", ".join(p.name for p in matching)
        raise DataError(f"{path}: several files match the {split} split ({names}). Give the file itself as --source.")
    if files and len(all_splits) > 1:
        return None
    raise DataError(f"{path}: has no {split} file ({split}.jsonl, {split}.json or {split}*.parquet).")


def read_file(path: Path) -> Iterator[Located]:
    """Rows of a .parquet file ("row 0" first), of JSON lines ("line 1" first), or of a JSON list ("item 0" first).

    Raises:
        DataError: the file cannot be read as its suffix says.
    """
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
        return
    with path.open(encoding="utf-8") as file:
        start = file.read(64).lstrip()
        file.seek(0)
        if start.startswith("["):
            yield from (
                (f"item {i}", _as_row(path, f"item {i}", row)) for i, row in enumerate(_json(path, "", file.read()))
            )
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"line {number}", _as_row(path, f"line {number}", _json(path, f", line {number}", line))


def read_hub(hub_id: str, config: str | None, split: str) -> Iterator[Located]:
    """Rows of one split of a data set on the Hugging Face hub.

    Raises:
        DataError: the hub cannot be reached, or lacks the data set, configuration or split.
    """
    import datasets

    try:
        rows = datasets.load_dataset(hub_id, config, split=split)
    except Exception as error:  # the hub client raises many kinds of error
        raise DataError(
            f"cannot load {hub_id}{f' ({config})' if config else ''}, split {split}, from the Hugging Face hub:"
            f" {type(error).__name__}: {error}. Check the name and the connection; without a connection, download the"
            " file elsewhere and give it as `--source path/to/file.parquet` (or .jsonl)."
        ) from error
    yield from ((f"row {i}", row) for i, row in enumerate(rows))


def _read_parquet(path: Path) -> Iterator[Located]:
    try:
        parquet = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}") from error
    with parquet:
        number = 0
        for batch in parquet.iter_batches(batch_size=8192):
            for row in batch.to_pylist():
                yield f"row {number}", row
                number += 1


def _json(path: Path, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}{where}: not valid JSON ({error}).") from error


def _as_row(path: Path, where: str, row: Any) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{path}, {where}: it is a {type(row).__name__}, but must be an object with the row's fields.")
    return row
