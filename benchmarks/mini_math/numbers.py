"""Statistics of learning curves: accuracy levels, areas, rollouts to a target, and intervals over paired seeds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipe.prepo.maths.rng import make_generator
from recipe.prepo.types import FloatArray, IntArray

REFERENCE = "random"
MID_LEVELS = (0.25, 0.5, 0.75)
"""Targets, as shares of the way from the start to the reference's final level; 1 is a fourth target."""
NUM_RESAMPLES = 2_000
# With fewer seeds, bootstrap percentiles cover the truth far less often than they claim.
LEAST_SEEDS_FOR_BOOTSTRAP = 5
# 97.5% quantiles of Student's t with n - 1 degrees of freedom, n = 2 to 21; the last one, too wide, for more.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)
T_QUANTILES += (2.131, 2.120, 2.110, 2.101, 2.093, 2.086)
GROUP_SHARES = ("zero_advantage_frac", "all_correct_frac", "all_wrong_frac")


@dataclass(frozen=True)
class Curves:
    """Curves of one method, shape [S, E]: seeds by evaluations, at the same steps."""

    seeds: tuple[int, ...]
    steps_E: FloatArray
    rollouts_SE: FloatArray
    accuracy_SE: FloatArray

    def take(self, places: IntArray) -> tuple[FloatArray, FloatArray]:
        """Mean rollouts and mean accuracy at each evaluation over seeds: [R, n] places -> two arrays [R, E]."""
        return self.rollouts_SE[places].mean(1), self.accuracy_SE[places].mean(1)

    def mean(self) -> tuple[FloatArray, FloatArray]:
        """:meth:`take` of all seeds once, [E] each."""
        return self.rollouts_SE.mean(0), self.accuracy_SE.mean(0)

    def of_seeds(self, seeds: Sequence[int]) -> Curves:
        places = [self.seeds.index(seed) for seed in seeds]
        return Curves(tuple(seeds), self.steps_E, self.rollouts_SE[places], self.accuracy_SE[places])


