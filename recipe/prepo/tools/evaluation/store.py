"""An output folder: ``settings.json``, and JSON lines of samples that later calls append to."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from recipe.prepo.errors import StateError
from recipe.prepo.run.files import write_atomically

SETTINGS, GENERATIONS, PROMPTS = "settings.json", "generations.jsonl", "prompts.jsonl"


@dataclass(frozen=True)
class Sample:
    """One response. ``finish_reason`` is vLLM's: "length" means cut at the token limit.

    ``correct`` is None in samples of earlier releases, which had rewards of 1 and 0 only.
    """

    set: str
    prompt_id: str
    sample: int
    seed: int
    text: str
    num_tokens: int
    finish_reason: str
    reward: float
    answer: str | None
    timed_out: bool
    correct: bool | None = None

    @property
    def is_correct(self) -> bool:
        return self.reward == 1.0 if self.correct is None else self.correct


@dataclass(frozen=True)
class ScoredPrompt:
    """A prompt's mean negative log-likelihood per token, in nats, and the number of scored tokens."""

    prompt_id: str
    nll_nats: float
    num_tokens: int


class Records(dict[Any, Any]):
    """The records of a JSON-lines file by key; what is added is on disk at once.

    A torn last line, of a call that was killed, is cut off the file.

    Raises:
        StateError: a line is damaged.
    """

    def __init__(self, path: Path, kind: type[Any], *key: str) -> None:
        super().__init__()
        self._key = attrgetter(*key)
        self._file = open(path, "a+b")  # noqa: SIM115 (stays open while samples are made)
        self._file.seek(0)
        complete = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                self._file.truncate(complete)
                break
            try:
                record = kind(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise StateError(
                    f"{path}: line {number} is damaged ({error}). Delete that line, and the same call replaces it."
                ) from error
            self[self._key(record)] = record
            complete += len(line)

    def add(self, record: Any) -> None:
        self[self._key(record)] = record
        self._file.write(json.dumps(asdict(record), ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


@contextmanager
def open_store(folder: Path, settings: Mapping[str, Any]) -> Iterator[tuple[Records, Records]]:
    """The folder's samples by (prompt_id, sample), and its scored prompts by prompt_id. Creates the folder.

    Args:
        settings: what makes samples comparable (model, data, sampling). Keys named "path" may differ.

    Raises:
        StateError: the folder has samples with other settings (names the first difference), is damaged, or is in use.
    """
    if folder.exists() and not folder.is_dir():
        raise StateError(f"--out {folder} is a file. Give a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(
                f"--out {folder} is in use by another call. Wait for it, or give another --out."
            ) from error
        if (folder / GENERATIONS).exists():
            try:
                found = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise StateError(
                    f"--out {folder} has samples of unknown settings: {error}. Give another one."
                ) from error
            if difference := _difference(found, settings):
                raise StateError(
                    f"--out {folder} has samples of another {difference}. Give another --out, or the settings in"
                    f" {folder / SETTINGS}."
                )
        write_atomically(folder / SETTINGS, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
        with (
            closing(Records(folder / GENERATIONS, Sample, "prompt_id", "sample")) as samples,
            closing(Records(folder / PROMPTS, ScoredPrompt, "prompt_id")) as prompts,
        ):
            yield samples, prompts


def _difference(found: Any, wanted: Any, name: str = "") -> str | None:
    """The first difference, as ``name: value there, value now``."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        keys = [key for key in {**wanted, **found} if key != "path"]
        inner = (_difference(found.get(key), wanted.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
        return next(filter(None, inner), None)
    return None if found == wanted else f"{name}: {found!r} there, {wanted!r} now"


def write_json(path: Path, content: Any) -> None:
    """Write JSON. NaN, which JSON does not have, becomes null."""
    content = json.loads(json.dumps(content), parse_constant=lambda _: None)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
