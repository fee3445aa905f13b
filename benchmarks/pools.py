"""Separate pools against one pool of the same devices: seconds of a step and rollouts a second.

``python -m benchmarks.pools [--pairs N] [--steps S] [key=value …]``. Two logical devices on the CPU: one for the actor
and one for the vLLM server (``cluster=cpu``), against both of them taking turns (``prepo_sync``, two ranks and two
servers). Runs are alternated at learning rate 0, without sampling seeds. On a machine with few cores both devices share
them, so that overlapping gains little: the figures do not predict the gain of a GPU cluster.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from benchmarks.alternated import Pair, alternated_pairs, phase_table, spread
from benchmarks.results import write_results

NUM_ROLLOUTS = 16 * 8  # K * M of experiment=tiny_cpu
SIDES = {
    "sync": ["trainer.n_gpus_per_node=2", "ray_kwargs.ray_init.num_gpus=2", "prepo.seed_rollouts=false"],
    "separate": ["cluster=cpu"],
}


def table(pairs: list[Pair], num_steps: int) -> str:
    """Mean seconds of each phase (not medians: steps of the asynchronous side alternate), and the ratio."""
    rows = [f"{len(pairs)} alternated pairs of {num_steps} steps, mean seconds of a step", "", *phase_table(pairs)]
    rows += ["", "| | min | median | max |", "|---|---|---|---|"]
    for side in SIDES:
        rows.append(
            f"| rollouts a second, {side} | {spread([NUM_ROLLOUTS / pair[side]['step'] for pair in pairs], '.1f')} |"
        )
    ratios = [pair["sync"]["step"] / pair["separate"]["step"] for pair in pairs]
    rows.append(f"| speed of separate over sync | {spread(ratios, '.2f')} |")
    return "\n".join(rows) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=23)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    arguments, overrides = parser.parse_known_args(argv)

    def keep(pairs: list[Pair]) -> None:
        write_results(arguments.out, "pools", pairs, table(pairs, arguments.steps))

    pairs = alternated_pairs(
        SIDES,
        num_pairs=arguments.pairs,
        num_steps=arguments.steps,
        overrides=overrides,
        after_pair=keep,
        reduce=statistics.fmean,
    )
    print(table(pairs, arguments.steps))


if __name__ == "__main__":
    main()
