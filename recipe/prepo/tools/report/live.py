"""The live report: the page of a run is drawn again every few steps while it goes on, by a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

POLL_INTERVAL_S = 2.0
DRAWING_LIMIT_S = 900.0
STOP_LIMIT_S = 10.0
# More than a line of metrics has; the last whole line lies in it.
TAIL_BYTES = 256 * 1024
REFRESH_MARK = b'<meta http-equiv="refresh"'


def last_step(metrics: Path) -> int:
    """Step of the last whole line of `metrics.jsonl`, -1 where there is none."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except OSError:  # not there yet
        return -1
    for line in reversed(lines):
        try:
            step = json.loads(line)["step"]
        except (ValueError, TypeError, KeyError):
            continue
        if isinstance(step, int):
            return step
    return -1


class _Painter(threading.Thread):
    """Starts a drawing process when enough steps are done and the one before has ended; tells a first failure."""

    def __init__(self, run_dir: Path, every: int, first_step: int) -> None:
        super().__init__(daemon=True, name="prepo-live-report")
        self._run_dir, self._every, self._drawn_at = run_dir, every, first_step
        self._done = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._told = False

    def run(self) -> None:
        waited = 0.0
        while not self._done.wait(POLL_INTERVAL_S):
            waited = waited + POLL_INTERVAL_S if self._process else 0.0
            try:
                self._poll(waited)
            except OSError as error:  # no process, no temporary file
                self._tell(str(error))

    def _poll(self, waited: float) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                if waited > DRAWING_LIMIT_S:
                    self._process.kill()
                return
            self._finish()
        step = last_step(self._run_dir / "metrics.jsonl")
        if step < self._drawn_at:  # a run that was started over writes a file of its own
            self._drawn_at = 0
        if step >= self._drawn_at + self._every:
            self._drawn_at = step
            self._start()

    def _start(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        command = [sys.executable, "-m", "recipe.prepo.report", str(self._run_dir), "--live"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._errors,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def _finish(self) -> None:
        assert self._process is not None and self._errors is not None
        if self._process.returncode != 0:
            self._errors.seek(0)
            lines = self._errors.read().decode("utf-8", errors="replace").strip().splitlines()
            self._tell(lines[-1] if lines else f"exit status {self._process.returncode}")
        self._errors.close()
        self._process = self._errors = None

    def _tell(self, reason: str) -> None:
        if not self._told:
            self._told = True
            print(
                f"the live report could not be drawn ({reason}); training goes on, and further failures are not told. "
                f"By hand: python -m recipe.prepo.report {self._run_dir}",
                file=sys.stderr,
                flush=True,
            )

    def stop(self) -> None:
        """End the drawing that goes on, so that none replaces the page afterwards."""
        self._done.set()
        self.join()
        if self._process is not None and self._errors is not None:
            self._process.kill()
            self._process.wait(timeout=STOP_LIMIT_S)
            self._errors.close()
        _stop_refreshing(self._run_dir / "report" / "index.html")


def _stop_refreshing(index: Path) -> None:
    """Take the line out of the page that makes a browser load it again: nothing will draw it any more."""
    try:
        lines = index.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith(REFRESH_MARK)]
        if len(kept) < len(lines):
            temporary = index.with_name(f".{index.name}.{os.getpid()}.tmp")
            temporary.write_bytes(b"".join(kept))
            os.replace(temporary, index)
    except OSError:  # no page was drawn, or the disk is full: the page stays as it is
        return


@contextmanager
def live_report(run_dir: Path, every: int, *, first_step: int = 0) -> Iterator[None]:
    """Draw the report of the run in `run_dir` every `every` steps while the body runs; 0 for not at all.

    A process of the lowest priority draws, never two at a time. A failure is told once and never stops the body. The
    page makes a browser load it again until the body ends.

    Args:
        first_step: the step that a resumed run goes on from.
    """
    if every <= 0:
        yield
        return
    painter = _Painter(run_dir, every, first_step)
    painter.start()
    try:
        yield
    finally:
        painter.stop()
