"""The outside check of audit lines, on those of a simulated run that a test may falsify."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from simulated_run import SimulatedRun

from recipe.prepo.run.audit import selection_line

Lines = list[dict[str, Any]]


def check_of_audit(
    folder: Path,
    options: Mapping[str, Mapping[str, Any]],
    *,
    num_steps: int,
    edit: Callable[[Lines], object] = lambda lines: None,
) -> str:
    """What ``scripts/check_audit.py`` says of the choices of so many steps, after ``edit`` of their lines."""
    run = SimulatedRun(options)
    lines: Lines = []

    def choose_and_record(step: int, num_prompts: int) -> Any:
        decision = SimulatedRun.choose(run, step, num_prompts)
        lines.append(selection_line(decision))
        return decision

    run.choose = choose_and_record  # type: ignore[method-assign]
    for step in range(1, num_steps + 1):
        run.step(step)
    edit(lines)
    (folder / "audit").mkdir()
    (folder / "audit" / "selection.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "audit" / "rollouts.jsonl").write_text("")
    command = [sys.executable, Path(__file__).parents[2] / "scripts" / "check_audit.py", folder, "none"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
