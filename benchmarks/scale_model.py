"""A run's cost, fitted to real runs, checked on others, and worked out for clusters that nobody measured.

``python -m benchmarks.scale_model [RUN_DIR … --held-out RUN_DIR …]``. Without directories it makes its own runs. The
constants of this machine come from the runs' ``metrics.jsonl``; each run is predicted by the simulation from the other
ones, and the held-out ones from all.
What is said about GPUs rests on the published peaks and the assumptions in ``scale_model_gpu``, and on the driver's
seconds measured here. Writes outputs/bench/scale_model.{json,md}.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import write_results
from benchmarks.scale_model_fit import Fit, RunTimings, costs_of, fit_phases, phase_seconds, read_run
from benchmarks.scale_model_gpu import Driver, Hardware, Lengths, Model, costs, layout
from benchmarks.scale_model_pool import COLOCATE, SEPARATE, SYNC
from benchmarks.scale_model_runs import FITTED, HELD_OUT, make_runs
from benchmarks.scale_model_sim import Result, simulate

OUT = Path("outputs/bench")
SIMULATED_STEPS = 6


def predict_step_s(fit: Fit, run: RunTimings) -> float:
    """Simulated seconds of a step of ``run``, whose responses have the lengths that they had."""
    lengths = run.response_tokens_R
    plan = run.plan
    result = simulate(plan, costs_of(fit), lambda rng, size: rng.choice(lengths, size), num_steps=SIMULATED_STEPS)
    return result.mean("seconds", skip=0)


def validate(fitted: Sequence[RunTimings], held_out: Sequence[RunTimings]) -> list[dict[str, Any]]:
    """Predicted and measured seconds of a step: each fitted run from the others, each held-out run from all."""
    rows = []
    for run in [*fitted, *held_out]:
        others = [other for other in fitted if other is not run]
        if not others:
            continue
        predicted = predict_step_s(fit_phases([row for other in others for row in other.rows]), run)
        rows.append(
            {
                "run": run.name,
                "held_out": run not in fitted,
                "K": run.plan.num_selected,
                "M": run.plan.rollouts_per_prompt,
                "B": run.plan.num_candidates if run.plan.scores_prompts else 0,
                "steps": len(run.rows),
                "measured_s": run.median_step_s,
                "predicted_s": predicted,
                "error_frac": predicted / run.median_step_s - 1,
            }
        )
    return rows


def project(driver: Driver, *, num_steps: int = SIMULATED_STEPS) -> list[dict[str, Any]]:
    """The three modes on 8, 64 and 512 GPUs."""
    hardware, model, lengths = Hardware(), Model(), Lengths()
    mean_tokens = float(lengths(np.random.default_rng(0), 100_000).mean())
    rows = []
    for num_gpus in (8, 64, 512):
        for mode in (SYNC, COLOCATE, SEPARATE):
            plan = layout(mode, num_gpus)
            seconds = costs(plan, num_gpus, hardware, model, driver, context=plan.prompt_tokens + mean_tokens / 2)
            rows.append(
                {"gpus": num_gpus, "mode": mode, **summary(simulate(plan, seconds, lengths, num_steps=num_steps))}
            )
            rollouts = plan.num_selected * plan.rollouts_per_prompt
            rows[-1] |= {
                "K": plan.num_selected,
                "B": plan.num_candidates,
                "prefill_s": plan.num_candidates * plan.prompt_tokens * seconds.prefill_s_per_token / plan.num_replicas,
                "driver_s": rollouts * driver.s_per_rollout,
                "sync_s": seconds.sync_s,
                "entropy_mb": 4 * rollouts * mean_tokens / 2**20,
            }
    return rows


def summary(result: Result) -> dict[str, Any]:
    """Means over the steps after the warm-up; staleness over all groups that were trained on in them."""
    step_s = result.mean("seconds")
    staleness = [value for step in result.steps[2:] for value in step.staleness]
    return {
        "step_s": step_s,
        "scoring_s": result.mean("scoring_s"),
        "trainer_waits_frac": result.mean("waiting_s") / step_s,
        "rollout_idle_frac": result.mean("rollout_idle_frac"),
        "staleness_mean": float(np.mean(staleness)),
        "staleness_max": int(max(staleness)),
        "evicted_frac": result.evicted / result.dispatched,
    }


def read_probe(name: str) -> Any:
    """What another benchmark left in outputs/bench, or None."""
    path = OUT / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def tables(found: dict[str, Any]) -> str:
    """Everything as Markdown."""
    lines = ["Constants of this machine (seconds)", "", "| phase | constants |", "|---|---|"]
    for phase, row in found["constants"].items():
        lines.append(
            f"| {phase} | " + ", ".join(f"{value:.3g} × {name}" for name, value in row.items() if value) + " |"
        )
    lines += ["", "| run | K | M | scored prompts | steps | measured s | predicted s | error |", "|---" * 8 + "|"]
    for row in found["validation"]:
        name = row["run"] + (" (held out)" if row["held_out"] else "")
        lines.append(
            f"| {name} | {row['K']} | {row['M']} | {row['B']} | {row['steps']} | {row['measured_s']:.2f} | "
            f"{row['predicted_s']:.2f} | {row['error_frac']:+.0%} |"
        )
    for title, name in (("driver as measured here", "projection"), ("driver free of cost", "projection_free_driver")):
        lines += [
            "",
            f"Not measured: roofline arithmetic, {title}",
            "",
            "| GPUs | mode | K | step s | scoring s | trainer waits | rollout pool idle | staleness | evicted |",
            "|---" * 9 + "|",
        ]
        lines += [
            f"| {row['gpus']} | {row['mode']} | {row['K']} | {row['step_s']:.1f} | {row['scoring_s']:.1f} | "
            f"{row['trainer_waits_frac']:.0%} | {row['rollout_idle_frac']:.0%} | {row['staleness_mean']:.2f} (at most "
            f"{row['staleness_max']}) | {row['evicted_frac']:.0%} |"
            for row in found[name]
        ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Fit, check, project; print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="*", help="of prepo_sync; default: made here, a minute or two each")
    parser.add_argument("--held-out", type=Path, nargs="*", default=[])
    arguments = parser.parse_args(argv)
    if arguments.held_out and not arguments.runs:
        parser.error("--held-out needs runs to fit to")
    paths = (arguments.runs, arguments.held_out)
    if not arguments.runs:
        paths = tuple(make_runs(OUT / "scale_model_runs", designs) for designs in (FITTED, HELD_OUT))
    fitted, held_out = ([read_run(path) for path in one] for one in paths)
    fit = fit_phases([row for run in fitted for row in run.rows])
    constants = costs_of(fit)
    driver = Driver(constants.driver_s_per_candidate, constants.driver_s_per_rollout)
    typical = fitted[0].rows[len(fitted[0].rows) // 2].counts
    found = {
        "constants": fit,
        "phases_of_first_run_s": phase_seconds(fit, typical),
        "validation": validate(fitted, held_out),
        "assumptions": {"hardware": asdict(Hardware()), "model": asdict(Model()), "lengths": asdict(Lengths())},
        "projection": project(driver),
        "projection_free_driver": project(Driver(0.0, 0.0)),
        "probes": {name: read_probe(f"{name}.json") for name in ("scale_probes", "scale", "scoring")},
    }
    write_results(OUT, "scale_model", found, tables(found))
    print(tables(found))


if __name__ == "__main__":
    main()
