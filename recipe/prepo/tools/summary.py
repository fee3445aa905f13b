"""The closing summary of a run, read back from its directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipe.prepo.run.jsonl import read_lines
from recipe.prepo.tools.report import write_report


def validation_accuracies(lines: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """Each validation metric of verl's core section as (step, value) pairs."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line["data"].items():
            if name.startswith("val-core/") and "/mean@" in name and value is not None:
                curves.setdefault(name, []).append((line["step"], value))
    return curves


def closing_summary(run_dir: Path, *, draws: bool = True) -> str:
    """What the run did and where its files are; ``draws`` the report on the way."""
    if not (run_dir / "metrics.jsonl").exists():
        return f"\nrun directory  {run_dir}, on the node where the trainer ran: this machine does not see it"
    lines = list(read_lines(run_dir / "metrics.jsonl"))
    steps = [line for line in lines if "prepo/rollouts_total/max" in line["data"]]
    text = ["", f"run directory  {run_dir}"]
    if steps:
        last = steps[-1]
        seconds = sum(line["data"].get("timing_s/step") or 0.0 for line in steps)
        text.append(
            f"steps          {last['step']} ({seconds:.0f} s in steps), "
            f"{last['data']['prepo/rollouts_total/max']:,.0f} rollouts, "
            f"{last['data']['prepo/response_tokens_total/max']:,.0f} response tokens"
        )
    for name, curve in validation_accuracies(lines).items():
        (first_step, first), (last_step, final) = curve[0], curve[-1]
        text.append(
            f"held-out       {name}: {first:.3f} (step {first_step}) -> {final:.3f} (step {last_step}), "
            f"{final - first:+.3f}"
        )
    draw_it = f"python -m recipe.prepo.report {run_dir}"
    if not draws:
        return "\n".join([*text, f"report         {draw_it}"])
    try:
        text.append(f"report         {write_report([run_dir])}")
    except Exception as error:  # a finished training must not end in failure because of a figure
        text.append(f"report         not drawn ({error!r}); again with: {draw_it}")
    return "\n".join(text)
