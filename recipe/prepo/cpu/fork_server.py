"""Ray's workers and vLLM's processes as forks of one process that has imported the stack (CPU platform, Linux).

A CPU run has a dozen Python processes that would each import torch, verl and vLLM: a minute before the first step.
With the fork server they are imported once, while the driver imports verl. Three programs share this file:

* The driver keeps a :class:`ForkServer` open, and Ray starts workers with :attr:`ForkServer.worker_command`.
* The server (``fork_server.py serve …``) imports the stack, then forks a child for each request.
* Ray runs ``fork_server.py fork <socket> <script> <arguments>`` in place of ``python <script> <arguments>``. It passes
  its environment, folder, streams and priority to a child of the server and ends. Without a server it becomes Python.

A worker that uses multiprocessing, as vLLM does, has a fork server of its own. The kernel ends a server with the
process that started it, and each child with its server (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# What the run's processes import, without and with Ray, which reads environment variables when it is imported.
WITHOUT_RAY = ("torch", "transformers", "vllm.entrypoints.openai.api_server")
WITH_RAY = (
    "vllm.v1.engine.core",
    "vllm.v1.worker.cpu_worker",
    "recipe.prepo.modes",
    "recipe.prepo.trainer.rollout",
    "verl.experimental.reward_loop",
    "verl.workers.engine_workers",
    "verl.workers.rollout.vllm_rollout.vllm_async_server",
)
PR_SET_PDEATHSIG = 1


class ForkServer:
    """The driver's side: a context manager, open from before Ray starts until after it has shut down.

    Args:
        folder: for the sockets; this run's own, and closed to other users.
        environment: environment variables of the server while it imports.
        at_once: modules that the server imports when it starts.
        before_first: modules that it imports for the first request, in the environment of that.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        at_once: Sequence[str] = WITHOUT_RAY,
        before_first: Sequence[str] = WITH_RAY,
    ) -> None:
        self._socket = folder / "fork"
        self._environment = dict(environment)
        self._modules = [",".join(at_once), ",".join(before_first)]

    @property
    def worker_command(self) -> str:
        """For Ray's ``py_executable``, which becomes part of a shell command."""
        return shlex.join([sys.executable, "-IS", __file__, "fork", str(self._socket)])

    def __enter__(self) -> ForkServer:
        self._socket.parent.mkdir(mode=0o700)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._socket))
            listener.listen(64)  # now: no request can come before the server
            number = listener.fileno()
            self._process = subprocess.Popen(
                [sys.executable, __file__, "serve", str(number), str(os.getpid()), *self._modules],
                env=self._environment,
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # without a server, a worker imports and shows what is wrong
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def serve(listener: socket.socket, driver: int, at_once: Sequence[str], before_first: Sequence[str]) -> Request:
    """Import the modules and fork a child for each request. Returns in the children only, with their request."""
    end_with_parent(driver)
    os.setpgid(0, 0)  # Ctrl-C is the driver's
    import_modules(at_once)
    fork_what_is_spawned()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets dead children
    server = os.getpid()
    while True:
        connection, _ = listener.accept()
        try:
            request = Request(connection)
        except (OSError, ValueError):  # who asked was killed meanwhile
            connection.close()
            continue
        os.environ.update(request.environment)
        import_modules(before_first)
        give_titles()
        if os.fork() == 0:
            end_with_parent(server)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return request
        request.close()


def give_titles() -> None:
    """Let vLLM set process titles as Ray does: setproctitle cannot once the environment has been replaced."""
    if "ray" in sys.modules:
        import ray
        import setproctitle

        setproctitle.setproctitle = ray._raylet.setproctitle


class Request:
    """What :func:`ask_for_worker` sends: descriptors of the standard streams, and the rest as JSON."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        _, self.streams, _, _ = socket.recv_fds(connection, 1, 3)
        told = json.loads(b"".join(iter(lambda: connection.recv(1 << 16), b"")))
        self.arguments: list[str] = told["arguments"]
        self.environment: dict[str, str] = told["environment"]
        self.folder: str = told["folder"]
        self.priority: int = told["priority"]

    def close(self) -> None:
        self.connection.close()
        for stream in self.streams:
            os.close(stream)


def import_modules(names: Sequence[str]) -> None:
    """Import in three quarters of the usual time, and keep what is there from being looked at by the collector."""
    gc.disable()
    for name in names:
        importlib.import_module(name)
    gc.enable()
    gc.freeze()


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that forked it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before
        os._exit(1)


def run_worker(request: Request, folder: str) -> None:
    os.setpgid(0, 0)  # Ray kills the process group of a worker that has died
    for number, stream in enumerate(request.streams):
        os.dup2(stream, number)
    os.setpriority(os.PRIO_PROCESS, 0, request.priority)
    os.chdir(request.folder)
    begin(request.environment, folder)
    request.connection.sendall(b"f")
    request.close()
    sys.argv = request.arguments
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")


def begin(environment: dict[str, str], folder: str) -> None:
    """Set what each fork has of its own: environment, random numbers, and a fork server for multiprocessing."""
    import numpy as np

    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # TMPDIR may be another
    np.random.seed()  # Python seeds its own generator after a fork, and torch's begins with a constant
    keep_a_fork(folder)


def fork_what_is_spawned() -> None:
    """Let multiprocessing's ``spawn`` use the fork that each child keeps, and send the environment of the moment."""
    from multiprocessing import context, popen_forkserver, spawn

    stock = spawn.get_preparation_data
    spawn.get_preparation_data = lambda name: {"begin": _Begin(), **stock(name)}
    context.SpawnProcess._Popen = staticmethod(popen_forkserver.Popen)  # type: ignore[assignment,method-assign]


def keep_a_fork(folder: str) -> None:
    """Keep a fork of this process as it is now, from which multiprocessing's ``spawn`` makes its processes."""
    from multiprocessing import forkserver

    me = os.getpid()
    alive, this_process_lives = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/{me}")
        listener.listen()
        server = os.fork()
        if server == 0:
            try:
                end_with_parent(me)
                os.close(this_process_lives)
                forkserver.main(listener.detach(), alive, [])
            finally:
                os._exit(0)
        known: Any = forkserver._forkserver
        known._forkserver_pid, known._forkserver_address = server, listener.getsockname()
        known._forkserver_alive_fd = this_process_lives
    os.close(alive)


class _Begin:
    """Part of what multiprocessing sends to a new process, which unpickles it as a call of :func:`begin`."""

    def __reduce__(self) -> tuple[Any, ...]:
        from multiprocessing import forkserver

        known: Any = forkserver._forkserver
        return _begin_spawned, (known._forkserver_pid, dict(os.environ), os.path.dirname(known._forkserver_address))


def _begin_spawned(server: int, environment: dict[str, str], folder: str) -> None:
    end_with_parent(server)
    begin(environment, folder)


def ask_for_worker(path: str, arguments: list[str]) -> bool:
    """Hand all that a program inherits to a child of the server; False when there is no server."""
    task = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
    }
    with socket.socket(socket.AF_UNIX) as request:
        try:
            request.connect(path)
            socket.send_fds(request, [b"f"], [0, 1, 2])
            request.sendall(json.dumps(task).encode())
            request.shutdown(socket.SHUT_WR)
            return bool(request.recv(1))
        except OSError:
            return False


def main(role: str, *arguments: str) -> None:
    if role == "fork":
        path, *command = arguments
        if not ask_for_worker(path, command):
            os.execv(sys.executable, [sys.executable, *command])
        return
    number, driver, at_once, before_first = arguments
    with socket.socket(fileno=int(number)) as listener:
        folder = os.path.dirname(listener.getsockname())
        request = serve(listener, int(driver), at_once.split(","), before_first.split(","))
    run_worker(request, folder)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        sys.path.pop(0)  # this folder, where platform.py is not the standard library's
        from recipe.prepo.cpu.fork_server import main  # whose classes can be pickled
    main(*sys.argv[1:])
