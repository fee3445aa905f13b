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
from waiting import wait_until

from recipe.prepo.supervise.cleanup import MARK, Sweeper, ray_roots, remove_sockets

# Makes a session folder with a socket and a process with another session, as Ray does, and then ends in some way.
DRIVER = """
import os, signal, socket, subprocess, sys
from pathlib import Path
from recipe.prepo.supervise.cleanup import Sweeper

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
root, seconds, ending = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with Sweeper([root], [f"{root}/own-*"], grace_s=1):
    session = root / f"session_2026-01-01_00-00-00_000000_{os.getpid()}"
    (session / "sockets").mkdir(parents=True)
    socket.socket(socket.AF_UNIX).bind(str(session / "sockets" / "raylet"))
    (root / "own-folder").mkdir()
    (root / "own-folder" / "file").touch()
    (root / "own-file").touch()
    last_words = 'sleep "$0" && touch "$1"'
    command = ["sh", "-c", last_words, seconds, str(root / "ended-by-itself")]
    agent = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
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
    wait_until(lambda: is_gone(process) and not [*root.glob("*/sockets/*"), *root.glob("own-*")])


@pytest.mark.parametrize("ending", ["killed", "error", "ordinary"])
def test_a_process_that_stays_is_killed_after_its_grace_and_the_sockets_go(root: Path, ending: str) -> None:
    with drive(root, seconds=100, ending=ending) as driver:
        agent = agent_of(driver)
        driver.wait(60)
        if ending != "killed":  # the driver itself waits for it
            assert is_gone(agent)
            assert not any([*root.glob("*/sockets/*"), *root.glob("own-*")])
        wait_until_clean(root, agent)
    assert any(root.glob("session_*")), "Ray's logs stay"


def test_a_process_that_ends_by_itself_has_its_time(root: Path) -> None:
    begin = time.monotonic()
    with drive(root, seconds=0.3, ending="ordinary") as driver:
        agent_of(driver)
        assert driver.wait(60) == 0
    assert (root / "ended-by-itself").exists(), "it was killed before its time was over"
    assert not any(root.glob("*/sockets/*"))
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])  # Ctrl-C, and the end of a terminal
def test_a_signal_to_the_whole_group_does_not_reach_the_sweeper(root: Path, number: signal.Signals) -> None:
    with drive(root, seconds=100, ending="waits") as driver:
        agent = agent_of(driver)
        os.killpg(driver.pid, number)
        driver.wait(60)
        wait_until_clean(root, agent)


def test_what_is_not_this_drivers_stays(root: Path) -> None:
    mine, *others = [root / f"session_x_{number}" for number in (os.getpid(), f"1{os.getpid()}", 1)]
    for folder in (mine, *others):
        (folder / "sockets").mkdir(parents=True)
        socket.socket(socket.AF_UNIX).bind(str(folder / "sockets" / "raylet"))
    with Sweeper([root], grace_s=0.5):
        reader = subprocess.Popen(["sleep", "60"], env={MARK: "another", "NAME": os.environ[MARK]})
    try:
        assert reader.poll() is None
        assert {path.parent.parent for path in root.glob("*/sockets/*")} == set(others)
    finally:
        reader.kill()
        reader.wait()


def test_a_socket_that_another_container_listens_at_stays(root: Path) -> None:
    with Sweeper([root], grace_s=0.5), socket.socket(socket.AF_UNIX) as server:
        folder = root / f"session_x_{os.getpid()}" / "sockets"
        folder.mkdir(parents=True)
        server.bind(str(folder / "raylet"))
        server.listen()
        remove_sockets(f"{folder}/*")
        assert (folder / "raylet").exists()
    assert not (folder / "raylet").exists()  # by now nobody does


@pytest.mark.parametrize("link", ["session", "sockets"])
def test_only_sockets_are_removed_and_links_are_not_followed(root: Path, link: str) -> None:
    """Ray lets everyone write where it makes its folders."""
    thesis = root / "home"
    (thesis / "sockets").mkdir(parents=True)
    socket.socket(socket.AF_UNIX).bind(str(thesis / "sockets" / "agent"))
    if link == "session":
        (root / "session").symlink_to(thesis)
    else:
        (root / "session").mkdir()
        (root / "session" / "sockets").symlink_to(thesis / "sockets")
    remove_sockets(f"{root}/session/sockets/*")
    assert (thesis / "sockets" / "agent").exists()
    socket.socket(socket.AF_UNIX).bind(str(root / "raylet"))
    (root / "notes").touch()
    remove_sockets(f"{root}/*")
    assert sorted(path.name for path in root.iterdir()) == ["home", "notes", "session"]


def test_nothing_is_started_where_another_ray_is_joined() -> None:
    before = psutil.Process().children()
    with Sweeper([]):
        assert psutil.Process().children() == before
        assert MARK not in os.environ


def test_roots_are_those_of_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("TMPDIR", raising=False)
    assert ray_roots() == [tmp_path / "ray", Path("/tmp/ray")]
    assert ray_roots("/elsewhere") == [Path("/elsewhere")]
