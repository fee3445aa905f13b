"""What this recipe adds to a training step, against stock verl GRPO with the same K x M rollouts.

``python -m benchmarks.overhead [--pairs N] [--steps S] [key=value …]``. Runs are alternated (stock, prepo, prepo,
stock, …) at learning rate 0. The prepo side scores its candidates and weighs its rollouts but chooses uniformly, so
that both sides roll out the same kind of prompts. Both sides poll the replay buffer at the same interval.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.real_stack import run_on_stack

COMMON = [
    "experiment=tiny_cpu",
    "trainer.resume_mode=disable",
    "trainer.val_before_train=false",
    "trainer.test_freq=-1",
    "trainer.save_freq=-1",
    "trainer.total_epochs=100",
    "actor_rollout_ref.actor.optim.lr=0",
]
SIDES = {
    "stock": ["trainer.v1.trainer_mode=sync", "prepo/selection=all", "prepo/weighting=none"],
    "prepo": ["prepo/selection=uniform", "prepo.score_candidates=always"],
}
WARM_UP_STEPS = 3


def record_steps(trainer: Any, agent_loop_manager: Any) -> list[dict[str, float]]:
    """Train, and return verl's phase timings of each step."""
    timings: list[dict[str, float]] = []
    compute_metrics = trainer._compute_metrics

    def recorded(*args: Any, **kwargs: Any) -> Any:
        timings.append(dict(trainer.timing_raw))
        return compute_metrics(*args, **kwargs)

    trainer._compute_metrics = recorded
    trainer.fit(agent_loop_manager)
    return timings


def medians(timings: list[dict[str, float]]) -> dict[str, float]:
    """Median seconds of each phase over the steps after the warm-up."""
    kept = timings[WARM_UP_STEPS:]
    return {phase: statistics.median(step.get(phase, 0.0) for step in kept) for phase in kept[-1]}


def overheads(pair: dict[str, dict[str, float]]) -> dict[str, float]:
    """Shares of a stock step that this recipe adds, scoring apart: measured from outside, and from inside."""
    stock, prepo = pair["stock"], pair["prepo"]
    own = prepo["prompt_selection"] + prepo["rollout_weighting"]
    return {
        "paired": (prepo["step"] - prepo["prompt_scoring"] - stock["step"]) / stock["step"],
        "own_code": own / (prepo["step"] - prepo["prompt_scoring"]),
        "scoring": prepo["prompt_scoring"] / stock["step"],
    }


def table(pairs: list[dict[str, dict[str, float]]], num_steps: int) -> str:
    """Medians over the pairs, phase by phase, and the shares with their spread."""
    phases = sorted({phase for pair in pairs for side in pair.values() for phase in side})
    rows = [
        f"{len(pairs)} alternated pairs of {num_steps} steps, median seconds of a step",
        "",
        "| phase | stock | prepo |",
        "|---|---|---|",
    ]
    for phase in phases:
        values = [statistics.median(pair[side].get(phase, 0.0) for pair in pairs) for side in SIDES]
        rows.append(f"| {phase} | {values[0]:.4f} | {values[1]:.4f} |")
    rows += ["", "| added to a stock step | min | median | max |", "|---|---|---|---|"]
    labels = {
        "paired": "all but scoring, prepo step minus stock step",
        "own_code": "all but scoring, time inside this recipe's hooks",
        "scoring": "scoring",
    }
    for name, label in labels.items():
        shares = [overheads(pair)[name] for pair in pairs]
        rows.append(f"| {label} | {min(shares):.1%} | {statistics.median(shares):.1%} | {max(shares):.1%} |")
    return "\n".join(rows) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    arguments, overrides = parser.parse_known_args(argv)
    pairs: list[dict[str, dict[str, float]]] = []
    for number in range(arguments.pairs):
        pair = {}
        for side in list(SIDES) if number % 2 == 0 else list(SIDES)[::-1]:
            run_overrides = [
                *COMMON,
                *SIDES[side],
                f"trainer.total_training_steps={arguments.steps}",
                f"trainer.default_local_dir=outputs/bench/runs/overhead_{side}",
                *overrides,
            ]
            pair[side] = medians(run_on_stack(run_overrides, record_steps))
        pairs.append(pair)
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "overhead.json").write_text(json.dumps(pairs, indent=1) + "\n")
        (arguments.out / "overhead.md").write_text(table(pairs, arguments.steps))
    print(table(pairs, arguments.steps))


if __name__ == "__main__":
    main()
