"""Injects faults into trainings on the real stack and checks that nothing is lost: ``make faults``.

    python -m benchmarks.faults --kills 20 --replica 10 --worker 10 --reward 10 --disk 5 --stop 2

Each part is a chain in one run directory: train, inject a fault, resume …, until all faults are done, then to the last
step. The finished chain is compared with an undisturbed run. Finished faults are kept: the same command continues, and
larger counts add to smaller ones. Tables: outputs/bench/faults/README.md and results.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.faults_check import differences, read, table
from benchmarks.faults_run import Training

PARTS = {
    "kills": "SIGKILL of the driver",
    "replica": "SIGKILL of a rollout server or of its engine",
    "worker": "SIGKILL of another process of the run",
    "reward": "a reward that hangs",
    "disk": "a full disk at a checkpoint",
    "stop": "SIGTERM",
}
REPLICA = ("ray::vLLMHttpServer", "VLLM::EngineCore", "VLLM::Worker")
WORKERS = ("ray::PrepoAgentLoopWorker", "ray::RewardLoopWorker", "ray::WorkerDict", "ray::SimpleStorageUnit")
WORKERS += ("ray::TransferQueueController", "ray::TaskRunnerV1")
DISK_MIB = 96
HUNG_IN_ONE_RUN = 5
REWARD = ["reward.custom_reward_function.path=pkg://benchmarks.hung_reward"]


class Faults:
    """Runs the parts and keeps a record."""

    def __init__(self, out: Path, *, steps: int, seed: int) -> None:
        self._out = out
        self._steps = steps
        self._seed = seed
        self._record = out / "results.json"
        known = json.loads(self._record.read_text()) if self._record.exists() else {}
        self.events: list[dict[str, Any]] = known.get("events", [])
        self.checks: list[dict[str, Any]] = known.get("checks", [])
        assert known.get("steps", steps) == steps, "the record has another number of steps: choose another --out"

    def run(self, part: str, count: int) -> None:
        """Inject the faults of one part that are still missing."""
        if count and not (self._out / "reference" / f"global_step_{self._steps}").exists():
            with Training(self._out / "reference", self._steps) as training:
                training.wait_for_steps(self._steps)
                print(f"reference: {training.wait_for_end()}", flush=True)
        while (done := self._num_done(part)) < count:
            self._chain(part, count - done)

    def _chain(self, part: str, num_faults: int) -> None:
        """One run directory, from the first step to the last, with at most ``num_faults`` faults."""
        number = sum(check["part"] == part for check in self.checks)
        directory = self._out / f"{part}-{number}" / "run"
        with small_disk(directory.parent) if part == "disk" else plain_folder(directory.parent):
            num_before = sum(event["run"] == directory.parent.name for event in self.events)
            while num_faults > 0 and not self._is_finished(directory):
                event = getattr(self, f"_{part}")(directory)
                if event is None:
                    break
                num_faults -= event["count"]
                self._note(event | {"part": part, "run": directory.parent.name})
            if not self._is_finished(directory):
                with self._training(part, directory) as training:
                    training.wait_for_steps(self._steps)
                    ending = training.wait_for_end()
                    assert ending.exit_status == 0, f"the last run of {directory} failed: {training.output[-3000:]}"
            own = [event for event in self.events if event["run"] == directory.parent.name]
            assert len(own) >= num_before
            check = {
                "part": part,
                "run": directory.parent.name,
                "faults": sum(event["count"] for event in own),
                "steps": self._steps,
                "problems": differences(self._out / "reference", directory, num_steps=self._steps),
            }
            self.checks.append(check)
            self._write()

    # ---- the faults -------------------------------------------------------------------------------------------------

    def _kills(self, directory: Path) -> dict[str, Any] | None:
        """Kill the driver while it starts, in one of its next steps, or during the next checkpoint."""
        draw = random.Random(f"{self._seed} kills {self._num_done('kills')}")
        with self._training("kills", directory) as training:
            moment = draw.choice(["starting", "in a step", "in a step", "around a checkpoint"])
            if moment == "starting":
                training.sleep(draw.uniform(5, 60))
            elif moment == "in a step":
                training.wait_for_steps(draw.randint(1, 4))
                training.sleep(draw.uniform(0, 3))
            else:
                training.wait_for_checkpoint()
                training.sleep(draw.uniform(0, 0.05))
            return self._hurt(training, training.driver.pid, f"SIGKILL of the driver, {moment}")

    def _replica(self, directory: Path) -> dict[str, Any] | None:
        return self._kill_one("replica", REPLICA, directory)

    def _worker(self, directory: Path) -> dict[str, Any] | None:
        return self._kill_one("worker", WORKERS, directory)

    def _kill_one(self, part: str, titles: tuple[str, ...], directory: Path) -> dict[str, Any] | None:
        number = self._num_done(part)
        draw = random.Random(f"{self._seed} {part} {number}")
        with self._training(part, directory) as training:
            training.wait_for_steps(draw.randint(1, 3))
            training.sleep(draw.uniform(0, 3))
            title = titles[number % len(titles)]
            pid = None if training.is_over else training.process(title)
            return self._hurt(training, pid, f"SIGKILL of {title}")

    def _stop(self, directory: Path) -> dict[str, Any] | None:
        with self._training("stop", directory) as training:
            training.wait_for_steps(1)
            return self._hurt(training, training.driver.pid, "SIGTERM to the driver", number=signal.SIGTERM)

    def _reward(self, directory: Path) -> dict[str, Any] | None:
        """Let several rewards of one run hang, half in the grading process, half in the function. Nothing dies."""
        folder = directory.parent / "hung"
        folder.mkdir(exist_ok=True)
        kinds = [f"{'grader' if i % 2 else 'function'}-{i}" for i in range(HUNG_IN_ONE_RUN)]
        for kind in kinds:
            (folder / kind).touch()
        with self._training("reward", directory) as training:
            training.wait_for_steps(self._steps)
            ending = training.wait_for_end()
        metrics = [line["data"].get("prepo/reward_timeouts/sum", 0) for line in read(directory / "metrics.jsonl")]
        used = len(list(folder.glob(".used.*")))
        fault = f"{used} rewards hung, {sum(metrics):.0f} counted as timed out, exit status {ending.exit_status}"
        return {"fault": fault, "step": f"{sum(map(bool, metrics))} of them", "count": used, **asdict(ending)} | {
            "leftovers": str(ending.leftovers)
        }

    def _disk(self, directory: Path) -> dict[str, Any]:
        """Fill the disk before the next checkpoint, and make room again after the run."""
        ballast = directory.parent / "ballast"
        draw = random.Random(f"{self._seed} disk {self._num_done('disk')}")
        with self._training("disk", directory) as training:
            training.wait_for_steps(2 * draw.randint(1, 2))
            free = shutil.disk_usage(directory.parent).free
            with open(ballast, "wb", buffering=0) as file, suppress(OSError):  # the run may be writing, too
                for _ in range((free >> 20) - draw.choice([0, 1, 4])):
                    file.write(bytes(2**20))
            event = self._see_end(training, f"full disk ({free >> 20} MiB were free)")
        ballast.unlink()
        return event

    # ---- common to all ----------------------------------------------------------------------------------------------

    def _training(self, part: str, directory: Path) -> Training:
        if part != "reward":
            return Training(directory, self._steps)
        environment = {"PREPO_FAULTS_DIR": str(directory.parent / "hung")}
        return Training(directory, self._steps, *REWARD, "prepo.reward_wait_limit_s=20", environment=environment)

    @classmethod
    def _hurt(
        cls, training: Training, pid: int | None, fault: str, *, number: int = signal.SIGKILL
    ) -> dict[str, Any] | None:
        """Send the signal and wait for the end; None if the run had ended before."""
        if pid is None or training.is_over:
            return None
        os.kill(pid, number)
        return cls._see_end(training, fault)

    @staticmethod
    def _see_end(training: Training, fault: str) -> dict[str, Any]:
        """The event of a run that ended after its fault."""
        steps = training.steps_done()
        ending = training.wait_for_end()
        values = asdict(ending) | {"leftovers": str(ending.leftovers)}
        return {"fault": fault, "step": steps[-1] if steps else 0, "count": 1, **values}

    def _is_finished(self, directory: Path) -> bool:
        return (directory / f"global_step_{self._steps}" / "data.pt").exists()

    def _num_done(self, part: str) -> int:
        return sum(event["count"] for event in self.events if event["part"] == part)

    def _note(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        print(json.dumps(event, ensure_ascii=False), flush=True)
        self._write()

    def _write(self) -> None:
        record = {"steps": self._steps, "seed": self._seed, "events": self.events, "checks": self.checks}
        self._record.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (self._out / "README.md").write_text(table(self.events, self.checks), encoding="utf-8")


@contextmanager
def plain_folder(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    yield


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A small file system in ``folder``, which only root can mount; its files are copied beside it afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", folder], check=False)
    if mounted.returncode:
        raise SystemExit("error: full disks need a small file system, which only root can mount; or give --disk 0")
    try:
        yield
    finally:
        kept = folder.with_name(f"{folder.name}-kept-{time.time_ns()}")
        shutil.copytree(folder, kept, ignore=shutil.ignore_patterns("global_step_*"))
        subprocess.run(["umount", folder], check=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = {"kills": 20, "replica": 10, "worker": 10, "reward": 10, "disk": 5, "stop": 2}
    for part, count in defaults.items():
        parser.add_argument(f"--{part}", type=int, default=count, metavar="N", help=f"{PARTS[part]} (default {count})")
    parser.add_argument("--steps", type=int, default=24, help="steps of each run (default 24)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the faults")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/faults"))
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no training is left running
    out: Path = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    faults = Faults(out, steps=options.steps, seed=options.seed)
    for part in defaults:
        faults.run(part, getattr(options, part))
    print(table(faults.events, faults.checks))
    if any(check["problems"] for check in faults.checks):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
