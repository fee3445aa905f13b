"""Figures of a comparison from its curves: levels, areas, rollouts to a target, and intervals over paired seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipe.prepo.maths.rng import make_generator
from recipe.prepo.types import FloatArray

REFERENCE = "uniform"
MID_LEVELS = (0.25, 0.5, 0.75)
"""Targets, as shares of the way from the start to uniform's final level; its final level (1) is a fourth one."""
NUM_RESAMPLES = 2_000
# With fewer, percentiles of a bootstrap hold the truth in far fewer cases than they say.
LEAST_SEEDS_FOR_BOOTSTRAP = 5
# 97.5% quantiles of Student's t with n - 1 degrees of freedom, n = 2 to 21; the last one, too wide, for more.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)
T_QUANTILES += (2.131, 2.120, 2.110, 2.101, 2.093, 2.086)
GROUP_SHARES = ("zero_advantage_frac", "all_correct_frac", "all_wrong_frac")


@dataclass(frozen=True)
class Curves:
    """Curves of one row, shape [S, E]: seeds by evaluations, at the same steps."""

    seeds: tuple[int, ...]
    steps_E: FloatArray
    rollouts_SE: FloatArray
    accuracy_SE: FloatArray

    def take(self, places: Sequence[int] | FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean rollouts and mean accuracy at each evaluation, over these seeds (a seed may stand twice)."""
        return self.rollouts_SE[places].mean(0), self.accuracy_SE[places].mean(0)

    def of_seeds(self, seeds: Sequence[int]) -> Curves:
        places = [self.seeds.index(seed) for seed in seeds]
        return Curves(tuple(seeds), self.steps_E, self.rollouts_SE[places], self.accuracy_SE[places])


def by_row(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The runs of each row, in the order of the results."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        found.setdefault(result["row"], []).append(result)
    return found


def read_curves(results: Sequence[Mapping[str, Any]], *, cost: str = "rollouts") -> dict[str, Curves]:
    """Curves of each row, rows in the order of the results, seeds ascending.

    Args:
        cost: what accuracy is looked at by, «rollouts» or (response) «tokens»; it takes the place of the rollouts.
    """
    curves = {}
    for row, runs in by_row(results).items():
        runs = sorted(runs, key=lambda run: run["seed"])
        columns = {
            name: np.array([[point[name] for point in run["curve"]] for run in runs], dtype=np.float64)
            for name in ("step", cost, "accuracy")
        }
        curves[row] = Curves(tuple(run["seed"] for run in runs), columns["step"][0], columns[cost], columns["accuracy"])
    return curves


def rollouts_to(target: float, rollouts_E: FloatArray, accuracy_E: FloatArray) -> float | None:
    """Rollouts at which the curve first reaches a target, on the straight line between two evaluations.

    Returns:
        None where it never does.

    >>> rollouts_to(0.5, np.array([0.0, 100.0, 200.0]), np.array([0.0, 0.25, 0.75]))
    150.0
    >>> rollouts_to(0.5, np.array([0.0, 100.0]), np.array([0.3, 0.4])) is None
    True
    """
    reached = np.flatnonzero(accuracy_E >= target)
    if not reached.size:
        return None
    last = int(reached[0])
    if last == 0:
        return float(rollouts_E[0])
    low, high = accuracy_E[last - 1], accuracy_E[last]
    share = (target - low) / (high - low)
    return float(rollouts_E[last - 1] + share * (rollouts_E[last] - rollouts_E[last - 1]))


def final_accuracy(accuracy_E: FloatArray) -> float:
    """Mean of the last two evaluations, which halves the variance of their noise."""
    return float(accuracy_E[-2:].mean())


def accuracy_at(
    rollouts: float, rollouts_E: FloatArray, accuracy_E: FloatArray, *, evaluation_rollouts: float
) -> float:
    """Accuracy at that number of rollouts: the mean there and one evaluation of the reference before, interpolated.

    For a row with as many rollouts as the reference this is :func:`final_accuracy`; a curve that ends before keeps its
    last accuracy.

    >>> accuracy_at(200.0, np.array([0.0, 100.0, 200.0]), np.array([0.1, 0.3, 0.4]), evaluation_rollouts=100.0)
    0.35
    """
    at = [rollouts - evaluation_rollouts, rollouts]
    return float(np.interp(at, rollouts_E, accuracy_E).mean())


def area(rollouts_E: FloatArray, accuracy_E: FloatArray, *, until: float) -> float:
    """Mean accuracy over the rollouts from 0 to ``until``: the area under the curve, divided by ``until``.

    A curve that ends before keeps its last accuracy.

    >>> area(np.array([0.0, 100.0]), np.array([0.2, 0.4]), until=50.0)
    0.25
    """
    inner = rollouts_E[(rollouts_E > 0) & (rollouts_E < until)]
    at = np.concatenate([[0.0], inner, [until]])
    return float(np.trapezoid(np.interp(at, rollouts_E, accuracy_E), at) / until)


@dataclass(frozen=True)
class Budget:
    """The rollouts that rows are compared over.

    Attributes:
        rollouts: what the reference uses in all, mean over its seeds.
        evaluation_rollouts: what it uses between its last two evaluations.
    """

    rollouts: float
    evaluation_rollouts: float

    @classmethod
    def of(cls, reference: Curves) -> Budget:
        ends = reference.rollouts_SE.mean(0)
        return cls(float(ends[-1]), float(ends[-1] - ends[-2]))

    def accuracy(self, place: int, curves: Curves) -> float:
        """:func:`accuracy_at` the budget, of the seed at that place."""
        of_seed = curves.rollouts_SE[place], curves.accuracy_SE[place]
        return accuracy_at(self.rollouts, *of_seed, evaluation_rollouts=self.evaluation_rollouts)

    def area(self, place: int, curves: Curves) -> float:
        """:func:`area` until the budget, of the seed at that place."""
        return area(curves.rollouts_SE[place], curves.accuracy_SE[place], until=self.rollouts)


def final_of(place: int, curves: Curves) -> float:
    """:func:`final_accuracy` of the seed at that place."""
    return final_accuracy(curves.accuracy_SE[place])


def target_level(share: float, accuracy_E: FloatArray) -> float:
    """The level at that share of the way from a curve's start to its final accuracy."""
    start = float(accuracy_E[0])
    return start + share * (final_accuracy(accuracy_E) - start)


def interval(
    statistic: Callable[[Sequence[int]], float], num_seeds: int, *, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile bootstrap interval over seeds; None for fewer than LEAST_SEEDS_FOR_BOOTSTRAP.

    Args:
        statistic: of places of seeds, drawn with replacement; the same places for both sides of a pair.
    """
    if num_seeds < LEAST_SEEDS_FOR_BOOTSTRAP:
        return None
    generator = make_generator(0, "mini_math.bootstrap")
    values = [statistic(generator.integers(num_seeds, size=num_seeds).tolist()) for _ in range(NUM_RESAMPLES)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval (None for too few seeds) over ``num_seeds`` seeds."""

    value: float
    bounds: tuple[float, float] | None
    num_seeds: int


def estimate(statistic: Callable[[Sequence[int]], float], num_seeds: int) -> Estimate:
    return Estimate(statistic(range(num_seeds)), interval(statistic, num_seeds), num_seeds)


def mean_difference(differences: Sequence[float] | FloatArray) -> Estimate:
    """Mean of paired differences with Student's 95% interval, which holds its level also for few seeds.

    >>> [round(bound, 3) for bound in mean_difference([0.1, 0.2, 0.3]).bounds]
    [-0.048, 0.448]
    """
    values = np.asarray(differences, dtype=np.float64)
    n = len(values)
    mean = float(values.mean())
    if n < 2:
        return Estimate(mean, None, n)
    half = T_QUANTILES[min(n - 2, len(T_QUANTILES) - 1)] * float(values.std(ddof=1)) / n**0.5
    return Estimate(mean, (mean - half, mean + half), n)


def paired(mine: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """Mean over common seeds of the difference between two figures by seed; None without common seeds."""
    differences = [value - theirs[seed] for seed, value in mine.items() if seed in theirs]
    return mean_difference(differences) if differences else None


@dataclass(frozen=True)
class TargetResult:
    """How a row reaches a target.

    Attributes:
        level: accuracy of the target.
        rollouts: of the mean curve over all seeds; None: never.
        num_reached: seeds whose own curve reaches it, of num_seeds.
        ratio: uniform's rollouts over the row's, paired seeds; above 1 the row needs fewer. A row (or a resample)
            that never reaches the target has ratio 0. None without common seeds.
    """

    share: float
    level: float
    rollouts: float | None
    num_reached: int
    num_seeds: int
    ratio: Estimate | None


def reach_target(curves: Curves, reference: Curves, share: float) -> TargetResult:
    """Rollouts to the target at ``share`` of uniform's way.

    The ratio is of mean curves, with the level taken from uniform's mean curve of the same (resampled) seeds: uniform
    then always reaches it, and its noise is part of the interval.
    """
    level = target_level(share, reference.take(range(len(reference.seeds)))[1])
    common = [seed for seed in curves.seeds if seed in reference.seeds]
    mine, theirs = curves.of_seeds(common), reference.of_seeds(common)

    def ratio(places: Sequence[int]) -> float:
        their_rollouts, their_accuracy = theirs.take(places)
        target = target_level(share, their_accuracy)
        needed = rollouts_to(target, *mine.take(places))
        reference_needed = rollouts_to(target, their_rollouts, their_accuracy)
        assert reference_needed is not None
        if needed is None:
            return 0.0
        return reference_needed / needed if needed else float("inf") if reference_needed else 1.0

    reached = [
        rollouts_to(level, rollouts_E, accuracy_E) is not None
        for rollouts_E, accuracy_E in zip(curves.rollouts_SE, curves.accuracy_SE, strict=True)
    ]
    return TargetResult(
        share=share,
        level=level,
        rollouts=rollouts_to(level, *curves.take(range(len(curves.seeds)))),
        num_reached=sum(reached),
        num_seeds=len(reached),
        ratio=estimate(ratio, len(common)) if common else None,
    )


def paired_difference(curves: Curves, reference: Curves, statistic: Callable[[int, Curves], float]) -> Estimate | None:
    """:func:`paired` of ``statistic(place, row)`` and ``statistic(place, uniform)``."""
    mine, theirs = (
        {seed: statistic(place, side) for place, seed in enumerate(side.seeds)} for side in (curves, reference)
    )
    return paired(mine, theirs)


def group_shares(run: Mapping[str, Any], *, until: float | None = None) -> dict[str, float]:
    """Shares of all groups of a run, thrown-away ones included; of the steps that begin before so many rollouts."""
    train = run["train"]
    weights = np.array(train["groups"])
    if until is not None:
        weights = weights * (np.array([0.0, *train["rollouts"][:-1]]) < until)
    return {name: float(np.average(train[name], weights=weights)) for name in GROUP_SHARES}


def entropy_at(run: Mapping[str, Any], rollouts: float) -> float:
    """Entropy on the probe prompts in nats at that number of rollouts, between two evaluations interpolated."""
    points = run["curve"]
    return float(np.interp(rollouts, [p["rollouts"] for p in points], [p["entropy_nats"] for p in points]))


def entropy_kept(run: Mapping[str, Any]) -> float:
    """Entropy of the rollouts that the second half of the steps trained on, over that of the first step's.

    Both at the temperature that they were sampled at: what E3's temperature holds.
    """
    entropies = run["train"]["train_entropy_nats"]
    return float(np.mean(entropies[len(entropies) // 2 :]) / entropies[0])
