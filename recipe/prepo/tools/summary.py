"""The closing summary of a run, read back from its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipe.prepo.run.jsonl import read_lines
from recipe.prepo.run.metric_names import ROLLOUTS, STEP_SECONDS, TOKENS, held_out_set
from recipe.prepo.tools.report import write_report


def held_out_curves(lines: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """The (step, value) pairs of each held-out mean score."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line["data"].items():
            if value is not None and held_out_set(name):
                curves.setdefault(name, []).append((line["step"], value))
    return curves


def closing_summary(run_dir: Path, *, draws: bool = True) -> str:
    """What the run did and where its files are; draws the report first if ``draws``."""
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
    for name, curve in held_out_curves(lines).items():
        (first_step, first), (last_step, last) = curve[0], curve[-1]
        change = f"{first:.3f} (step {first_step}) -> {last:.3f} (step {last_step}), {last - first:+.3f}"
        text.append(f"held-out       {name}: {change}")
    command = f"python -m recipe.prepo.report {run_dir}"
    if not draws:
        return "\n".join([*text, f"report         {command}"])
    try:
        text.append(f"report         {write_report([run_dir])}")
    except Exception as error:  # a finished training must not fail because of a figure
        text.append(f"report         not drawn ({error!r}); try again with: {command}")
    return "\n".join(text)
