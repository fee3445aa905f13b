"""How often the intervals of a comparison cover the truth: ``python -m benchmarks.mini_math.coverage [--seeds N]``.

Simulates methods that equal ``random``: the same rising curve, with the benchmark's noise of each evaluation and run.
Prints the share of 95% intervals that cover 0 (differences) or 1 (ratios).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from benchmarks.mini_math.numbers import Budget, Curves, final_of, paired_difference, reach_target
from recipe.prepo.maths.rng import make_generator
from recipe.prepo.types import FloatArray

EVALUATION_SD, RUN_SD = 0.014, 0.012
TARGETS = (0.5, 0.75, 1.0)


def curves(generator: np.random.Generator, num_seeds: int) -> Curves:
    """Rising from 0.36 to 0.60 in 80 steps of 128 rollouts, evaluated every 10 steps."""
    steps_E: FloatArray = np.arange(9) * 10.0
    rising_E = 0.36 + 0.25 * (1 - np.exp(-steps_E / 25.0))
    run_SE = generator.normal(0.0, RUN_SD, (num_seeds, 1)) * steps_E / steps_E[-1]
    noise_SE = generator.normal(0.0, EVALUATION_SD, (num_seeds, len(steps_E)))
    rollouts_SE = np.tile(steps_E * 128, (num_seeds, 1))
    return Curves(tuple(range(num_seeds)), steps_E, rollouts_SE, rising_E + run_SE + noise_SE)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args(argv)
    generator = make_generator(0, "mini_math.coverage")
    holds: dict[str, list[bool]] = {}
    never = 0
    for _ in range(arguments.repeats):
        mine, reference = (curves(generator, arguments.seeds) for _ in range(2))
        found = {
            "difference of the final accuracy": paired_difference(mine, reference, final_of),
            "difference of the area": paired_difference(mine, reference, Budget.of(reference).area),
        }
        for share in TARGETS:
            target = reach_target(mine, reference, share)
            found[f"ratio to {share:.0%} of the way"] = target.ratio
            never += share == 1.0 and target.rollouts is None
        for name, estimate in found.items():
            assert estimate is not None
            if estimate.bounds is None:  # too few seeds for this kind of interval
                continue
            truth = 1.0 if name.startswith("ratio") else 0.0
            holds.setdefault(name, []).append(estimate.bounds[0] <= truth <= estimate.bounds[1])
    print(f"{arguments.seeds} seeds, {arguments.repeats} repeats; share of 95% intervals that cover the truth")
    for name, hits in holds.items():
        print(f"  {name:34} {np.mean(hits):.3f}")
    print(f"  the mean curve never reaches the final level of random in {never / arguments.repeats:.3f} of the repeats")


if __name__ == "__main__":
    main()
