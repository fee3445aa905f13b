"""One training on the real stack, as a user starts it, with its faults and its end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.footprint import Footprint, Leftovers, command_of
from recipe.prepo.run.jsonl import log_identity, read_lines

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "experiment=tiny_cpu",
    "data.train_batch_size=8",
    "data.val_max_samples=32",
    "actor_rollout_ref.actor.ppo_mini_batch_size=8",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.rollout.val_kwargs.n=1",
]
SMALL = [*TINY, "trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=2"]
START_LIMIT_S = 900.0
END_LIMIT_S = 180.0  # from a fault to the end of the driver
GONE_LIMIT_S = 60.0  # from the end of the driver to the end of its last process


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    exit_status: int | None  # None: it had to be killed
    seconds: float  # since the fault
    error: str  # the line that a user reads
    num_killed: int  # processes that did not end by themselves
    leftovers: Leftovers


class Training:
    """A driver in ``directory``; a context manager that leaves no process behind."""

    def __init__(self, directory: Path, steps: int, *overrides: str, environment: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.log = directory.with_name(f"{directory.name}.log")
        self._metrics = directory / "metrics.jsonl"
        self.footprint = Footprint()
        self._command = [
            *(sys.executable, "-m", "recipe.prepo.main", *SMALL, *overrides),
            *(f"trainer.total_training_steps={steps}", f"trainer.default_local_dir={directory}"),
        ]
        self._environment = os.environ | (environment or {}) | self.footprint.environment
        # The workers import benchmarks.hung_reward, which is in no package.
        self._environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        for name in ("RAY_ADDRESS", "VERL_PLATFORM"):
            self._environment.pop(name, None)

    def __enter__(self) -> Training:
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        self.footprint.__enter__()
        self._first_line = self.log.stat().st_size if self.log.exists() else 0
        self._log_file = open(self.log, "ab")
        self._metrics_before = log_identity(self._metrics)
        self.driver = subprocess.Popen(
            self._command, cwd=ROOT, env=self._environment, stdout=self._log_file, stderr=subprocess.STDOUT
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.footprint.kill()
        self.driver.wait()
        self.footprint.wait_for_end(GONE_LIMIT_S)
        self.footprint.__exit__(None, None, None)
        self.footprint.clean()
        self._log_file.close()

    @property
    def output(self) -> str:
        """Output of this driver so far."""
        return self.log.read_bytes()[self._first_line :].decode(errors="replace")

    @property
    def is_over(self) -> bool:
        return self.driver.poll() is not None

    def steps_done(self) -> list[int]:
        """Steps in the metrics file, once this driver has opened it (before: none)."""
        if not self._writes_metrics():
            return []
        return [line["step"] for line in read_lines(self._metrics) if "timing_s/step" in line["data"]]

    def wait_for_steps(self, num_steps: int) -> None:
        """Wait until this driver has done so many steps, or has ended."""
        deadline = time.monotonic() + START_LIMIT_S
        resumed_at: int | None = None
        while not self.is_over:
            done = self.steps_done()
            if self._writes_metrics():
                resumed_at = len(done) if resumed_at is None else resumed_at
                if len(done) - resumed_at >= num_steps:
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {num_steps} steps in {START_LIMIT_S:.0f} s; see {self.log}")
            time.sleep(0.1)

    def wait_for_checkpoint(self) -> None:
        """Wait until the first checkpoint of this driver is being written, or it has ended."""
        self.wait_for_steps(0)
        before = set(self.directory.glob("global_step_*"))
        while not self.is_over and not set(self.directory.glob("global_step_*")) - before:
            time.sleep(0.005)

    def wait_for_whole_checkpoint(self) -> None:
        """Wait until a checkpoint of the run is complete, or the driver has ended."""
        while not self.is_over and not (self.directory / "latest_checkpointed_iteration.txt").exists():
            time.sleep(0.05)

    def sleep(self, seconds: float) -> None:
        """Wait, at most until the driver ends."""
        deadline = time.monotonic() + seconds
        while not self.is_over and time.monotonic() < deadline:
            time.sleep(0.01)

    def process(self, title: str) -> int:
        """Process id of the one process of this run whose command line starts with the title."""
        found = [pid for pid in self.footprint.processes() if command_of(pid).startswith(title)]
        if self.is_over or len(found) != 1:
            raise RuntimeError(f"{len(found)} processes {title}; the run printed:\n{self.output[-3000:]}")
        return found[0]

    def wait_for_end(self) -> Ending:
        """Wait for the driver and then for everything that it started."""
        begin = time.monotonic()
        try:
            status: int | None = self.driver.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            status = None
        seconds = time.monotonic() - begin
        if status is None:
            self.footprint.kill()
        killed, before = 0, Leftovers()
        if not self.footprint.wait_for_end(GONE_LIMIT_S):
            before = self.footprint.leftovers()
            killed = self.footprint.kill()
            self.footprint.wait_for_end(GONE_LIMIT_S)
        self.driver.wait()
        left = replace(self.footprint.leftovers(), processes=before.processes if killed else ())
        errors = [line for line in self.output.splitlines() if line.startswith("error: ")]
        return Ending(status, round(seconds, 1), " | ".join(errors), killed, left)

    def _writes_metrics(self) -> bool:
        """Whether this driver has opened the file; a resumed run starts with its own."""
        return self._metrics.exists() and log_identity(self._metrics) != self._metrics_before
