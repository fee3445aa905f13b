"""A small process that outlives the driver and takes away what its Ray leaves, however the driver ended.

Where a driver is killed, Ray 2.60 ends most of its processes with it, but not the dashboard's and the runtime
environment's agents; and its two sockets stay also after an ordinary end. Each process of a Ray that a driver started
is in the driver's POSIX session and writes its log in a folder that has the driver's process id in its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

GRACE_S = 10.0  # for processes to end by themselves, which most do within one or two seconds
POLL_INTERVAL_S = 0.2


class Sweeper:
    """Sweeps after its ``with`` block, and then waits until that is done; or after this process was killed.

    Args:
        roots: folders in which Ray makes its session folders; empty: none is started here, and nothing is done.
        grace_s: time that processes have to end by themselves, in seconds.
    """

    def __init__(self, roots: Iterable[Path], *, grace_s: float = GRACE_S) -> None:
        self._roots = list(roots)
        self._grace_s = grace_s
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sweeper:
        if self._roots:
            driver = os.getpid()
            # Of an earlier process with this number, perhaps in another container.
            before = sessions(self._roots, driver)
            task: dict[str, Any] = {"driver": driver, "posix_session": os.getsid(0), "grace_s": self._grace_s}
            task |= {"roots": self._roots, "before": sorted(before)}
            # Its standard input ends when this process does; a signal to the process group must not reach it.
            self._process = subprocess.Popen(
                [sys.executable, __file__, json.dumps(task, default=str)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,  # whoever reads the driver's output must not wait for this process
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()


def ray_roots(temp_dir: str | None = None) -> list[Path]:
    """Where a Ray that is started here makes its session folders: ``_temp_dir`` of ``ray.init``, or its default."""
    if temp_dir:
        return [Path(temp_dir)]
    found = [os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp"]
    return list(dict.fromkeys(Path(folder, "ray") for folder in found if folder))


def sessions(roots: Iterable[Path], driver: int) -> set[Path]:
    """Session folders of the Ray that process ``driver`` started.

    Ray lets everyone write where it makes them, so a link, or another user's folder, is none.
    """
    found = set()
    for folder in (folder for root in roots for folder in root.glob(f"session_*_{driver}")):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                found.add(folder.resolve())
    return found


def writers(folders: Iterable[Path], posix_session: int) -> list[psutil.Process]:
    """Processes of this POSIX session that have a file below one of the folders open for writing.

    What only reads a log there, or joined this Ray from another terminal, is its user's.
    """
    starts = tuple(f"{folder}{os.sep}" for folder in folders)
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended, or is another user's
            if os.getsid(process.pid) != posix_session:
                continue
            if any(file.path.startswith(starts) and file.mode != "r" for file in process.open_files()):
                found.append(process)
    return found


def sweep(folders: Iterable[Path], driver: int, posix_session: int, *, grace_s: float) -> None:
    """Wait until the processes of these Ray sessions are gone, kill those that stay, and remove the sockets."""
    folders = list(folders)
    deadline = time.monotonic() + grace_s
    while left := [process for process in writers(folders, posix_session) if process.pid != driver]:
        if time.monotonic() > deadline:
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=grace_s)
            break
        time.sleep(POLL_INTERVAL_S)
    for folder in folders:
        if not (folder / "sockets").is_symlink():
            for path in folder.glob("sockets/*"):
                with contextlib.suppress(OSError):
                    if is_dead_socket(path):
                        path.unlink()


def is_dead_socket(path: Path) -> bool:
    """Whether this is a Unix socket that nobody listens at, not even in another container with the same /tmp."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False


def main(task: dict[str, Any]) -> None:
    """Wait for the end of standard input, then sweep."""
    sys.stdin.buffer.read()
    folders = sessions(map(Path, task["roots"]), task["driver"]) - set(map(Path, task["before"]))
    sweep(folders, task["driver"], task["posix_session"], grace_s=task["grace_s"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
