"""Prompt perplexity (PREPO, arXiv 2511.00794, section on online prompt selection)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from recipe.prepo.maths import FloatArray

FEATURES = ("nll_std_nats", "nll_max_nats")
"""What a prompt's token log-probabilities tell beside their mean; see :func:`nll_features`."""


def mean_nll_nats(log_probs_T: ArrayLike) -> float:
    """Mean negative log-likelihood of a prompt in nats, ``-(1/T) * sum_t log p(x_t | x_<t)``; ``nan`` for T = 0.

    ``log_probs_T``: of the tokens that have a left context (all but the first), shape [T].

    >>> round(mean_nll_nats([-1.0, -3.0]), 3)
    2.0
    """
    array_T = np.asarray(log_probs_T, dtype=np.float64)
    return float(-array_T.mean()) if array_T.size else float("nan")


def nll_features(log_probs_T: ArrayLike) -> tuple[float, ...]:
    """The values of ``FEATURES``: (population) standard deviation and largest NLL of a prompt's tokens, in nats.

    >>> nll_features([-1.0, -3.0])
    (1.0, 3.0)
    """
    array_T = np.asarray(log_probs_T, dtype=np.float64)
    return (float(array_T.std()), float(-array_T.min())) if array_T.size else (float("nan"),) * len(FEATURES)


def perplexity(nll_nats: ArrayLike) -> FloatArray:
    """Perplexity ``P_i = exp(nll_i)``, element-wise; overflows to ``inf`` above about 709 nats.

    >>> perplexity([0.0, np.log(7.0)]).round(6).tolist()
    [1.0, 7.0]
    """
    with np.errstate(over="ignore"):
        return np.exp(np.asarray(nll_nats, dtype=np.float64))
