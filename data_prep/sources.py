"""Reading a data set's rows from a local file or folder, or from the Hugging Face hub."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recipe.prepo.errors import DataError

HUB_TIMEOUT_S = 5
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv")
LISTS = ("data", "rows", "examples", "train", "test", "instances", "questions", "problems")  # in a JSON document
SPLITS = {"train": "train", "training": "train", "test": "test", "eval": "test"}  # word in a file's name -> split
SPLITS |= dict.fromkeys(("val", "valid", "validation", "dev"), "validation")
Located = tuple[str, Mapping[str, Any]]  # the row's place ("line 17", "row 16"), and the row


def looks_local(source: str) -> bool:
    """Whether ``source`` names a file or folder, not a hub id (``owner/name``)."""
    return Path(source).expanduser().exists() or source.endswith(SUFFIXES) or source.startswith(("/", ".", "~"))


def split_of(path: Path) -> str:
    """The split that a file's name tells; "" for none.

    >>> split_of(Path("my_dev_set.jsonl")), split_of(Path("train-00000-of-00001.parquet")), split_of(Path("data.csv"))
    ('validation', 'train', '')
    """
    return next((SPLITS[word] for word in re.split(r"[^a-z0-9]+", path.stem.lower()) if word in SPLITS), "")


def local_files(source: str) -> dict[str, list[Path]]:
    """The data files of a file or folder (or of the folder ``data`` in it), by :func:`split_of`.

    Raises:
        DataError: there is none.
    """
    path, kinds = Path(source).expanduser(), ", ".join(SUFFIXES)
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise DataError(f"--source {source}: its suffix is {path.suffix!r}, but must be one of {kinds}.")
        return {split_of(path): [path]}
    if not path.is_dir():
        raise DataError(f"--source {source}: no such file or folder. Give a {kinds} file, a folder or a hub id.")
    candidates = sorted(p for folder in (path, path / "data") for p in folder.glob("*") if p.suffix in SUFFIXES)
    files: dict[str, list[Path]] = {}
    for file in (each for each in candidates if not each.name.endswith(".summary.json")):
        files.setdefault(split_of(file), []).append(file)
    if not files:
        raise DataError(f"--source {source}: the folder has no file of {kinds}.")
    return files


def read_files(files: Sequence[Path]) -> Iterator[Located]:
    """Rows of one split's files, one after another."""
    for file in files:
        yield from ((f"{file.name} {where}" if len(files) > 1 else where, row) for where, row in read_file(file))


def read_file(path: Path) -> Iterator[Located]:
    """Rows of a .parquet, .csv or .tsv file ("row 0" first), of JSON lines ("line 1"), or of a JSON list ("item 0").

    A JSON document may also be an object with the list (``{"data": […]}``), or columns as pandas writes them. Text may
    be UTF-8 or UTF-16, with or without a byte-order mark, or Windows' cp1252.

    Raises:
        DataError: the file cannot be read as its suffix says.
    """
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        yield from _read_csv(path)
    else:
        text = _text(path)
        document = _json_document(path, text)
        if document is not None:
            yield from ((f"item {i}", _as_row(path, f"item {i}", row)) for i, row in enumerate(document))
            return
        for number, line in enumerate(io.StringIO(text), start=1):
            if line.strip():
                yield f"line {number}", _as_row(path, f"line {number}", _json(path, f", line {number}", line))


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _read_csv(path: Path) -> Iterator[Located]:
    """Every value is text, so that "025" keeps its zero. The separator is the one that occurs most in the header."""
    text = _text(path)
    header = text.lstrip().partition("\n")[0]
    try:
        separator = max(",;\t|", key=header.count)
        table = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from error
    yield from ((f"row {i}", row) for i, row in enumerate(table.to_dict("records")))


def _json_document(path: Path, text: str) -> list[Any] | None:
    """The rows of a file that is one JSON document; None for JSON lines."""
    if text.lstrip().startswith("["):
        return list(_json(path, "", text))
    if path.suffix == ".jsonl":
        return None
    try:
        document = json.loads(text)
    except json.JSONDecodeError:
        return None
    for name in LISTS if isinstance(document, dict) else ():
        if isinstance(document.get(name), list):
            return list(document[name])
    keys = [list(column) for column in document.values() if isinstance(column, dict)]
    if len(keys) == len(document) > 1 and all(each == keys[0] for each in keys):  # pandas' to_json
        return [{name: column[key] for name, column in document.items()} for key in keys[0]]
    return [document]


def hub_splits(hub_id: str, config: str | None) -> list[str]:
    """Names of the splits of a data set on the Hugging Face hub.

    Raises:
        DataError: the hub cannot be reached, or lacks the data set or configuration.
    """
    datasets = _datasets(hub_id)
    try:
        return list(datasets.get_dataset_split_names(hub_id, config))
    except Exception as error:  # the hub client raises many kinds of error
        raise _no_hub(hub_id, config, "its splits", error) from error


def read_hub(hub_id: str, config: str | None, split: str) -> Iterator[Located]:
    """Rows of one split of a data set on the Hugging Face hub.

    Raises:
        DataError: the hub cannot be reached, or lacks the data set, configuration or split.
    """
    datasets = _datasets(hub_id)
    try:
        rows = datasets.load_dataset(hub_id, config, split=split)
    except Exception as error:  # the hub client raises many kinds of error
        raise _no_hub(hub_id, config, f"split {split}", error) from error
    yield from ((f"row {i}", row) for i, row in enumerate(rows))


def _datasets(hub_id: str) -> Any:
    """The library, told to use its cache alone where the hub cannot be reached; it would try for half a minute."""
    import datasets
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().dataset_info(hub_id, timeout=HUB_TIMEOUT_S)
    except (HfHubHTTPError, HFValidationError):  # the library says what is wrong with the name
        pass
    except Exception:  # the client's transport raises many kinds of error
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    return datasets


def _no_hub(hub_id: str, config: str | None, what: str, error: Exception) -> DataError:
    return DataError(
        f"cannot load {hub_id}{f' ({config})' if config else ''}, {what}, from the Hugging Face hub:"
        f" {type(error).__name__}: {error}. Check the name and the connection; without a connection, download the"
        " file elsewhere and give it as `--source path/to/file.parquet` (or .jsonl)."
    )


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
    if isinstance(row, list) and row and all(isinstance(message, dict) for message in row):
        return {"messages": row}
    if not isinstance(row, dict):
        raise DataError(f"{path}, {where}: it is a {type(row).__name__}, but must be an object with the row's fields.")
    return row
