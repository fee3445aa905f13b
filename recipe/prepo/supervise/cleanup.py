"""A small process that outlives the driver and removes what its Ray leaves behind, however the driver ended.

Ray 2.60 leaves two of its agents after a SIGKILL of the driver, and two sockets after every end. All that the driver
starts inherits a mark in its environment, so it is found wherever it is in the process tree (Linux).
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

MARK = "PREPO_STARTED_BY"
GRACE_S = 10.0  # for processes to end by themselves; most do within two seconds
POLL_INTERVAL_S = 0.2


class Sweeper:
    """Cleans up after its ``with`` block, and waits for that; also after a SIGKILL of this process.

    Args:
        roots: folders in which Ray makes its session folders; empty: no Ray is started here, and nothing is done.
        names: glob patterns of the run's own files and folders.
    """

    def __init__(self, roots: Iterable[Path], names: Iterable[str] = (), *, grace_s: float = GRACE_S) -> None:
        sockets = [f"{folder}/sockets/*" for folder in session_folders(roots)]
        mark = uuid.uuid4().hex
        self._arguments = [mark, str(grace_s), json.dumps(sockets), json.dumps(list(names))] if sockets else []
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sweeper:
        if self._arguments:
            # Its input ends with this process, and no signal to the process group reaches it.
            self._process = subprocess.Popen(
                [sys.executable, "-IS", __file__, *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,  # whoever reads the driver's output must not wait for this process
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            os.environ[MARK] = self._arguments[0]
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            os.environ.pop(MARK, None)
            self._process.communicate()  # closes its input


def ray_roots(temp_dir: str | None = None) -> list[Path]:
    """Where a Ray that is started here makes its session folders: ``_temp_dir`` of ``ray.init``, or its default."""
    if temp_dir:
        return [Path(temp_dir)]
    found = [os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp"]
    return list(dict.fromkeys(Path(folder, "ray") for folder in found if folder))


def session_folders(roots: Iterable[Path]) -> list[str]:
    """Glob patterns of the folders of a Ray that this process starts."""
    return [f"{root.resolve()}/session_*_{os.getpid()}" for root in roots]


def processes(mark: str) -> list[int]:
    """Process ids with the mark in the environment that they were started with."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def end_processes(mark: str, grace_s: float) -> None:
    """Wait for the end of all processes with the mark; kill those that stay longer than ``grace_s`` seconds."""
    begin = time.monotonic()
    while (found := processes(mark)) and (waited := time.monotonic() - begin) < 2 * grace_s:
        for pid in found if waited > grace_s else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_INTERVAL_S)


def remove_sockets(pattern: str) -> None:
    """Remove sockets that nobody listens at, not even in another container with the same /tmp. Follows no link."""
    for name in glob.glob(pattern):
        path = Path(name)
        with contextlib.suppress(OSError):
            if path.parent.resolve() == path.parent and stat.S_ISSOCK(path.lstat().st_mode):
                with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(ConnectionRefusedError):
                    client.connect(name)
                    continue
                path.unlink()


def main(mark: str, grace_s: str, sockets: str, names: str) -> None:
    sys.stdin.buffer.read()
    end_processes(mark, float(grace_s))
    for pattern in json.loads(sockets):
        remove_sockets(pattern)
    for name in (name for pattern in json.loads(names) for name in glob.glob(pattern)):
        with contextlib.suppress(OSError):
            shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
