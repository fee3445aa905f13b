"""The outside check of a simulated run's audit lines, after a test edited them."""

import runpy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from simulated_run import SimulatedRun

from recipe.prepo.run.jsonl import StepLog

Lines = list[dict[str, Any]]
SCRIPT = Path(__file__).parents[2] / "scripts" / "check_audit.py"


def check_run(run_dir: Path) -> str:
    """What ``scripts/check_audit.py`` prints about a run directory."""
    script = runpy.run_path(str(SCRIPT))
    try:
        return script["check_run"](run_dir)
    except script["Difference"] as difference:
        return f"difference: {difference}"


def check_of_audit(
    folder: Path,
    options: Mapping[str, Mapping[str, Any]],
    *,
    num_steps: int,
    pooled: bool = False,
    edit: Callable[[Lines, Lines], object] = lambda choices, rollouts: None,
) -> str:
    """What the script says of a run with these rules, after ``edit`` of the lines of its two audit files."""
    run = SimulatedRun(options, pooled=pooled)
    for step in range(1, num_steps + 1):
        run.step(step)
    edit(run.audit["selection"], run.audit["rollouts"])
    for name, lines in run.audit.items():
        log = StepLog(folder / "audit" / f"{name}.jsonl", resume_step=0)
        log.append(lines)
        log.close()
    (folder / "config.yaml").write_text(yaml.safe_dump({"prepo": {group: dict(options[group]) for group in options}}))
    return check_run(folder)
