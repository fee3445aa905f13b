"""Append-only JSON-lines files that hold each training step once, also after a resume."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from recipe.prepo.run.files import write_atomically


class StepLog:
    """One JSON object per line, each with an integer "step".

    Lines are written whole and flushed. Opening after a resume drops the lines of steps that will run again, and a
    torn last line. Opening at step 0 over the file of an earlier run keeps that file under a numbered name.
    """

    def __init__(self, path: Path, *, resume_step: int) -> None:
        """Open the log; ``resume_step`` is the last step of the resumed checkpoint, 0 for a new run."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.last_step = -1
        if resume_step > 0 and path.exists():
            write_atomically(path, partial(self._copy_kept, resume_step))
        elif path.exists() and path.stat().st_size:
            names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in itertools.count(1))
            os.replace(path, next(name for name in names if not name.exists()))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (stays open for the whole run)

    def _copy_kept(self, resume_step: int, file: IO[bytes]) -> None:
        for line in read_lines(self.path):
            if line["step"] <= resume_step:
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                self.last_step = max(self.last_step, line["step"])

    def append(self, lines: Iterable[dict[str, Any]]) -> None:
        text = ""
        for line in lines:
            self.last_step = max(self.last_step, int(line["step"]))
            text += json.dumps(line, default=lambda array: array.tolist(), ensure_ascii=False) + "\n"
        self._file.write(text)
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log in order, up to the first that is torn or still being written."""
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                entry = json.loads(line)
            except ValueError:
                return
            if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
                return
            yield entry


def log_identity(path: Path) -> tuple[int, int] | None:
    """Tells apart two files of the same name; None for a missing or empty one, to which the next run appends."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status.st_size else None
