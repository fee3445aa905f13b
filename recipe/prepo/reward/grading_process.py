"""A worker process for grading, with a time limit that also holds in threads and in daemonic processes.

math-verify limits its time with SIGALRM, which works only in the main thread, and sympy can stay in one C call for
hours. So each process that grades has one child process: started on first use, reused, killed at the time limit and
replaced. It speaks JSON lines over pipes, because daemonic processes may not have :mod:`multiprocessing` children.
It ends with its parent, even after SIGKILL: its stdin closes, its parent id changes, or an alarm ends a computation.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from typing import Any

from recipe.prepo.errors import PrepoError

START_LIMIT_S = 120.0
MEMORY_LIMIT_BYTES = 3 << 30
_ORPHAN_CHECK_S = 2.0
_ALARM_MARGIN_S = 2.0
_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from recipe.prepo.reward.grading_process import serve; serve(int(sys.argv[2]))"
)


class GradingStopped(PrepoError):
    """The worker reached its time limit or crashed (memory limit, C stack) on this answer."""


class GraderProcess:
    """Client of one worker. Thread-safe: requests are served one after another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, operation: str, *, time_limit_s: float, **arguments: Any) -> Any:
        """Run ``operation``, the name of a function in :func:`serve`, in the worker and return its result.

        ``time_limit_s`` (seconds) excludes waiting for other threads and for the worker's start.

        Raises:
            GradingStopped: the time limit was reached, or the worker crashed.
            PrepoError: the worker cannot be started.
        """
        request = {"operation": operation, "arguments": arguments, "time_limit_s": time_limit_s}
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
                reply = self._read_line(self._process, time_limit_s)
            except BaseException as error:  # requests and replies no longer match
                self._kill()
                if isinstance(error, (BrokenPipeError, TimeoutError, EOFError)):
                    raise GradingStopped(f"grading stopped after at most {time_limit_s} s ({error})") from error
                raise
        return json.loads(reply)["result"]

    def close(self) -> None:
        """End the worker if it runs."""
        with self._lock:
            self._kill()

    def pid(self) -> int | None:
        """Process id of the running worker."""
        return self._process.pid if self._process is not None else None

    def _start(self) -> subprocess.Popen[bytes]:
        search_path = json.dumps([os.path.abspath(entry) for entry in sys.path])
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, search_path, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        try:
            self._read_line(process, START_LIMIT_S)
        except (TimeoutError, EOFError) as error:
            process.kill()
            process.communicate()
            raise PrepoError(
                f"The answer-grading process did not start ({error}; exit status {process.returncode}). Its message is"
                " above, on stderr. It needs math-verify: `pip install math-verify`."
            ) from error
        return process

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @staticmethod
    def _read_line(process: subprocess.Popen[bytes], time_limit_s: float) -> bytes:
        """One line of the worker's output. Uses poll: select fails for file descriptors above 1023."""
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
        deadline, line = time.monotonic() + time_limit_s, b""
        while not line.endswith(b"\n"):
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise TimeoutError(f"no reply in {time_limit_s} s")
            received = os.read(descriptor, 65_536)
            if not received:
                raise EOFError("the process ended")
            line += received
        return line


def serve(parent_pid: int) -> None:
    """The worker's main loop: answer requests from stdin until it closes or the parent is gone."""
    import resource
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for limit, value in ((resource.RLIMIT_AS, MEMORY_LIMIT_BYTES), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(limit)
        resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
    from recipe.prepo.reward import equivalence

    operations = {f.__name__: f for f in (equivalence.is_equal, equivalence.is_answered, equivalence.kind_of_gold)}
    equivalence.is_equal(r"\frac{1}{2}", "0.25")  # builds the parser's tables before the clock runs
    equivalence.is_answered("1", "the answer is 2")

    replies = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # keeps libraries' prints out of the replies
    replies.write("ready\n")
    replies.flush()
    os.dup2(1, 2)  # parsers warn about every malformed answer
    while os.getppid() == parent_pid:
        if not select.select([sys.stdin], [], [], _ORPHAN_CHECK_S)[0]:
            continue
        line = sys.stdin.readline()  # one request at a time, so nothing waits in the buffer
        if not line:
            break
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["time_limit_s"] + _ALARM_MARGIN_S)
        try:
            result: Any = operations[request["operation"]](**request["arguments"])
        except Exception as error:
            result = {"error": type(error).__name__}
        signal.setitimer(signal.ITIMER_REAL, 0)
        replies.write(json.dumps({"result": result}) + "\n")
        replies.flush()


_grader = GraderProcess()
atexit.register(lambda: _grader.close())


def ask(operation: str, *, time_limit_s: float, **arguments: Any) -> Any:
    """:meth:`GraderProcess.ask` of this process's own worker."""
    return _grader.ask(operation, time_limit_s=time_limit_s, **arguments)


def _forget_parents_worker() -> None:
    """After a fork the pipes belong to the parent, so the child starts a worker of its own."""
    global _grader
    inherited, _grader._process = _grader._process, None
    if inherited is not None:
        assert inherited.stdin is not None and inherited.stdout is not None
        inherited.stdin.close()  # else the worker's stdin stays open when the parent dies
        inherited.stdout.close()
        inherited.returncode = 0  # not this process's child: nothing to wait for
    _grader = GraderProcess()


os.register_at_fork(after_in_child=_forget_parents_worker)
