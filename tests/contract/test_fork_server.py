"""The fork server with small modules in place of the stack: what a worker inherits, and what ends with what."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import wait_until

from recipe.prepo.cpu.fork_server import ForkServer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")

# A worker as Ray starts it: it says what it has got, then waits. With an argument it also spawns a process.
WORKER = """
import json, multiprocessing, os, random, sys, time
import numpy

def spawned(pipe):
    pipe.send([os.getpid(), os.environ.get("LATE"), "colorsys" in sys.modules])
    status = pipe.recv()
    sys.exit(status)

if __name__ == "__main__":
    found = {"pid": os.getpid(), "parent": os.getppid(), "group": os.getpgid(0), "arguments": sys.argv[1:]}
    found |= {"folder": os.getcwd(), "color": os.environ.get("COLOR"), "priority": os.getpriority(os.PRIO_PROCESS, 0)}
    found |= {"ignored": os.environ.get("OF_THE_DRIVER"), "imported": "colorsys" in sys.modules}
    found |= {"random": [random.random(), numpy.random.rand()]}
    if "spawn" in sys.argv:
        os.environ["LATE"] = "yes"
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=spawned, args=(there,))
        process.start()
        found["spawned"] = [process.pid, *here.recv()]
    print(json.dumps(found), flush=True)
    if "spawn" in sys.argv:
        here.send(int(sys.stdin.readline()))
        process.join()
        print(process.exitcode, flush=True)
    sys.stdin.read()
    print("last words", file=sys.stderr, flush=True)
"""
DRIVER = """
import os, sys, time
from pathlib import Path
from recipe.prepo.cpu.fork_server import ForkServer
with ForkServer(Path(sys.argv[1]), os.environ, ["json"], ["json"]) as server:
    print(server._process.pid, server.worker_command, flush=True)
    time.sleep(600)
"""


class Worker:
    """What runs in the place of Python, and the worker that it asked for."""

    def __init__(self, command: str, folder: Path, *arguments: str) -> None:
        self.script = folder / "worker.py"
        self.script.write_text(WORKER)
        command = f"exec nice -n 3 {command} {self.script} {' '.join(arguments)}"
        environment = {"PATH": os.environ["PATH"], "COLOR": "red"}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.stub = subprocess.Popen(command, shell=True, cwd=folder, env=environment, text=True, **pipes)
        assert self.stub.stdout is not None
        self.found: dict[str, Any] = json.loads(self.stub.stdout.readline())
        self.process = psutil.Process(self.found["pid"])

    def say(self, text: str) -> str:
        assert self.stub.stdin is not None and self.stub.stdout is not None
        print(text, file=self.stub.stdin, flush=True)
        return self.stub.stdout.readline().strip()


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.gettempdir(), f"prepo-test-{os.getpid()}")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def server(folder: Path) -> Iterator[ForkServer]:
    with ForkServer(folder, os.environ | {"OF_THE_DRIVER": "1"}, ["json"], ["colorsys"]) as running:
        yield running


def ends(*processes: psutil.Process | int) -> bool:
    """Whether all of them are gone within seconds; zombies are."""

    def runs(process: psutil.Process | int) -> bool:
        pid = process if isinstance(process, int) else process.pid
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    wait_until(lambda: not any(map(runs, processes)), "the processes end", limit_s=10)
    return True


def test_a_worker_inherits_what_a_program_inherits(server: ForkServer, tmp_path: Path) -> None:
    worker = Worker(server.worker_command, tmp_path, "one", "'two words'")
    found = worker.found
    assert found["arguments"] == ["one", "two words"]
    assert (found["folder"], found["color"], found["ignored"]) == (str(tmp_path), "red", None)
    assert found["priority"] == os.getpriority(os.PRIO_PROCESS, 0) + 3
    assert found["imported"]
    assert found["parent"] == server._process.pid
    assert found["group"] == found["pid"]  # and killing it kills neither the server nor other workers
    assert worker.stub.wait(10) == 0  # the worker needs nobody to wait for it
    assert worker.process.is_running()
    assert worker.stub.communicate() == ("", "last words\n")
    assert ends(worker.process)


def test_a_request_that_breaks_off_harms_nobody(server: ForkServer, folder: Path, tmp_path: Path) -> None:
    first = Worker(server.worker_command, tmp_path).found["random"]
    for said in (b"", b"f", b"f{"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(folder / "fork"))
            client.sendall(said)
    later = Worker(server.worker_command, tmp_path).found
    assert later["parent"] == server._process.pid
    assert len({*first, *later["random"]}) == 4  # and no two workers draw the same numbers


def test_what_a_worker_spawns_is_forked_below_it_with_its_environment(server: ForkServer, tmp_path: Path) -> None:
    worker = Worker(server.worker_command, tmp_path, "spawn")
    pid, *said = worker.found["spawned"]
    assert said == [pid, "yes", True]
    assert pid in [child.pid for child in worker.process.children(recursive=True)]
    assert os.getpgid(pid) == worker.found["pid"]
    assert worker.say("7") == "7"  # the exit status


def test_what_a_worker_spawned_ends_with_it(server: ForkServer, tmp_path: Path) -> None:
    worker, bystander = (Worker(server.worker_command, tmp_path, "spawn") for _ in range(2))
    children = worker.process.children(recursive=True)
    forks = [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
    worker.process.kill()
    assert len(forks) >= 3  # its server, the process, and the server of that
    assert ends(*forks)
    assert psutil.pid_exists(bystander.found["spawned"][0])
    assert Worker(server.worker_command, tmp_path).found["imported"]  # and the server goes on


def test_workers_end_with_their_server_and_nothing_else_does(server: ForkServer, tmp_path: Path) -> None:
    workers = [Worker(server.worker_command, tmp_path, *arguments) for arguments in ([], ["spawn"])]
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    server._process.kill()
    assert ends(*(worker.process for worker in workers), workers[1].found["spawned"][0])
    assert other.poll() is None
    other.kill()
    other.wait()


def test_without_a_server_python_starts_as_ever(server: ForkServer, tmp_path: Path) -> None:
    server._process.kill()
    server._process.wait()
    worker = Worker(server.worker_command, tmp_path, "one")
    assert worker.found["arguments"] == ["one"]
    assert worker.found["pid"] == worker.stub.pid
    assert not worker.found["imported"]
    worker.stub.communicate()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_and_its_workers_end_with_the_driver(folder: Path, tmp_path: Path, how: signal.Signals) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, folder], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    pid, command = driver.stdout.readline().strip().split(maxsplit=1)
    worker = Worker(command, tmp_path)
    assert os.getpgid(int(pid)) != os.getpgid(driver.pid)  # Ctrl-C reaches the driver only
    driver.send_signal(how)
    driver.wait()
    assert ends(int(pid), worker.process)


def test_a_server_whose_imports_fail_is_as_none_and_its_folder_is_closed(folder: Path, tmp_path: Path) -> None:
    with ForkServer(folder, os.environ, ["json"], ["no_such_module"]) as server:
        assert Worker(server.worker_command, tmp_path).found["priority"]
        assert folder.stat().st_mode & 0o077 == 0
        pid = server._process.pid
    assert not psutil.pid_exists(pid)
