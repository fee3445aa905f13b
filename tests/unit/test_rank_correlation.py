"""Rank correlation against pandas, and the bootstrap interval's coverage."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from recipe.prepo.tools.rank_correlation import spearman, spearman_interval


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_levels", [2, 5, 1000])
def test_rho_equals_pandas_with_and_without_ties(seed: int, num_levels: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.integers(0, num_levels, 60).astype(float)
    y = 0.5 * x + generator.integers(0, num_levels, 60)
    expected = pd.DataFrame({"x": x, "y": y}).corr(method="spearman").loc["x", "y"]
    assert spearman(x, y) == pytest.approx(expected, abs=1e-12)


def test_rho_sees_order_only() -> None:
    x = [1.0, 5.0, 2.0, 9.0]
    assert spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert spearman(x, [-(value**3) for value in x]) == pytest.approx(-1.0)


@pytest.mark.parametrize(("x", "y"), [([], []), ([1.0], [2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])])
def test_rho_is_nan_where_it_is_undefined(x: list[float], y: list[float]) -> None:
    assert math.isnan(spearman(x, y))
    interval = spearman_interval(x, y, list(range(len(x))))
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        spearman([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="not finite"):
        spearman([1.0, math.nan], [1.0, 2.0])
    with pytest.raises(ValueError, match="one label for each pair"):
        spearman_interval([1.0, 2.0], [1.0, 2.0], ["a"])


def test_interval_resamples_pairs_as_a_plain_bootstrap_does() -> None:
    """The weighted form must equal re-ranking each resample, here done by pandas."""
    generator = np.random.default_rng(3)
    x = generator.normal(size=40)
    y = x + generator.normal(size=40)
    found = spearman_interval(x, y, list(range(40)), num_resamples=200, seed=7)
    same_draws, plain = np.random.default_rng(7), []
    for _ in range(200):
        picks = same_draws.integers(0, 40, size=40)
        plain.append(pd.DataFrame({"x": x[picks], "y": y[picks]}).corr(method="spearman").loc["x", "y"])
    assert [found.low, found.high] == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=1e-12)
    assert found.low < found.rho < found.high


def test_interval_of_repeated_pairs_is_not_narrower_than_of_the_pairs_themselves() -> None:
    generator = np.random.default_rng(4)
    x, y = generator.normal(size=(2, 30))
    once = spearman_interval(x, y, list(range(30)), seed=1)
    copied = spearman_interval(np.tile(x, 9), np.tile(y, 9), list(range(30)) * 9, seed=1)
    assert copied.rho == pytest.approx(once.rho)
    assert (copied.num_pairs, copied.num_clusters) == (270, 30)
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=1e-9)


def test_interval_is_reproducible() -> None:
    generator = np.random.default_rng(5)
    x, y = generator.normal(size=(2, 50))
    assert spearman_interval(x, y, list(range(50))) == spearman_interval(x, y, list(range(50)))
