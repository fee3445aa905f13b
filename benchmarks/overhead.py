"""Time that this recipe adds to a step of stock verl GRPO with the same K x M rollouts.

``python -m benchmarks.overhead [--pairs N] [--steps S] [key=value …]``. Runs are alternated (stock, prepo, prepo,
stock, …) at learning rate 0. The prepo side scores candidates and weights rollouts but chooses uniformly, so that both
sides roll out the same kind of prompts. Both sides poll the replay buffer at the same interval.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.alternated import MEMORY, Pair, alternated_pairs, phase_table, spread
from benchmarks.results import write_results

SIDES = {
    "stock": ["trainer.v1.trainer_mode=sync", "prepo/selection=all", "prepo/weighting=none"],
    "prepo": ["prepo/selection=uniform", "prepo.score_candidates=always"],
}


def overheads(pair: Pair) -> dict[str, float]:
    """Shares of a stock step that this recipe adds, measured from outside and from inside; scoring separately."""
    stock, prepo = pair["stock"], pair["prepo"]
    own = prepo["prompt_selection"] + prepo["rollout_weighting"]
    return {
        "paired": (prepo["step"] - prepo["prompt_scoring"] - stock["step"]) / stock["step"],
        "own_code": own / (prepo["step"] - prepo["prompt_scoring"]),
        "scoring": prepo["prompt_scoring"] / stock["step"],
    }


def table(pairs: list[Pair], num_steps: int) -> str:
    """Medians of each phase over the pairs, and the shares with their spread."""
    rows = [f"{len(pairs)} alternated pairs of {num_steps} steps, median seconds of a step", "", *phase_table(pairs)]
    rows += ["", "| added to a stock step | min | median | max |", "|---|---|---|---|"]
    labels = {
        "paired": "all but scoring, prepo step minus stock step",
        "own_code": "all but scoring, time inside this recipe's hooks",
        "scoring": "scoring",
    }
    for name, label in labels.items():
        rows.append(f"| {label} | {spread([overheads(pair)[name] for pair in pairs], '.1%')} |")
    memory = [pair["prepo"][MEMORY] / pair["stock"][MEMORY] - 1 for pair in pairs]
    rows.append(f"| memory | {spread(memory, '.1%')} |")
    return "\n".join(rows) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    arguments, overrides = parser.parse_known_args(argv)

    def keep(pairs: list[Pair]) -> None:
        write_results(arguments.out, "overhead", pairs, table(pairs, arguments.steps))

    pairs = alternated_pairs(
        SIDES, num_pairs=arguments.pairs, num_steps=arguments.steps, overrides=overrides, after_pair=keep
    )
    print(table(pairs, arguments.steps))


if __name__ == "__main__":
    main()
