"""E3's temperature control (arXiv 2505.18573, equation 4): a temperature that holds the policy's entropy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

TEMPERATURE_RANGE = (0.01, 100.0)
"""Beyond these vLLM samples greedily, or the softmax is flat; a temperature never leaves them."""
MAX_FACTOR = 2.0


def token_mean_entropy_nats(entropy_nats_R: NDArray[np.float64], num_tokens_R: NDArray[np.int64]) -> float | None:
    """Mean entropy over all tokens of a step, from each rollout's mean and length; None without a token.

    DEVIATION: the published code averages micro-batches unweighted, on each rank alone.

    >>> token_mean_entropy_nats(np.array([1.0, 4.0]), np.array([2, 1]))
    2.0
    """
    num_tokens = int(num_tokens_R.sum())
    return float((entropy_nats_R * num_tokens_R).sum() / num_tokens) if num_tokens else None


def next_temperature(temperature: float, *, entropy_nats: float, target_nats: float, vocab_size: int) -> float:
    """``tau <- tau * (1 + tau * ln(alpha) / D)``, ``alpha = H_target / H``, ``D = ln V + ln ln V``.

    A policy whose next-token distribution has one dominant logit, about D above the rest, scales its entropy by alpha
    with this change, to first order.

    DEVIATION: the published code has no bound. Here one step changes the temperature by a factor of at most 2 either
    way, and never beyond ``TEMPERATURE_RANGE``: an entropy near 0 would otherwise give an infinite temperature, and one
    far above its target a negative one.

    >>> round(next_temperature(1.0, entropy_nats=0.38, target_nats=0.4, vocab_size=151936), 6)
    1.003559
    """
    assert vocab_size >= 3, "ln ln V must be positive"
    depth = math.log(vocab_size) + math.log(math.log(vocab_size))
    if target_nats <= 0.0:  # the policy was deterministic when the target was measured: nothing to hold
        return temperature
    if entropy_nats <= 0.0:
        factor = MAX_FACTOR
    else:
        factor = 1.0 + temperature * (math.log(target_nats) - math.log(entropy_nats)) / depth
    factor = min(max(factor, 1.0 / MAX_FACTOR), MAX_FACTOR)
    return min(max(temperature * factor, TEMPERATURE_RANGE[0]), TEMPERATURE_RANGE[1])


def annealed_target_nats(initial_nats: float, *, step: int, total_steps: int, share: float, end_factor: float) -> float:
    """Entropy target over the run: constant, then a cosine down to ``end_factor`` over the last ``share`` of the steps.

    ``H_init * (eta + (1 - eta) * (1 + cos(pi * (s - s_a) / (s_max - s_a))) / 2)`` from ``s_a = s_max - floor(share *
    s_max)``.

    >>> [round(annealed_target_nats(1.0, step=s, total_steps=480, share=0.4, end_factor=0.9), 5) for s in (336, 432)]
    [0.98536, 0.91464]
    """
    length = int(share * total_steps)
    start = total_steps - length
    if step < start or length == 0:
        return initial_nats
    way = min((step - start) / length, 1.0)
    return initial_nats * (end_factor + (1.0 - end_factor) * (1.0 + math.cos(math.pi * way)) / 2.0)
