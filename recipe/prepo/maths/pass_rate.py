"""Normal beliefs about the logit of a pass rate: what a group of rollouts teaches, and what a group is worth."""

from __future__ import annotations

import numpy as np

from recipe.prepo.maths import FloatArray

# Trapezoidal rules for a standard normal variable. Expectations over many prompts take the coarse one, whose error is
# below 0.001 for variances up to 9. Posteriors are narrow and may lie far out.
FINE = np.linspace(-8.0, 8.0, 129)
COARSE = np.linspace(-4.5, 4.5, 19)
LEAST_VARIANCE = 1e-6


def expected_live(mean_C: FloatArray, variance_C: FloatArray, size: int) -> FloatArray:
    """Probability that a group's rewards differ, ``E[1 - p^M - (1 - p)^M]``, shape [C].

    Args:
        mean_C, variance_C: belief about the logit of each pass rate p.
        size: rollouts of a group, M.

    >>> expected_live(np.array([0.0, 9.0]), np.zeros(2), 8).round(3).tolist()
    [0.992, 0.001]
    """
    live_C = np.ones(len(mean_C))
    sd_C = np.sqrt(variance_C)
    weights = np.exp(-(COARSE**2) / 2.0)
    for node, weight in zip(COARSE, weights / weights.sum(), strict=True):
        odds_C = np.exp(-np.abs(mean_C + node * sd_C))  # of the less likely outcome
        likely_C = 1.0 / (1.0 + odds_C)
        live_C -= weight * likely_C**size * (1.0 + odds_C**size)
    return np.maximum(live_C, 0.0)


def after_rollouts(mean: float, variance: float, correct: int, size: int) -> tuple[float, float]:
    """Mean and variance of a belief about a logit after ``correct`` of ``size`` rollouts.

    >>> mean, variance = after_rollouts(0.0, 4.0, 8, 8)
    >>> round(mean, 2), round(variance, 2)
    (2.81, 1.37)
    """
    logits = mean + FINE * np.sqrt(variance)
    log_mass = correct * logits - size * np.logaddexp(0.0, logits) - FINE**2 / 2.0
    mass = np.exp(log_mass - log_mass.max())
    mass /= mass.sum()
    after = float(mass @ logits)
    return after, max(float(mass @ (logits - after) ** 2), LEAST_VARIANCE)
