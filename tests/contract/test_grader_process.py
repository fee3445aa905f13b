"""The grading process as reward workers meet it: daemonic parents, forks, kills, hung computations."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import wait_until

from recipe.prepo.errors import PrepoError
from recipe.prepo.reward import grading_process as grading_worker
from recipe.prepo.reward.grading_process import GraderProcess, GradingStopped
from recipe.prepo.reward.score import compute_score

RIGHT = {"score": 1.0, "acc": 1.0, "timed_out": 0.0}
FOR_THE_WORKER = (r"\boxed{2\sqrt{2}}", r"\sqrt{8}")  # exact numbers alone do not settle it


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _grade_in_child(connection: Any) -> None:
    connection.send((compute_score("math", *FOR_THE_WORKER, time_limit_s=60), grading_worker._grader.pid()))
    connection.recv()


def test_daemonic_forked_process_uses_a_worker_of_its_own() -> None:
    assert compute_score("math", *FOR_THE_WORKER, time_limit_s=60) == RIGHT
    inherited = grading_worker._grader.pid()
    assert inherited is not None
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_grade_in_child, args=(theirs,), daemon=True)
    child.start()
    result, worker = ours.recv()
    assert result == RIGHT
    assert worker not in (None, inherited)
    assert is_running(worker)
    ours.send("end")
    child.join()
    wait_until(lambda: not is_running(worker))
    assert compute_score("math", *FOR_THE_WORKER, time_limit_s=60) == RIGHT
    assert grading_worker._grader.pid() == inherited


@pytest.mark.parametrize("answer", ["y", "9^{9^{9^{9}}}"], ids=["idle", "hung in one C call"])
def test_worker_ends_when_its_parent_is_killed(answer: str) -> None:
    code = f"""
import sys, threading, time
from recipe.prepo.reward import grading_process as g
g.ask("is_equal", gold="x", answer="z", time_limit_s=9)
work = threading.Thread(target=g.ask, args=["is_equal"], kwargs=dict(gold="5", answer="{answer}", time_limit_s=1.5))
work.start()
time.sleep(0.3)
print(g._grader.pid(), flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert is_running(worker)
        os.kill(parent.pid, signal.SIGKILL)
        wait_until(lambda: not is_running(worker))


def test_worker_that_cannot_start_is_an_error_and_not_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if "site-packages" not in p])  # no math-verify there
    with pytest.raises(PrepoError, match=r"did not start .*pip install math-verify"):
        GraderProcess().ask("is_equal", gold="x", answer="y", time_limit_s=9)


def test_killed_worker_is_reported_and_replaced_by_one_with_limited_memory() -> None:
    grader = GraderProcess()
    assert grader.ask("is_equal", gold="x+y", answer="y+x", time_limit_s=9) is True
    worker = grader.pid()
    assert worker is not None
    os.kill(worker, signal.SIGSTOP)  # as a computation that never returns
    with pytest.raises(GradingStopped):
        grader.ask("is_equal", gold="x+y", answer="y+x", time_limit_s=0.2)
    assert not is_running(worker)
    assert grader.ask("is_equal", gold="x+y", answer="y+x", time_limit_s=9) is True
    limits = Path(f"/proc/{grader.pid()}/limits").read_text()
    grader.close()
    assert f"Max address space         {grading_worker.MEMORY_LIMIT_BYTES} " in limits


def test_worker_imports_no_training_stack() -> None:
    code = "import sys, recipe.prepo.reward.equivalence as _; print({'torch', 'verl', 'ray'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
