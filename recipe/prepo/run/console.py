"""The progress display: follows ``metrics.jsonl`` from the driver, whichever processes do the work."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recipe.prepo.run.jsonl import log_identity, read_lines
from recipe.prepo.run.metric_names import (
    REWARD,
    ROLLOUTS,
    SECONDS_OUTSIDE_STEP,
    STEP_SECONDS,
    ZERO_ADVANTAGE,
    held_out_set,
)

POLL_INTERVAL_S = 0.5
Numbers = Mapping[str, float | None]


def describe_step(numbers: Numbers) -> str:
    """One step in words.

    >>> describe_step({"critic/score/mean": 0.5, "prepo/progress/mean": 0.25, "prepo/zero_advantage_frac/mean": 0.125,
    ...                "prepo/rollouts_total/max": 4096.0})
    'reward 0.500, rho 0.25, zero-advantage 12%, rollouts 4,096'
    """
    parts = []
    for label, name, form in (
        ("reward", REWARD, ".3f"),
        ("rho", "prepo/progress/mean", ".2f"),
        ("zero-advantage", ZERO_ADVANTAGE, ".0%"),
        ("rollouts", ROLLOUTS, ",.0f"),
    ):
        value = numbers.get(name)
        if value is not None:
            parts.append(f"{label} {value:{form}}")
    failed = numbers.get("prepo/failed_rollouts/sum")
    if failed:
        parts.append(f"{failed:.0f} of them failed")
    parts += [f"held-out {value:.3f}" for name, value in numbers.items() if value is not None and held_out_set(name)]
    return ", ".join(parts)


class _Display:
    """A bar on a terminal; elsewhere a line per step, with the step's seconds and the time left."""

    def __init__(self, total_steps: int, first_step: int) -> None:
        self._total = total_steps
        self._seconds: list[float] = []
        self._bar: Any = (
            tqdm(total=total_steps, initial=first_step, desc="training", unit="step") if sys.stderr.isatty() else None
        )

    def show(self, step: int, numbers: Numbers) -> None:
        if self._bar is None:
            text = ", ".join(filter(None, (describe_step(numbers), self._pace(step, numbers))))
            print(f"step {step}/{self._total}: {text}", flush=True)
        else:
            self._bar.set_postfix_str(describe_step(numbers), refresh=False)
            self._bar.update(max(0, step - self._bar.n))

    def _pace(self, step: int, numbers: Numbers) -> str:
        """Seconds of this step, and the time left if steps, validations and checkpoints go on at their mean pace."""
        seconds = numbers.get(STEP_SECONDS)
        if seconds is None:
            return ""
        self._seconds.append(seconds + sum(numbers.get(name) or 0.0 for name in SECONDS_OUTSIDE_STEP))
        left = sum(self._seconds) / len(self._seconds) * max(0, self._total - step)
        return f"{seconds:.1f} s/step, {tqdm.format_interval(left)} left"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class _Follower(threading.Thread):
    """Reports the steps that this run logs: every run, also a resumed one, begins with a new file."""

    def __init__(self, path: Path, first_step: int, report: Callable[[int, Numbers], None]) -> None:
        super().__init__(daemon=True, name="prepo-follow-steps")
        self._path = path
        self._report = report
        self._done = threading.Event()
        self._old_file = log_identity(path)
        self._size = 0
        self._last_step = first_step or -1  # the validation before a first step is step 0

    def _read_new(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # it is not there yet, or is being replaced
            size = self._path.stat().st_size
            if size == self._size or log_identity(self._path) == self._old_file:
                return
            self._size = size
            for line in read_lines(self._path):
                if line["step"] > self._last_step:
                    self._last_step = line["step"]
                    self._report(line["step"], line["data"])

    def run(self) -> None:
        while not self._done.wait(POLL_INTERVAL_S):
            self._read_new()

    def stop(self) -> None:
        self._done.set()
        self.join()
        self._read_new()


@contextmanager
def follow_steps(run_dir: Path, report: Callable[[int, Numbers], None], *, first_step: int = 0) -> Iterator[None]:
    """Call ``report(step, metrics)`` in a thread for each step that the run logs while the body runs.

    Nothing happens when the driver does not see the file system of the run directory; the run is not affected.

    Args:
        first_step: the step that a resumed run continues from.
    """
    follower = _Follower(run_dir / "metrics.jsonl", first_step, report)
    follower.start()
    try:
        yield
    finally:
        follower.stop()


@contextmanager
def progress_bar(run_dir: Path, total_steps: int, *, first_step: int = 0) -> Iterator[None]:
    """Show the progress of the run in ``run_dir`` while the body runs; a resumed run continues from ``first_step``."""
    display = _Display(total_steps, first_step)
    try:
        with follow_steps(run_dir, display.show, first_step=first_step):
            yield
    finally:
        display.close()