def by_method(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The runs of each method, in the order of the results."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        found.setdefault(result["row"], []).append(result)
    return found


def read_curves(results: Sequence[Mapping[str, Any]], *, cost: str = "rollouts") -> dict[str, Curves]:
    """Curves of each method, in the order of the results, seeds ascending.

    Args:
        cost: what accuracy is plotted against, "rollouts" or (response) "tokens"; it takes the place of the rollouts.
    """
    curves = {}
    for method, runs in by_method(results).items():
        runs = sorted(runs, key=lambda run: run["seed"])
        columns = {
            name: np.array([[point[name] for point in run["curve"]] for run in runs], dtype=np.float64)
            for name in ("step", cost, "accuracy")
        }
        seeds = tuple(run["seed"] for run in runs)
        curves[method] = Curves(seeds, columns["step"][0], columns[cost], columns["accuracy"])
    return curves


def rollouts_to(target: float, rollouts_E: FloatArray, accuracy_E: FloatArray) -> float | None:
    """Rollouts at which a curve first reaches a target, interpolated between two evaluations; None if it never does.

    >>> rollouts_to(0.5, np.array([0.0, 100.0, 200.0]), np.array([0.0, 0.25, 0.75]))
    150.0
    >>> rollouts_to(0.5, np.array([0.0, 100.0]), np.array([0.3, 0.4])) is None
    True
    """
    found = float(_rollouts_to(np.array([target]), rollouts_E[None], accuracy_E[None])[0])
    return None if found == float("inf") else found


def _rollouts_to(target_R: FloatArray, rollouts_RE: FloatArray, accuracy_RE: FloatArray) -> FloatArray:
    """:func:`rollouts_to` of R curves; infinite for those that never reach their target."""
    reached_RE = accuracy_RE >= target_R[:, None]
    at_R, curve_R = reached_RE.argmax(1), np.arange(len(target_R))
    before_R = np.maximum(at_R - 1, 0)
    low_R, high_R = accuracy_RE[curve_R, before_R], accuracy_RE[curve_R, at_R]
    first_R, last_R = rollouts_RE[curve_R, before_R], rollouts_RE[curve_R, at_R]
    with np.errstate(divide="ignore", invalid="ignore"):
        found_R = np.where(at_R == 0, last_R, first_R + (target_R - low_R) / (high_R - low_R) * (last_R - first_R))
    return np.where(reached_RE.any(1), found_R, np.inf)


def final_accuracy(accuracy_E: FloatArray) -> float:
    """Mean of the last two evaluations, which halves the variance of their noise."""
    return float(accuracy_E[-2:].mean())


def accuracy_at(
    rollouts: float, rollouts_E: FloatArray, accuracy_E: FloatArray, *, evaluation_rollouts: float
) -> float:
    """Accuracy at that number of rollouts: the mean there and one evaluation of the reference before, interpolated.

    With as many rollouts as the reference this is :func:`final_accuracy`. A curve that ends before keeps its last
    accuracy.

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
    """The rollouts that methods are compared over.

    Attributes:
        rollouts: total of the reference, mean over its seeds.
        evaluation_rollouts: between its last two evaluations.
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


def target_level(share: float, accuracy_RE: FloatArray) -> FloatArray:
    """The level at that share of the way from each curve's start to its final accuracy, shape [R]."""
    start_R = accuracy_RE[:, 0]
    return start_R + share * (accuracy_RE[:, -2:].mean(1) - start_R)


@functools.cache
def resamples(num_seeds: int) -> IntArray:
    """Places of seeds drawn with replacement, shape [NUM_RESAMPLES, num_seeds]."""
    generator = make_generator(0, "mini_math.bootstrap")
    return np.array([generator.integers(num_seeds, size=num_seeds) for _ in range(NUM_RESAMPLES)])


@dataclass(frozen=True)
class Estimate:
    """A value with its interval (None for too few seeds) over ``num_seeds`` seeds."""

    value: float
    bounds: tuple[float, float] | None
    num_seeds: int


def bootstrap(statistic: Callable[[IntArray], FloatArray], num_seeds: int) -> Estimate:
    """A statistic with its 95% percentile bootstrap interval, for at least LEAST_SEEDS_FOR_BOOTSTRAP seeds.

    Args:
        statistic: of places of seeds, [R, n] -> [R]; both sides of a pair use the same places.
    """
    value = float(statistic(np.arange(num_seeds)[None])[0])
    if num_seeds < LEAST_SEEDS_FOR_BOOTSTRAP:
        return Estimate(value, None, num_seeds)
    low, high = np.quantile(statistic(resamples(num_seeds)), [0.025, 0.975])
    return Estimate(value, (float(low), float(high)), num_seeds)


def mean_difference(differences: Sequence[float] | FloatArray) -> Estimate:
    """Mean of paired differences with Student's 95% interval, which is valid for few seeds too.

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
    """Mean difference of two values over common seeds; None without any."""
    differences = [value - theirs[seed] for seed, value in mine.items() if seed in theirs]
    return mean_difference(differences) if differences else None


@dataclass(frozen=True)
class TargetResult:
    """How a method reaches a target.

    Attributes:
        level: accuracy of the target.
        rollouts: of the mean curve over all seeds; None: never.
        num_reached: seeds whose own curve reaches it, of num_seeds.
        ratio: the reference's rollouts over the method's, paired seeds; above 1 the method needs fewer. A method or
            resample that never reaches the target has ratio 0. None without common seeds.
    """

    share: float
    level: float
    rollouts: float | None
    num_reached: int
    num_seeds: int
    ratio: Estimate | None


def reach_target(curves: Curves, reference: Curves, share: float) -> TargetResult:
    """Rollouts to the target at ``share`` of the reference's way.

    The ratio is of mean curves. The level comes from the reference's mean curve of the same (resampled) seeds: the
    reference then always reaches it, and its noise is part of the interval.
    """
    level = float(target_level(share, reference.mean()[1][None])[0])
    common = [seed for seed in curves.seeds if seed in reference.seeds]
    mine, theirs = curves.of_seeds(common), reference.of_seeds(common)

    def ratio(places: IntArray) -> FloatArray:
        rollouts_RE, accuracy_RE = theirs.take(places)
        target_R = target_level(share, accuracy_RE)
        theirs_R, mine_R = _rollouts_to(target_R, rollouts_RE, accuracy_RE), _rollouts_to(target_R, *mine.take(places))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where((theirs_R == 0.0) & (mine_R == 0.0), 1.0, theirs_R / mine_R)

    reached = [
        rollouts_to(level, rollouts_E, accuracy_E) is not None
        for rollouts_E, accuracy_E in zip(curves.rollouts_SE, curves.accuracy_SE, strict=True)
    ]
    return TargetResult(
        share=share,
        level=level,
        rollouts=rollouts_to(level, *curves.mean()),
        num_reached=sum(reached),
        num_seeds=len(reached),
        ratio=bootstrap(ratio, len(common)) if common else None,
    )


def paired_difference(curves: Curves, reference: Curves, statistic: Callable[[int, Curves], float]) -> Estimate | None:
    """:func:`paired` of ``statistic(place, method)`` and ``statistic(place, reference)``."""
    mine, theirs = (
        {seed: statistic(place, side) for place, seed in enumerate(side.seeds)} for side in (curves, reference)
    )
    return paired(mine, theirs)


def group_shares(run: Mapping[str, Any], *, until: float | None = None) -> dict[str, float]:
    """Shares of all groups of a run, discarded ones included, in the steps that begin before so many rollouts."""
    train = run["train"]
    weights = np.array(train["groups"])
    if until is not None:
        weights = weights * (np.array([0.0, *train["rollouts"][:-1]]) < until)
    return {name: float(np.average(train[name], weights=weights)) for name in GROUP_SHARES}


def entropy_at(run: Mapping[str, Any], rollouts: float) -> float:
    """Entropy in nats on the probe prompts at that number of rollouts, interpolated between two evaluations."""
    points = run["curve"]
    return float(np.interp(rollouts, [p["rollouts"] for p in points], [p["entropy_nats"] for p in points]))


def entropy_kept(run: Mapping[str, Any]) -> float:
    """Entropy of the training rollouts in the second half of the steps, over the first step's.

    Both at the temperature that they were sampled at: E3's temperature holds it.
    """
    entropies = run["train"]["train_entropy_nats"]
    return float(np.mean(entropies[len(entropies) // 2 :]) / entropies[0])
