"""Gaussian beliefs about the logit of a pass rate: what a group of rollouts teaches, and what a group is worth."""

from __future__ import annotations

import numpy as np

from recipe.prepo.maths import FloatArray

NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(16)
WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
"""Gauss-Hermite quadrature for a standard normal variable."""
LEAST_VARIANCE = 1e-6


def expected_live(mean_C: FloatArray, variance_C: FloatArray, size: int) -> FloatArray:
    """Probability that a group's rewards differ, ``E[1 - p^M - (1 - p)^M]``, shape [C].

    Args:
        mean_C, variance_C: normal belief about the logit of each pass rate p.
        size: rollouts of a group, M.

    >>> expected_live(np.array([0.0, 9.0]), np.zeros(2), 8).round(3).tolist()
    [0.992, 0.001]
    """
    live_C = np.ones(len(mean_C))
    sd_C = np.sqrt(variance_C)
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        softplus_C = np.logaddexp(0.0, mean_C + node * sd_C)  # -log(1 - p); log p is the logit more
        live_C -= weight * (np.exp(-size * softplus_C) + np.exp(size * (mean_C + node * sd_C - softplus_C)))
    return np.maximum(live_C, 0.0)


def after_rollouts(mean: float, variance: float, correct: int, size: int) -> tuple[float, float]:
    """Mean and variance of a belief about a logit after ``correct`` of ``size`` rollouts: matched moments.

    >>> mean, variance = after_rollouts(0.0, 4.0, 8, 8)
    >>> round(mean, 2), round(variance, 2)
    (2.64, 1.54)
    """
    logits = mean + NODES * np.sqrt(variance)
    log_likelihood = correct * logits - size * np.logaddexp(0.0, logits)
    mass = WEIGHTS * np.exp(log_likelihood - log_likelihood.max())
    mass /= mass.sum()
    after = float(mass @ logits)
    return after, max(float(mass @ (logits - after) ** 2), LEAST_VARIANCE)
