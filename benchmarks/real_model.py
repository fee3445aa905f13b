"""Runs of a pretrained model, summed up: ``python -m benchmarks.real_model RUN_DIR… --out docs/results``.

Reads ``metrics.jsonl`` and ``config.yaml`` of each run and writes OUT/real_model_runs.jsonl (the curves' points, one
run a line), OUT/real_model.png, and prints the table. ``--from OUT/real_model_runs.jsonl`` in place of the directories
does the same from the points.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mini_math.figures import draw_methods
from benchmarks.mini_math.numbers import by_method
from recipe.prepo.run.metric_names import OUTSIDE_STEP, ROLLOUTS, STEP_SECONDS, held_out_set
from recipe.prepo.tools.report.load import load_run

# Of each training step, by the name in the points.
TRAIN = {
    "rollouts": ROLLOUTS,
    "zero_advantage_frac": "prepo/zero_advantage_frac/mean",
    "all_wrong_frac": "prepo/all_wrong_frac/mean",
    "entropy_nats": "prepo/entropy_nats/mean",
    "predicted_live_frac": "prepo/predicted_live_frac/mean",
    "response_tokens": "prepo/response_tokens_total/max",
    "step_s": STEP_SECONDS,
}
PHASES = ("prompt_scoring", "gen", "old_log_prob", "update_actor", "update_weights")


def read_run(run_dir: Path) -> dict[str, Any]:
    """Points of one run. Held-out accuracy is the mean over the held-out sets, which have equal sizes here."""
    run = load_run(run_dir)
    accuracy = run.metrics[[name for name in run.metrics if held_out_set(name)]].mean(axis=1).dropna()
    steps = run.series(STEP_SECONDS).index
    train = {
        name: [round(float(value), 4) for value in run.metrics.loc[steps, metric]]
        for name, metric in TRAIN.items()
        if metric in run.metrics
    }
    rollouts = dict(zip(steps, train["rollouts"], strict=True))
    names = {name: f"timing_s/{name}" for name in PHASES} | {"outside": OUTSIDE_STEP[0]}
    phases = {name: float(run.series(metric).median()) for name, metric in names.items() if metric in run.metrics}
    return {
        "row": run.config["prepo.method"],
        "seed": run.seed,
        "curve": [
            {"step": int(step), "rollouts": rollouts.get(step, 0.0), "accuracy": round(float(value), 4)}
            for step, value in accuracy.items()
        ],
        "train": train,
        "median_s": {name: round(value, 2) for name, value in phases.items()},
    }


def table(runs: Sequence[Mapping[str, Any]]) -> str:
    """One method a line; means over its seeds, and the values of the seeds in parentheses."""

    def cell(values: Sequence[float], form: str = ".3f") -> str:
        seeds = f" ({', '.join(format(value, form) for value in values)})" if len(values) > 1 else ""
        return format(float(np.mean(values)), form) + seeds

    lines = [
        "| method | steps | rollouts | first accuracy | last accuracy | zero advantage | all incorrect "
        "| entropy, last 10 (nats) |",
        "|---" * 8 + "|",
    ]
    for method, mine in by_method(runs).items():
        trained = [run["train"] for run in mine]
        cells = [
            ", ".join(str(len(train["rollouts"])) for train in trained),
            ", ".join(f"{train['rollouts'][-1]:,.0f}" for train in trained),
            cell([run["curve"][0]["accuracy"] for run in mine]),
            cell([run["curve"][-1]["accuracy"] for run in mine]),
            cell([float(np.mean(train["zero_advantage_frac"])) for train in trained]),
            cell([float(np.mean(train["all_wrong_frac"])) for train in trained]),
            cell([float(np.mean(train["entropy_nats"][-10:])) for train in trained], ".2f"),
        ]
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Held-out accuracy, and live groups so far, by rollouts."""
    from matplotlib.figure import Figure

    methods = by_method(runs)
    drawn = Figure(figsize=(9.6, 3.8), dpi=110, layout="constrained")
    left, right = drawn.subplots(1, 2)
    for axes, key, points_of in ((left, "accuracy", lambda run: run["curve"]), (right, "live", _live_groups)):
        curves = {method: [points_of(run) for run in mine] for method, mine in methods.items()}
        # A run that is not done is drawn as far as the shortest of its method.
        ends = {method: min(map(len, mine)) for method, mine in curves.items()}
        drawn_runs = {method: [{"curve": one[: ends[method]]} for one in mine] for method, mine in curves.items()}
        draw_methods(axes, drawn_runs, list(methods), "rollouts", key)
    left.set_ylim(0, None)
    left.set_ylabel("held-out accuracy")
    right.set_ylabel("steps' worth of live groups so far")
    for axes in (left, right):
        axes.set_xlabel("rollouts")
        axes.grid(color="#e4e4e4")
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)
    drawn.savefig(path)


def _live_groups(run: Mapping[str, Any]) -> list[dict[str, float]]:
    """Live groups since the start, in groups of a whole step."""
    live = np.cumsum([1 - share for share in run["train"]["zero_advantage_frac"]])
    return [{"rollouts": at, "live": float(n)} for at, n in zip(run["train"]["rollouts"], live, strict=True)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_model", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("run_dirs", nargs="*", type=Path)
    parser.add_argument("--from", dest="points", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    if arguments.points:
        runs = [json.loads(line) for line in arguments.points.read_text(encoding="utf-8").splitlines()]
    else:
        runs = [read_run(run_dir) for run_dir in arguments.run_dirs]
        text = "".join(json.dumps(run) + "\n" for run in runs)
        (arguments.out / "real_model_runs.jsonl").write_text(text, encoding="utf-8")
    draw(runs, arguments.out / "real_model.png")
    print(table(runs), end="")
    for run in runs:
        print(run["row"], run["seed"], "median seconds:", run["median_s"], "step:", np.median(run["train"]["step_s"]))


if __name__ == "__main__":
    main()
