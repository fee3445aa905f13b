"""The perplexity schedule: training progress, the ranking and the sliding window (arXiv 2511.00794)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def training_progress(step: int, total_steps: int) -> float:
    """Progress rho in [0, 1] of a 1-based training step: ``(step - 1) / (total_steps - 1)``.

    A single-step run stays at 0; a step outside the run is clipped to its ends.

    >>> [training_progress(s, 5) for s in (1, 3, 5)]
    [0.0, 0.5, 1.0]
    >>> training_progress(1, 1)
    0.0
    """
    assert step >= 1 and total_steps >= 1, f"{step=}, {total_steps=}"
    if total_steps == 1:
        return 0.0
    return min(1.0, (step - 1) / (total_steps - 1))


def window_start(progress: float, num_candidates: int, num_selected: int) -> int:
    """First rank of the window, ``l(rho) = floor(rho * (|B| - K))``, in double precision.

    >>> [window_start(rho, 160, 32) for rho in (0.0, 0.5, 1.0)]
    [0, 64, 128]
    """
    assert 0.0 <= progress <= 1.0 and 0 <= num_selected <= num_candidates, f"{progress=}"
    return math.floor(progress * (num_candidates - num_selected))


def ascending_order(ppl_C: NDArray[np.float64], prompt_ids: Sequence[str]) -> NDArray[np.int64]:
    """Candidate positions sorted by perplexity ascending, ties by prompt id, then by position.

    Args:
        ppl_C: perplexities, shape [C], finite.
        prompt_ids: ids of the same candidates.

    >>> ascending_order(np.array([2.0, 1.0, 2.0]), ["b", "c", "a"]).tolist()
    [1, 2, 0]
    """
    order_C = np.argsort(ppl_C, kind="stable").astype(np.int64)
    ppl_sorted_C = ppl_C[order_C]
    is_tie_C = np.r_[False, ppl_sorted_C[1:] == ppl_sorted_C[:-1], False]
    # Only ties are ranked by id, as Python strings (by code point).
    starts = np.flatnonzero(~is_tie_C[:-1] & is_tie_C[1:])
    ends = np.flatnonzero(is_tie_C[:-1] & ~is_tie_C[1:]) + 1
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        order_C[start:end] = sorted(order_C[start:end].tolist(), key=prompt_ids.__getitem__)
    return order_C


def window_indices(
    ppl_C: NDArray[np.float64], prompt_ids: Sequence[str], num_selected: int, start: int
) -> NDArray[np.int64]:
    """The window ``{sigma(j) : start <= j < start + K}`` in ascending perplexity, shape [K].

    >>> window_indices(np.array([3.0, 1.0, 2.0]), ["a", "b", "c"], num_selected=2, start=1).tolist()
    [2, 0]
    """
    assert 0 <= start <= start + num_selected <= len(prompt_ids), f"{start=}, {num_selected=}"
    return ascending_order(ppl_C, prompt_ids)[start : start + num_selected]
