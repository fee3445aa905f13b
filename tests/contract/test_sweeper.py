"""What a driver leaves is taken away, however it ended; what is not its own stays."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from waiting import wait_until

from recipe.prepo.supervise.cleanup import MARK, Sweeper, remove_sockets

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
    command = ["sh", "-c", 'sleep "$0" && touch "$1"', seconds, str(root / "ended-by-itself")]
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
def root():
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a short path: a socket's name has 107 bytes at most
        yield Path(folder)


def drive(root, *, seconds, ending):
    """The driver, and the process that it started."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-c", DRIVER, str(root), str(seconds), ending]
    driver = subprocess.Popen(command, text=True, start_new_session=True, **pipes)
    return driver, psutil.Process(int(driver.stdout.readline()))


def is_clean(root, process):
    is_gone = not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return is_gone and not [*root.glob("*/sockets/*"), *root.glob("own-*")]


@pytest.mark.parametrize("ending", ["killed", "error", "ordinary", signal.SIGINT, signal.SIGKILL])
def test_a_process_that_stays_is_killed_after_its_grace_and_the_sockets_go(root, ending):
    """A signal: to the whole group, as Ctrl-C and the end of a terminal."""
    driver, agent = drive(root, seconds=100, ending=ending if isinstance(ending, str) else "waits")
    with driver:
        if not isinstance(ending, str):
            os.killpg(driver.pid, ending)
        driver.wait(60)
        if ending in ("error", "ordinary"):  # the driver itself waits for it
            assert is_clean(root, agent)
        wait_until(lambda: is_clean(root, agent))
    assert any(root.glob("session_*")), "Ray's logs stay"


def test_a_process_that_ends_by_itself_has_its_time(root):
    driver, agent = drive(root, seconds=0.3, ending="ordinary")
    with driver:
        assert driver.wait(60) == 0
    assert (root / "ended-by-itself").exists(), "it was killed before its time was over"
    assert is_clean(root, agent)


def socket_in(folder):
    folder.mkdir(parents=True, exist_ok=True)
    found = socket.socket(socket.AF_UNIX)
    found.bind(str(folder / "raylet"))
    return found


def test_what_is_not_this_drivers_stays(root):
    mine, *others = [root / f"session_x_{number}" for number in (os.getpid(), f"1{os.getpid()}", 1)]
    for folder in (mine, *others):
        socket_in(folder / "sockets")
    with Sweeper([root], grace_s=0.5):
        reader = subprocess.Popen(["sleep", "60"], env={MARK: "another", "NAME": os.environ[MARK]})
    try:
        assert reader.poll() is None
        assert {path.parent.parent for path in root.glob("*/sockets/*")} == set(others)
    finally:
        reader.kill()
        reader.wait()


def test_a_socket_that_another_container_listens_at_stays(root):
    with socket_in(root / "sockets") as server:
        server.listen()
        remove_sockets(f"{root}/sockets/*")
        assert (root / "sockets" / "raylet").exists()
    remove_sockets(f"{root}/sockets/*")
    assert not (root / "sockets" / "raylet").exists()


@pytest.mark.parametrize("link", ["session", "session/sockets"])
def test_only_sockets_are_removed_and_links_are_not_followed(root, link):
    """Ray lets everyone write where it makes its folders."""
    socket_in(root / "home" / "sockets")
    (root / link).parent.mkdir(exist_ok=True)
    (root / link).symlink_to(root / "home" / ("" if link == "session" else "sockets"))
    remove_sockets(f"{root}/session/sockets/*")
    assert (root / "home" / "sockets" / "raylet").exists()
    socket_in(root)
    (root / "notes").touch()
    remove_sockets(f"{root}/*")
    assert sorted(path.name for path in root.iterdir()) == ["home", "notes", "session"]


def test_nothing_is_started_where_another_ray_is_joined():
    before = psutil.Process().children()
    with Sweeper([]):
        assert psutil.Process().children() == before
        assert MARK not in os.environ
