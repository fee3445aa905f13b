"""Stand-ins for commands on a PATH, for tests of shell scripts."""

import shutil
from collections.abc import Iterable
from pathlib import Path


def executable(path: Path, text: str) -> None:
    """A bash script; in the place of a link, too."""
    path.unlink(missing_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def path_folder(folder: Path, names: Iterable[str]) -> Path:
    """A folder for PATH that holds exactly these commands of this machine."""
    folder.mkdir(exist_ok=True)
    for name in names:
        found = shutil.which(name)
        assert found, f"this machine has no {name}"
        (folder / name).symlink_to(found)
    return folder
