"""An output folder: ``settings.json`` and JSON lines to which samples are added, also by a later call."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from recipe.prepo.errors import StateError

SETTINGS, GENERATIONS, PROMPTS = "settings.json", "generations.jsonl", "prompts.jsonl"


@dataclass(frozen=True)
class Sample:
    """One response. ``finish_reason`` is vLLM's: «length» means cut at the token limit."""

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


@dataclass(frozen=True)
class ScoredPrompt:
    """A prompt's mean negative log-likelihood per token (nats) and the number of scored tokens."""

    prompt_id: str
    nll_nats: float
    num_tokens: int


class Store:
    """What a folder holds. Lines are written whole; a torn last line, of a call that was killed, is dropped."""

    def __init__(self, folder: Path) -> None:
        self.samples = {(s.prompt_id, s.sample): s for s in _read(folder / GENERATIONS, Sample)}
        self.prompts = {p.prompt_id: p for p in _read(folder / PROMPTS, ScoredPrompt)}
        self._generations: IO[str] = open(folder / GENERATIONS, "a", encoding="utf-8")  # noqa: SIM115
        self._prompts: IO[str] = open(folder / PROMPTS, "a", encoding="utf-8")  # noqa: SIM115

    def add_sample(self, sample: Sample) -> None:
        self.samples[sample.prompt_id, sample.sample] = sample
        _write(self._generations, sample)

    def add_prompt(self, prompt: ScoredPrompt) -> None:
        self.prompts[prompt.prompt_id] = prompt
        _write(self._prompts, prompt)

    def close(self) -> None:
        self._generations.close()
        self._prompts.close()


@contextmanager
def open_store(folder: Path, settings: Mapping[str, Any]) -> Iterator[Store]:
    """The folder's store, made when it is new, for this call alone.

    Args:
        settings: JSON-able; what makes samples comparable (model, data, sampling). Keys «path» are only informed of.

    Raises:
        StateError: the folder holds samples of another model, other data or settings (names the first difference), is
            damaged, holds something else, or is in use.
    """
    require_same(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(
                f"--out {folder} is in use by another call. Wait for it, or give another --out."
            ) from error
        temporary = folder / f".{SETTINGS}.tmp"
        temporary.write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, folder / SETTINGS)
        store = Store(folder)
        try:
            yield store
        finally:
            store.close()


def require_same(folder: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to mix what cannot be compared; see :func:`open_store`."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StateError(f"--out {folder} is a file. Give a folder.")
    if not (folder / SETTINGS).exists():
        if (folder / GENERATIONS).exists():
            raise StateError(f"--out {folder} holds {GENERATIONS}, but not the {SETTINGS} it belongs to. Give another.")
        return
    try:
        found = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except ValueError as error:
        raise StateError(f"{folder / SETTINGS} is damaged ({error}). Give another --out.") from error
    for name, (before, now) in _differences(found, dict(settings)).items():
        raise StateError(
            f"--out {folder} holds samples of another {name}: {before!r} there, {now!r} now. Give another --out, or the"
            f" settings that stand in {folder / SETTINGS}."
        )


def _differences(found: Any, wanted: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        differing: dict[str, tuple[Any, Any]] = {}
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            if key != "path":
                inner = f"{name}.{key}" if name else str(key)
                differing |= _differences(found.get(key), wanted.get(key), inner)
        return differing
    return {} if found == wanted else {name: (found, wanted)}


def _read(path: Path, kind: type[Any]) -> list[Any]:
    """The file's lines as objects; cuts a torn last line off the file."""
    if not path.exists():
        return []
    whole = 0
    found = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                found.append(kind(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise StateError(
                    f"{path}: line {number} is damaged ({error}). Delete that line, and the same call makes it again."
                ) from error
            whole += len(line)
    if whole < path.stat().st_size:
        os.truncate(path, whole)
    return found


def _write(file: IO[str], entry: Any) -> None:
    file.write(json.dumps(asdict(entry), ensure_ascii=False) + "\n")
    file.flush()
