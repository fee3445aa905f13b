"""What the driver shows of a run from its directory: the live report, and the closing summary."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipe.prepo.run.console import Numbers, follow_steps
from recipe.prepo.run.jsonl import read_lines
from recipe.prepo.run.metric_names import ROLLOUTS, STEP_SECONDS, TOKENS, held_out_set

COMMAND = "python -m recipe.prepo.report"


@contextmanager
def live_report(run_dir: Path, every: int, *, first_step: int = 0) -> Iterator[None]:
    """Draw the report of the run in `run_dir` every `every` steps while the body runs; 0 for never.

    A process of the lowest priority draws, one at a time. After a failure, which it prints, none is started any more.

    Args:
        first_step: the step that a resumed run continues from.
    """
    command = [sys.executable, "-W", "ignore", "-m", "recipe.prepo.report", str(run_dir), "--live"]
    drawn_at = first_step
    process: subprocess.Popen[bytes] | None = None

    def draw(step: int, numbers: Numbers) -> None:
        nonlocal drawn_at, process
        if not every or step < drawn_at + every or (process and process.poll() != 0):
            return
        drawn_at = step
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )
        except OSError as error:
            print(f"the live report could not be drawn ({error}); training goes on", file=sys.stderr, flush=True)

    try:
        with follow_steps(run_dir, draw, first_step=first_step):
            yield
    finally:
        if process:
            process.kill()
            process.wait()


def closing_summary(run_dir: Path, *, draws: bool = True, next_method: str = "") -> str:
    """What the run did, where its files are, and what to try next; draws the report first if ``draws``."""
    if not (run_dir / "metrics.jsonl").exists():
        return f"\nrun directory  {run_dir}, on the node of the trainer: this machine cannot see it"
    lines = list(read_lines(run_dir / "metrics.jsonl"))
    text = ["", f"run directory  {run_dir}"]
    trained = [line for line in lines if ROLLOUTS in line["data"]]
    if trained:
        step, data = trained[-1]["step"], trained[-1]["data"]
        seconds = sum(line["data"].get(STEP_SECONDS) or 0.0 for line in trained)
        text.append(
            f"steps          {step} ({seconds:.0f} s in steps), {data[ROLLOUTS]:,.0f} rollouts, "
            f"{data[TOKENS]:,.0f} response tokens"
        )
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line["data"].items():
            if value is not None and held_out_set(name):
                curves.setdefault(name, []).append((line["step"], value))
    for name, curve in curves.items():
        (first_step, first), (last_step, last) = curve[0], curve[-1]
        change = f"{first:.3f} (step {first_step}) -> {last:.3f} (step {last_step}), {last - first:+.3f}"
        text.append(f"held-out       {name}: {change}")
    if not draws:
        return "\n".join([*text, f"report         {COMMAND} {run_dir}"])
    try:
        from recipe.prepo.tools.report import write_report  # matplotlib and pandas would slow down every start

        text.append(f"report         {write_report([run_dir])}")
    except Exception as error:  # a finished training must not fail because of a figure
        text.append(f"report         not drawn ({error!r}); try again with: {COMMAND} {run_dir}")
    if next_method:
        text.append(f"next           the same command with method={next_method}; then compare: prepo report DIR DIR")
    return "\n".join(text)
