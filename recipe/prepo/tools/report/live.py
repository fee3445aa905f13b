"""The live report: while a run goes on, a separate process draws its page again every few steps."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipe.prepo.run.console import Numbers, follow_steps
from recipe.prepo.run.files import write_atomically

DRAWING_LIMIT_S = 900.0
REFRESH_MARK = b'<meta http-equiv="refresh"'


class _Painter(threading.Thread):
    """Runs one drawing process at a time, each when `every` more steps are done; prints only the first failure."""

    def __init__(self, run_dir: Path, every: int, first_step: int) -> None:
        super().__init__(daemon=True, name="prepo-live-report")
        self._run_dir, self._every, self._drawn_at = run_dir, every, first_step
        self._step = first_step
        self._changed = threading.Condition()
        self._done = False
        self._process: subprocess.Popen[str] | None = None
        self._has_failed = False

    def on_step(self, step: int, numbers: Numbers) -> None:
        with self._changed:
            self._step = step
            self._changed.notify()

    def run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._done or self._step >= self._drawn_at + self._every)
                if self._done:
                    return
                self._drawn_at = self._step
                try:
                    self._process = self._start()
                except OSError as error:
                    self._report_failure(str(error))
                    continue
            self._wait(self._process)

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "recipe.prepo.report", str(self._run_dir), "--live"]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, errors="replace", env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def _wait(self, process: subprocess.Popen[str]) -> None:
        try:
            errors = process.communicate(timeout=DRAWING_LIMIT_S)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            errors = f"{process.communicate()[1]}\nnot finished after {DRAWING_LIMIT_S:.0f} s"
        if process.returncode != 0 and not self._done:
            self._report_failure((errors.strip().splitlines() or [f"exit status {process.returncode}"])[-1])

    def _report_failure(self, reason: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            print(
                f"the live report could not be drawn ({reason}); training goes on, and further failures are not "
                f"reported. To draw it: python -m recipe.prepo.report {self._run_dir}",
                file=sys.stderr,
                flush=True,
            )

    def stop(self) -> None:
        """End the drawing in progress, so that none replaces the page afterwards."""
        with self._changed:
            self._done = True
            if self._process is not None:
                self._process.kill()
            self._changed.notify()
        self.join()
        _stop_refreshing(self._run_dir / "report" / "index.html")


def _stop_refreshing(index: Path) -> None:
    """Remove the line that makes a browser load the page again: nothing will draw it any more."""
    try:
        lines = index.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith(REFRESH_MARK)]
        if len(kept) < len(lines):
            write_atomically(index, b"".join(kept).decode())
    except OSError:  # no page was drawn, or the disk is full: the page stays as it is
        return


@contextmanager
def live_report(run_dir: Path, every: int, *, first_step: int = 0) -> Iterator[None]:
    """Draw the report of the run in `run_dir` every `every` steps while the body runs; 0 for never.

    A process of the lowest priority draws, one at a time. Only the first failure is printed, and none stops the body.
    A browser loads the page again and again until the body ends.

    Args:
        first_step: the step that a resumed run continues from.
    """
    if every <= 0:
        yield
        return
    painter = _Painter(run_dir, every, first_step)
    painter.start()
    try:
        with follow_steps(run_dir, painter.on_step, first_step=first_step):
            yield
    finally:
        painter.stop()
