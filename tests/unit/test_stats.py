"""pass@k and maj@k against enumeration, intervals against simulation, rank correlations against pandas."""

import math
from collections import Counter
from fractions import Fraction
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.prepo.tools.stats import majority_at_k, mean_interval, pass_at_k, signal_frac, spearman, spearman_interval


@pytest.mark.parametrize("num_samples", range(1, 8))
def test_pass_at_k_equals_enumeration(num_samples: int) -> None:
    for num_correct in range(num_samples + 1):
        outcomes = ["correct"] * num_correct + ["incorrect"] * (num_samples - num_correct)
        for k in range(1, num_samples + 1):
            subsets = list(combinations(outcomes, k))
            any_correct = sum("correct" in subset for subset in subsets) / len(subsets)
            mixed = sum(len(set(subset)) == 2 for subset in subsets) / len(subsets)
            assert pass_at_k([num_samples], [num_correct], k)[0] == pytest.approx(any_correct, abs=1e-12)
            assert signal_frac([num_samples], [num_correct], k)[0] == pytest.approx(mixed, abs=1e-12)


def test_pass_at_k_takes_ragged_and_large_numbers_and_refuses_impossible_ones() -> None:
    assert pass_at_k([2, 16, 5], [1, 1, 0], 2).tolist() == pytest.approx([1.0, 2 / 16, 0.0])
    exact = 1 - Fraction(50_000 * 49_999 * 49_998, 100_000 * 99_999 * 99_998)
    assert pass_at_k([100_000], [3], 50_000)[0] == pytest.approx(float(exact), rel=1e-9)
    for num_correct, k in ((1, 5), (1, 0), (5, 1), (-1, 1)):
        with pytest.raises(ValueError, match="not between its limits"):
            pass_at_k([4], [num_correct], k)


def majority_by_enumeration(answers: list[str | None], k: int) -> float:
    total = Fraction(0)
    subsets = list(combinations(answers, k))
    for subset in subsets:
        counts = Counter(answer for answer in subset if answer is not None)
        if counts:
            tied = [answer for answer, count in counts.items() if count == max(counts.values())]
            total += Fraction("correct" in tied, len(tied))
    return float(total / len(subsets))


@settings(max_examples=60, deadline=None)
@given(
    num_correct=st.integers(0, 4),
    incorrect=st.lists(st.integers(1, 3), max_size=3),
    num_abstained=st.integers(0, 3),
)
def test_majority_equals_enumeration(num_correct: int, incorrect: list[int], num_abstained: int) -> None:
    answers: list[str | None] = ["correct"] * num_correct + [None] * num_abstained
    for index, count in enumerate(incorrect):
        answers += [f"incorrect {index}"] * count
    ks = list(range(1, len(answers) + 1))
    found = majority_at_k(num_correct, incorrect, ks, num_abstained=num_abstained)
    assert found.tolist() == pytest.approx([majority_by_enumeration(answers, k) for k in ks], abs=1e-12)


def test_majority_of_a_thousand_samples_stays_finite() -> None:
    found = majority_at_k(510, [490], [1, 999, 1000])
    assert found[2] == 1.0 and 0.51 <= found[0] < found[1] <= 1.0


# Sets whose questions have pass rates that follow Beta(a, b), and 16 samples each: (questions, a, b).
# Measured over these 400 simulations, nominal 0.95: 0.928, 0.945, 0.880, 0.953.
HARD, MIXED, EASY = (30, 0.3, 2.0), (40, 1.0, 1.0), (200, 2.0, 1.0)


@pytest.mark.parametrize(
    ("sets", "lowest"),
    [([HARD], 0.90), ([MIXED], 0.92), ([(30, 0.15, 2.0)], 0.85), ([HARD, MIXED, EASY], 0.92)],
    ids=["hard", "mixed", "hardly any correct", "average of three"],
)
def test_interval_covers_the_true_mean_about_as_often_as_it_says(
    sets: list[tuple[int, float, float]], lowest: float
) -> None:
    truth = np.mean([a / (a + b) for _, a, b in sets])
    generator = np.random.default_rng(1)
    covered = 0
    for repeat in range(400):
        values = [generator.binomial(16, generator.beta(a, b, size)) / 16 for size, a, b in sets]
        found = mean_interval(*values, shares=True, num_resamples=1000, seed=repeat)
        covered += found.low <= truth <= found.high
    assert lowest <= covered / 400 <= 0.99


def test_interval_without_any_spread() -> None:
    found = mean_interval([0.0] * 30, shares=True)
    assert (found.mean, found.low) == (0.0, 0.0)
    # With a true accuracy of `high`, 30 incorrect answers of 30 come up once in 40 times.
    assert (1 - found.high) ** 30 == pytest.approx(0.025)
    assert mean_interval([1.0] * 30, shares=True)[1:3] == (pytest.approx(1 - found.high), 1.0)
    assert math.isnan(mean_interval([0.5]).low) and math.isnan(mean_interval([0.5], [0.5, 1.0]).high)
    assert mean_interval([12.0] * 5) == (12.0, 12.0, 12.0, 5)


def test_sets_weigh_equally_are_resampled_apart_and_repeat_by_seed() -> None:
    assert mean_interval([0.0, 0.0], [1.0] * 10).mean == 0.5
    values = np.random.default_rng(3).random(50)
    one, both = mean_interval(values), mean_interval(values, values)
    # Two equal sets drawn alike would keep the width of one; drawn apart, their mean has 1 / sqrt(2) of it.
    assert both.high - both.low == pytest.approx((one.high - one.low) / math.sqrt(2), rel=0.1)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1) != mean_interval(values, seed=2)


@pytest.mark.parametrize("num_levels", [2, 5, 1000])
def test_rho_and_its_interval_equal_pandas_with_and_without_ties(num_levels: int) -> None:
    """The weighted form must equal re-ranking each resample."""
    generator = np.random.default_rng(num_levels)
    x = generator.integers(0, num_levels, 40).astype(float)
    y = 0.5 * x + generator.integers(0, num_levels, 40)

    def by_pandas(picks: np.ndarray) -> float:
        return pd.DataFrame({"x": x[picks], "y": y[picks]}).corr(method="spearman").loc["x", "y"]

    found = spearman_interval(x, y, list(range(40)), num_resamples=100, seed=7)
    assert found.rho == spearman(x, y) == pytest.approx(by_pandas(np.arange(40)), abs=1e-12)
    same_draws = np.random.default_rng(7)
    plain = [by_pandas(same_draws.integers(0, 40, size=40)) for _ in range(100)]
    assert [found.low, found.high] == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=1e-12)


def test_rho_where_it_is_undefined_and_of_bad_input() -> None:
    for x, y in (([], []), ([1.0], [2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])):
        assert np.isnan(spearman_interval(x, y, list(range(len(x))))[:3]).all()
    for x, y in (([1.0, 2.0], [1.0]), ([1.0, math.nan], [1.0, 2.0])):
        with pytest.raises(ValueError, match="two lists of one length, of finite numbers"):
            spearman(x, y)


def test_rho_interval_of_repeated_pairs_is_not_narrower_than_of_the_pairs_themselves() -> None:
    x, y = np.random.default_rng(4).normal(size=(2, 30))
    once = spearman_interval(x, y, list(range(30)), seed=1)
    copied = spearman_interval(np.tile(x, 9), np.tile(y, 9), list(range(30)) * 9, seed=1)
    assert copied.rho == pytest.approx(once.rho)
    assert (copied.num_pairs, copied.num_clusters) == (270, 30)
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=1e-9)
