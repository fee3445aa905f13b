"""The recipe's state beside verl's checkpoint: versioned, with checksums, written atomically, without pickle.

Values are JSON in ``prepo_state.json``; NumPy arrays are in an ``.npz`` file that it names.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from recipe.prepo.errors import StateError
from recipe.prepo.run.files import file_sha256, write_atomically

FILE_NAME = "prepo_state.json"
LATEST_FILE = "latest_checkpointed_iteration.txt"  # verl's, with the step to resume from
FORMAT = "prepo-state"
VERSION = 3
ARRAY = "__array__"
EDITED = "does not match its checksum: it was edited or damaged"


def _refused(path: Path, why: str) -> StateError:
    return StateError(
        f"{path} {why}. Resume from another checkpoint (trainer.resume_mode=resume_path), or start over in a new "
        f"directory (trainer.experiment_name=<new name>)."
    )


def _checksum(payload: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


def _take_arrays(value: Any, name: str, arrays: dict[str, Any]) -> Any:
    """The payload with each array moved into ``arrays`` by its path, and a marker in its place."""
    if isinstance(value, np.ndarray):
        assert value.dtype.kind in "biuf", f"{name}: an array of {value.dtype} would be pickled"
        arrays[name] = value
        return {ARRAY: name}
    if isinstance(value, dict):
        return {key: _take_arrays(item, f"{name}.{key}" if name else key, arrays) for key, item in value.items()}
    return value


def _put_arrays(value: Any, arrays: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {ARRAY}:
            return arrays[value[ARRAY]]
        return {key: _put_arrays(item, arrays) for key, item in value.items()}
    return value


def save_state(folder: Path, payload: dict[str, Any]) -> Path:
    """Write ``payload`` (JSON values and NumPy arrays, in nested dictionaries) into ``folder``.

    The file of the arrays is written first, under a name of its own for each content, so that an interrupted write
    leaves the previous state intact.
    """
    path, keep = folder / FILE_NAME, None
    arrays: dict[str, Any] = {}
    values = _take_arrays(payload, "", arrays)
    document = {"format": FORMAT, "version": VERSION, "sha256": _checksum(values), "payload": values}
    if arrays:
        unnamed = folder / "prepo_arrays.npz"
        write_atomically(unnamed, lambda file: np.savez(file, **arrays))
        checksum = file_sha256(unnamed)
        keep = folder / f"prepo_arrays-{checksum[:16]}.npz"
        os.replace(unnamed, keep)
        document["arrays"] = {"file": keep.name, "sha256": checksum}
    write_atomically(path, json.dumps(document, indent=1, sort_keys=True) + "\n")
    for old in {*folder.glob("prepo_arrays*.npz")} - {keep}:
        old.unlink()
    return path


def load_state(folder: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote; a StateError where it is missing, damaged, or of another version."""
    path = folder / FILE_NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _refused(path, "does not exist, so this recipe did not write this checkpoint") from None
    except ValueError as error:
        raise _refused(path, f"is truncated or edited ({error})") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise _refused(path, "is not a state file of this recipe")
    if document.get("version") != VERSION:
        why = f"has state version {document.get('version')!r}, this release reads version {VERSION}"
        raise _refused(path, f"{why}. Resume with the release that wrote it")
    payload: Any = document.get("payload")
    if document.get("sha256") != _checksum(payload):
        raise _refused(path, EDITED)
    if "arrays" not in document:
        return payload
    path = folder / Path(document["arrays"]["file"]).name
    try:
        if file_sha256(path) == document["arrays"]["sha256"]:
            with np.load(path, allow_pickle=False) as file:
                return _put_arrays(payload, dict(file))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise _refused(path, f"cannot be read: {error!r}") from error
    raise _refused(path, EDITED)


def is_complete(folder: Path) -> bool:
    """Whether a ``global_step_N`` folder has every part that this recipe and verl write; verl's last one is intact."""
    return (folder / FILE_NAME).is_file() and any(folder.glob("actor/*")) and zipfile.is_zipfile(folder / "data.pt")


def latest_checkpoint(run_dir: Path, *, repair: bool = False) -> int:
    """Step of the checkpoint that verl would resume from; 0 when there is none.

    verl 0.9.1 does not write the name of the latest checkpoint atomically. Where the file is empty or names a deleted
    folder, this returns the newest complete checkpoint, and ``repair`` writes its name to the file.

    Raises:
        StateError: the named checkpoint is incomplete.
    """
    latest = run_dir / LATEST_FILE
    if not latest.exists():
        return 0
    text = latest.read_text(encoding="utf-8", errors="replace").strip()
    steps = _steps(run_dir)
    complete = [step for step in steps if is_complete(run_dir / f"global_step_{step}")]
    if text.isdecimal() and int(text) in complete:
        return int(text)
    if text.isdecimal() and int(text) in steps:
        why = f"lacks a part of a checkpoint (actor/, data.pt or {FILE_NAME}), so no run can resume from it"
        others = f". Complete checkpoints: steps {', '.join(map(str, complete))}" if complete else ""
        raise _refused(run_dir / f"global_step_{text}", why + others)
    step = complete[-1] if complete else 0
    if repair:
        write_atomically(latest, str(step))
    return step


def archive(run_dir: Path, *, after: int) -> Path | None:
    """Move the checkpoints of later steps, if there are any, into a folder of their own, which is returned.

    Otherwise a run that starts over, or goes on from an earlier step, would write into them and resume from them.
    """
    steps = _steps(run_dir)
    if not steps or steps[-1] <= after:
        return None
    folder = next(name for n in itertools.count(1) if not (name := run_dir / f"earlier_{n}").exists())
    folder.mkdir()
    (run_dir / LATEST_FILE).unlink(missing_ok=True)
    if after in steps:
        write_atomically(run_dir / LATEST_FILE, str(after))
    for later in (f"global_step_{step}" for step in steps if step > after):
        (run_dir / later).rename(folder / later)
    return folder


def _steps(run_dir: Path) -> list[int]:
    return sorted(int(name) for path in run_dir.glob("global_step_*") if (name := path.name[12:]).isdecimal())
