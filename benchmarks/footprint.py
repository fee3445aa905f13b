"""Finds the processes, shared-memory segments and sockets of a run, and what is left of them after its end.

Every process of a run inherits a token in its environment, wherever it is in the process tree, so that nobody else's
processes are counted or killed. Names of segments and sockets are recorded while a process of the run has them open.
Linux only, without libraries.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

TOKEN_NAME = "PREPO_FOOTPRINT"
SAMPLE_INTERVAL_S = 1.0


@dataclass(frozen=True)
class Leftovers:
    """What is left of a run after its end."""

    processes: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.processes or self.segments or self.sockets)

    def __str__(self) -> str:
        parts = [("processes", self.processes), ("segments", self.segments), ("sockets", self.sockets)]
        return "; ".join(f"{name}: {', '.join(found)}" for name, found in parts if found) or "nothing"


@dataclass
class Footprint:
    """Watches the processes that carry the token, in a thread, while its ``with`` block runs."""

    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    segments: set[str] = field(default_factory=set)
    sockets: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._seen: set[tuple[int, str]] = set()  # process ids with their start times
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True, name="footprint")

    @property
    def environment(self) -> dict[str, str]:
        """To add to the environment of the run."""
        return {TOKEN_NAME: self.token}

    def __enter__(self) -> Footprint:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def processes(self) -> list[int]:
        """Process ids with the token, and of their descendants (some overwrite their environment); no zombies."""
        wanted = f"{TOKEN_NAME}={self.token}".encode()
        parents, found = {}, set()
        for pid in _pids():
            state, parent, started = status_of(pid)
            if state not in ("", "Z"):
                parents[pid] = parent
                if (pid, started) in self._seen or wanted in _read(f"/proc/{pid}/environ").split(b"\0"):
                    found.add(pid)
        while children := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= children
        self._seen.update((pid, status_of(pid)[2]) for pid in found)
        return sorted(found)

    def wait_for_end(self, limit_s: float) -> bool:
        """Wait until no process is left; False when some still are after the limit."""
        deadline = time.monotonic() + limit_s
        while self.processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        return True

    def kill(self) -> int:
        """SIGKILL for whatever still runs; returns how many there were."""
        pids = self.processes()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return len(pids)

    def leftovers(self) -> Leftovers:
        return Leftovers(
            processes=tuple(f"{pid} {command_of(pid)[:60]}" for pid in self.processes()),
            segments=tuple(sorted(name for name in self.segments if Path(name).exists())),
            sockets=tuple(sorted(name for name in self.sockets if Path(name).exists())),
        )

    def clean(self) -> None:
        """Remove the segments and sockets that are left."""
        found = self.leftovers()
        for name in (*found.segments, *found.sockets):
            Path(name).unlink(missing_ok=True)

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_INTERVAL_S):
            names = _bound_sockets()
            for pid in self.processes():
                self.segments.update(_mapped_segments(pid))
                self.sockets.update(names[inode] for inode in _socket_inodes(pid) if inode in names)


def command_of(pid: int) -> str:
    """The command line of a process; empty when it is gone."""
    return _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def status_of(pid: int) -> tuple[str, int, str]:
    """State letter, parent and start time of a process; an empty letter when it is gone."""
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].decode().split()
    return (fields[0], int(fields[1]), fields[19]) if fields else ("", 0, "")


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # the process has ended, or is another user's
        return b""


def _mapped_segments(pid: int) -> set[str]:
    """Files below /dev/shm that the process has mapped, by number: a semaphore is mapped under a temporary name."""
    lines = _read(f"/proc/{pid}/maps").decode(errors="replace").splitlines()
    numbers = {int(line.split(maxsplit=5)[4]) for line in lines if "/dev/shm/" in line}
    return {entry.path for entry in os.scandir("/dev/shm") if entry.inode() in numbers} if numbers else set()


def _bound_sockets() -> dict[str, str]:
    """Path of each Unix socket that is bound to a file, by inode."""
    lines = _read("/proc/net/unix").decode(errors="replace").splitlines()[1:]
    fields = [line.split(maxsplit=7) for line in lines]
    return {parts[6]: parts[7] for parts in fields if len(parts) == 8 and parts[7].startswith("/")}


def _socket_inodes(pid: int) -> set[str]:
    found = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(f"/proc/{pid}/fd/{name}"))
            if match:
                found.add(match[1])
    except OSError:  # the process has ended
        pass
    return found
