"""This project's state beside verl's checkpoint: versioned JSON with a checksum, written atomically, no pickle."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from recipe.prepo.errors import StateError

FILE_NAME = "prepo_state.json"
FORMAT = "prepo-state"
VERSION = 1
START_OVER = "Resume from another checkpoint (trainer.resume_mode=resume_path), or start over in a new directory \
(trainer.experiment_name=<new name>)."


def _checksum(payload: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part.

    Raises:
        OSError: the file could not be written (a full disk, say); the old content is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_state(folder: Path, payload: dict[str, Any]) -> Path:
    """Write ``payload`` (JSON-able) as ``folder/prepo_state.json``.

    Raises:
        OSError: as :func:`write_atomically`.
    """
    path = folder / FILE_NAME
    document = {"format": FORMAT, "version": VERSION, "sha256": _checksum(payload), "payload": payload}
    write_atomically(path, json.dumps(document, indent=1, sort_keys=True) + "\n")
    return path


def load_state(folder: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote.

    Raises:
        StateError: the file is missing, truncated, edited, or of another version. Nothing is overwritten.
    """
    path = folder / FILE_NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StateError(
            f"{path} is not there: this checkpoint was not written by this recipe, so a resumed run could not make "
            f"the same choices. {START_OVER}"
        ) from None
    except ValueError as error:
        raise StateError(f"{path} is truncated or edited ({error}). {START_OVER}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise StateError(f"{path} is not a state file of this recipe (format {FORMAT!r} expected). {START_OVER}")
    if document.get("version") != VERSION:
        raise StateError(
            f"{path} has state version {document.get('version')!r}, this release reads version {VERSION}. "
            f"Resume with the release that wrote it. {START_OVER}"
        )
    payload = document.get("payload")
    if not isinstance(payload, dict) or document.get("sha256") != _checksum(payload):
        raise StateError(f"{path} does not match its checksum: it was edited or damaged. {START_OVER}")
    return payload
