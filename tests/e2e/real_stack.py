"""How the end-to-end tests run the real stack and read what a run left."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults_run import ROOT, TINY
from recipe.prepo.run.jsonl import read_lines

SMALL = TINY


@dataclass(frozen=True)
class Run:
    """A finished run: its directory, what it printed, and its files as lists of objects."""

    directory: Path
    output: str

    def lines(self, name: str) -> list[dict]:
        return [json.loads(line) for line in (self.directory / name).read_text(encoding="utf-8").splitlines()]

    @property
    def steps(self) -> dict[int, dict[str, float]]:
        return {line["step"]: line["data"] for line in self.lines("metrics.jsonl") if "timing_s/step" in line["data"]}


def trained_steps(directory: Path) -> list[int]:
    """Steps that a run has trained so far, in the order of its metrics."""
    path = directory / "metrics.jsonl"
    return [line["step"] for line in (read_lines(path) if path.exists() else ()) if "timing_s/step" in line["data"]]


def check_audit(run: Run) -> str:
    """The verdict of the script that recomputes choices and weights."""
    command = [sys.executable, str(ROOT / "scripts" / "check_audit.py"), str(run.directory)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def check_resumed(directory: Path, output: str = "", *, after: int = 0, total: int = 0) -> None:
    """A run went on and did not start over, which with seeds would leave the same lines.

    Args:
        output: what the resumed run printed, where it is to have shown the steps from ``after`` + 1 to ``total``.
    """
    assert not list(directory.rglob("*.1.jsonl")), "it started over: a resumed run goes on in its files"
    if total:
        shown = [line.split(":")[0] for line in output.splitlines() if line.startswith("step ")]
        assert shown == [f"step {step}/{total}" for step in range(after + 1, total + 1)]


def launch(
    directory: Path,
    overrides: list[str],
    *,
    module: str = "recipe.prepo.main",
    extra_environment: dict | None = None,
    expect: int = 0,
) -> Run:
    """Run a training to its end; on another exit status than expected, show the end of what it printed."""
    command = [sys.executable, "-m", *module.split(), *overrides, f"trainer.default_local_dir={directory}"]
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "VERL_PLATFORM")}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment | (extra_environment or {}),
        text=True,
        timeout=900,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == expect, f"exit status {done.returncode}\n{done.stdout[-6000:]}"
    return Run(directory, done.stdout)
