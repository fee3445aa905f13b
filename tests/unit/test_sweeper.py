"""What a driver leaves is taken away, however it ended; what is not its own stays."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from recipe.prepo.supervise.sweeper import Sweeper, ray_roots, sessions, sweep, writers

# Makes a session folder with a socket and a process that writes a log there, as Ray does, and then ends in some way.
DRIVER = """
import os, signal, socket, subprocess, sys
from pathlib import Path
from recipe.prepo.supervise.sweeper import Sweeper

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
root, seconds, ending = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with Sweeper([root], grace_s=1):
    session = root / f"session_2026-01-01_00-00-00_000000_{os.getpid()}"
    (session / "sockets").mkdir(parents=True)
    socket.socket(socket.AF_UNIX).bind(str(session / "sockets" / "raylet"))
    (session / "agent.log").touch()
    with open(session / "agent.log", "a") as log:
        last_words = 'sleep "$0" && touch "$1"'
        agent = subprocess.Popen(["sh", "-c", last_words, seconds, str(root / "ended-by-itself")], stdout=log)
    print(agent.pid, flush=True)
    if ending == "killed":
        os.kill(os.getpid(), 9)
    if ending == "error":
        raise ValueError("something")
    if ending == "waits":
        sys.stdin.read()
"""


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a short path: a socket's name has 107 bytes at most
        yield Path(folder)


def drive(root: Path, *, seconds: float, ending: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER), str(root), str(seconds), ending],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def agent_of(driver: subprocess.Popen[str]) -> psutil.Process:
    assert driver.stdout is not None
    return psutil.Process(int(driver.stdout.readline()))


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def wait_until_clean(root: Path, process: psutil.Process) -> None:
    deadline = time.monotonic() + 20
    while not is_gone(process) or any(root.glob("*/sockets/*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("ending", ["killed", "error", "ordinary"])
def test_a_process_that_stays_is_killed_after_its_grace_and_the_sockets_go(root: Path, ending: str) -> None:
    with drive(root, seconds=100, ending=ending) as driver:
        agent = agent_of(driver)
        driver.wait(60)
        if ending != "killed":  # the driver itself waits for it
            assert is_gone(agent)
            assert not any(root.glob("*/sockets/*"))
        wait_until_clean(root, agent)
    assert (next(root.glob("session_*")) / "agent.log").exists()


def test_a_process_that_ends_by_itself_has_its_time(root: Path) -> None:
    begin = time.monotonic()
    with drive(root, seconds=0.3, ending="ordinary") as driver:
        agent_of(driver)
        assert driver.wait(60) == 0
    assert (root / "ended-by-itself").exists(), "it was killed before its time was over"
    assert not any(root.glob("*/sockets/*"))
    assert time.monotonic() - begin < 15


def test_a_signal_to_the_whole_group_does_not_reach_the_sweeper(root: Path) -> None:
    with drive(root, seconds=100, ending="waits") as driver:
        agent = agent_of(driver)
        os.killpg(driver.pid, signal.SIGINT)  # Ctrl-C
        driver.wait(60)
        wait_until_clean(root, agent)


def test_a_killed_group_leaves_no_socket(root: Path) -> None:
    with drive(root, seconds=100, ending="waits") as driver:
        agent = agent_of(driver)
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait(60)
        wait_until_clean(root, agent)


def test_what_is_not_this_drivers_stays(root: Path) -> None:
    mine = root / f"session_x_{os.getpid()}"
    others = [root / f"session_x_1{os.getpid()}", root / "session_x_1"]
    earlier = root / f"session_w_{os.getpid()}"  # of a process that had the same number
    for folder in (earlier, *others):
        (folder / "sockets").mkdir(parents=True)
        socket.socket(socket.AF_UNIX).bind(str(folder / "sockets" / "raylet"))
    with Sweeper([root], grace_s=0.5):
        (mine / "sockets").mkdir(parents=True)
        socket.socket(socket.AF_UNIX).bind(str(mine / "sockets" / "raylet"))
        (mine / "log").write_text("something")
        reader = subprocess.Popen(["tail", "-f", mine / "log"], stdout=subprocess.DEVNULL)
    try:
        assert reader.poll() is None
        left = sorted(path.parent.parent.name for path in root.glob("*/sockets/*"))
        assert left == sorted(folder.name for folder in (earlier, *others))
    finally:
        reader.kill()
        reader.wait()


def test_a_socket_that_another_container_listens_at_stays(root: Path) -> None:
    with Sweeper([root], grace_s=0.5), socket.socket(socket.AF_UNIX) as server:
        folder = root / f"session_x_{os.getpid()}" / "sockets"
        folder.mkdir(parents=True)
        server.bind(str(folder / "raylet"))
        server.listen()
        sweep([folder.parent], 1, 1, grace_s=0.5)
        assert (folder / "raylet").exists()
    assert (folder / "raylet").exists() is False  # by now nobody does


def test_links_that_others_may_have_put_there_are_not_followed(root: Path) -> None:
    thesis = root / "home"
    thesis.mkdir()
    (thesis / "thesis.tex").touch()
    socket.socket(socket.AF_UNIX).bind(str(thesis / "agent"))
    number = os.getpid()
    (root / f"session_x_{number}").symlink_to(thesis)
    assert sessions([root], number) == set()
    (root / f"session_y_{number}").mkdir()
    (root / f"session_y_{number}" / "sockets").symlink_to(thesis)
    sweep(sessions([root], number), number, 1, grace_s=0.5)
    assert sorted(path.name for path in thesis.iterdir()) == ["agent", "thesis.tex"]


def test_only_sockets_are_removed(root: Path) -> None:
    folder = root / f"session_x_{os.getpid()}" / "sockets"
    folder.mkdir(parents=True)
    (folder / "notes").touch()
    socket.socket(socket.AF_UNIX).bind(str(folder / "raylet"))
    sweep(sessions([root], os.getpid()), os.getpid(), 1, grace_s=0.5)
    assert [path.name for path in folder.iterdir()] == ["notes"]


def test_writers_of_the_session_are_found_and_readers_are_not(root: Path) -> None:
    folder = root / "session_x_1"
    folder.mkdir()
    (folder / "log").touch()
    own, other = os.getsid(0), 1
    with open(folder / "log", "a"):
        assert [process.pid for process in writers([folder], own)] == [os.getpid()]
        assert writers([root / "session_x"], own) == []
        assert writers([folder], other) == []
    with open(folder / "log"):
        assert writers([folder], own) == []


def test_nothing_is_started_where_another_ray_is_joined() -> None:
    before = psutil.Process().children()
    with Sweeper([]):
        assert psutil.Process().children() == before


def test_roots_are_those_of_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("TMPDIR", raising=False)
    assert ray_roots() == [tmp_path / "ray", Path("/tmp/ray")]
    assert ray_roots("/elsewhere") == [Path("/elsewhere")]
    assert sessions([tmp_path / "none"], 1) == set()
