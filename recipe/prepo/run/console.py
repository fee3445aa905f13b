"""The progress bar: follows ``metrics.jsonl`` from the driver, whatever processes do the work."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recipe.prepo.run.jsonl import log_identity, read_lines

POLL_INTERVAL_S = 0.5


def describe_step(numbers: Mapping[str, float | None]) -> str:
    """One step in words.

    >>> describe_step({"critic/score/mean": 0.5, "prepo/progress/mean": 0.25, "prepo/zero_advantage_frac/mean": 0.125,
    ...                "prepo/rollouts_total/max": 4096.0})
    'reward 0.500, rho 0.25, zero-advantage 12%, rollouts 4,096'
    """
    parts = []
    for label, name, form in (
        ("reward", "critic/score/mean", "{:.3f}"),
        ("rho", "prepo/progress/mean", "{:.2f}"),
        ("zero-advantage", "prepo/zero_advantage_frac/mean", "{:.0%}"),
        ("rollouts", "prepo/rollouts_total/max", "{:,.0f}"),
    ):
        value = numbers.get(name)
        if value is not None:
            parts.append(f"{label} {form.format(value)}")
    failed = numbers.get("prepo/failed_rollouts/sum")
    if failed:
        parts.append(f"{failed:.0f} of them failed")
    for name, value in numbers.items():
        if name.startswith("val-core/") and "/mean@" in name and value is not None:
            parts.append(f"held-out {value:.3f}")
    return ", ".join(parts)


class _Display:
    """A bar on a terminal, one line a step anywhere else."""

    def __init__(self, total_steps: int, first_step: int) -> None:
        self._total = total_steps
        self._bar: Any = (
            tqdm(total=total_steps, initial=first_step, desc="training", unit="step") if sys.stderr.isatty() else None
        )

    def show(self, step: int, numbers: Mapping[str, float | None]) -> None:
        if self._bar is None:
            print(f"step {step}/{self._total}: {describe_step(numbers)}", flush=True)
        else:
            self._bar.set_postfix_str(describe_step(numbers), refresh=False)
            self._bar.update(max(0, step - self._bar.n))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class _Follower(threading.Thread):
    """Shows the lines that this run writes: a run, also a resumed one, begins with a file of its own."""

    def __init__(self, path: Path, total_steps: int, first_step: int) -> None:
        super().__init__(daemon=True, name="prepo-progress")
        self._path = path
        self._done = threading.Event()
        self._old_file = log_identity(path)
        self._last_step = first_step or -1  # the validation before a first step is step 0
        self._display = _Display(total_steps, first_step)

    def _show_new(self) -> None:
        if log_identity(self._path) == self._old_file:
            return
        with contextlib.suppress(FileNotFoundError):  # it is being replaced
            for line in read_lines(self._path):
                if line["step"] > self._last_step:
                    self._last_step = line["step"]
                    self._display.show(line["step"], line["data"])

    def run(self) -> None:
        while not self._done.wait(POLL_INTERVAL_S):
            self._show_new()

    def stop(self) -> None:
        self._done.set()
        self.join()
        self._show_new()
        self._display.close()


@contextmanager
def progress_bar(run_dir: Path, total_steps: int, *, first_step: int = 0) -> Iterator[None]:
    """Show the progress of the run in ``run_dir`` while the body runs; a resumed run goes on from ``first_step``.

    Where the run directory is on a file system that the driver does not see, nothing moves; the run is not affected.
    """
    follower = _Follower(run_dir / "metrics.jsonl", total_steps, first_step)
    follower.start()
    try:
        yield
    finally:
        follower.stop()
