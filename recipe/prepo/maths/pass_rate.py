"""Normal beliefs about the logit of a pass rate: what a group of rollouts teaches, and what a group is worth."""

from __future__ import annotations

import numpy as np

from recipe.prepo.maths import FloatArray

# Trapezoidal rules for a standard normal variable. Expectations over many prompts take the coarse one, whose error is
# below 0.001 for variances up to 9 and 0.03 for 64. Posteriors are narrow and may lie far out.
FINE = np.linspace(-8.0, 8.0, 129)
COARSE = np.linspace(-4.5, 4.5, 19)
LEAST_VARIANCE = 1e-6


def expected_worth(mean_C: FloatArray, variance_C: FloatArray, size: int) -> tuple[FloatArray, FloatArray]:
    """What a group of each prompt is worth: probability that its rewards differ, and variance of a reward, shape [C].

    They are ``E[1 - p^M - (1 - p)^M]`` and ``E[p (1 - p)]``.

    Args:
        mean_C, variance_C: belief about the logit of each pass rate p.
        size: rollouts of a group, M.

    >>> live, variance = expected_worth(np.array([0.0, 9.0]), np.zeros(2), 8)
    >>> live.round(3).tolist(), variance.round(4).tolist()
    ([0.992, 0.001], [0.25, 0.0001])
    """
    live_C, reward_variance_C = np.ones(len(mean_C)), np.zeros(len(mean_C))
    sd_C = np.sqrt(variance_C)
    weights = np.exp(-(COARSE**2) / 2.0)
    for node, weight in zip(COARSE, weights / weights.sum(), strict=True):
        odds_C = np.exp(-np.abs(mean_C + node * sd_C))  # of the less likely outcome
        likely_C = 1.0 / (1.0 + odds_C)
        reward_variance_C += weight * odds_C * likely_C**2
        live_C -= weight * likely_C**size * (1.0 + odds_C**size)
    return np.maximum(live_C, 0.0), reward_variance_C


def after_rollouts(mean: float, variance: float, correct: float, size: float) -> tuple[float, float, float]:
    """What ``correct`` of ``size`` rollouts do to a belief about a logit: new mean, new variance, log evidence.

    The evidence is the probability of such a group under the belief, without its binomial coefficient.

    >>> [round(value, 2) for value in after_rollouts(0.0, 4.0, 8, 8)]
    [2.81, 1.37, -1.99]
    """
    logits = mean + FINE * np.sqrt(variance)
    log_mass = correct * logits - size * np.logaddexp(0.0, logits) - FINE**2 / 2.0
    highest = float(log_mass.max())
    mass = np.exp(log_mass - highest)
    total = float(mass.sum())
    mass /= total
    after = float(mass @ logits)
    log_evidence = highest + np.log(total / np.exp(-(FINE**2) / 2.0).sum())
    return after, max(float(mass @ (logits - after) ** 2), LEAST_VARIANCE), float(log_evidence)
