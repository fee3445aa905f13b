"""Sequence entropy and relative-entropy weights (arXiv 2511.00794)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray


def sequence_entropy_nats(entropy_R_T: Iterable[ArrayLike], mask_R_T: Iterable[ArrayLike]) -> NDArray[np.float64]:
    """Mean token entropy of each rollout over its own response tokens.

    Args:
        entropy_R_T: per rollout, the full-vocabulary Shannon entropy (nats) at each response position, shape [T_i].
        mask_R_T: per rollout, 1 where the policy generated the token, 0 for tool tokens and padding, shape [T_i].

    Returns:
        ``(1/|o_i|) * sum_t H_t``, shape [R], float64. A rollout without a single token of its own has entropy 0. An
        entropy is never negative: what rounding in single precision puts below 0 (about -1e-5) becomes 0.

    >>> sequence_entropy_nats([[0.5, 1.5, 9.0], [2.0]], [[1, 1, 0], [0]]).tolist()
    [1.0, 0.0]
    """
    means = []
    for entropy_T, mask_T in zip(entropy_R_T, mask_R_T, strict=True):
        kept_T = np.asarray(entropy_T, dtype=np.float64)[np.asarray(mask_T).astype(bool)]
        mean = float(kept_T.mean()) if kept_T.size else 0.0
        means.append(0.0 if mean < 0.0 else mean)  # keeps nan, which callers must refuse
    return np.array(means, dtype=np.float64)


def relative_entropy_weights(entropy_nats_R: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights ``w_i = H_i / mean_j H_j`` over all rollouts of the step: scale-free, mean 1, never negative.

    When every entropy is 0 (a deterministic policy, or an empty batch) every weight is 1. A rollout without tokens
    has entropy 0 and so weight 0; it has no token on which a weight could act.

    >>> relative_entropy_weights(np.array([1.0, 3.0])).tolist()
    [0.5, 1.5]
    >>> relative_entropy_weights(np.zeros(3)).tolist()
    [1.0, 1.0, 1.0]
    """
    mean = entropy_nats_R.mean() if entropy_nats_R.size else 0.0
    if mean == 0.0:
        return np.ones_like(entropy_nats_R, dtype=np.float64)
    return entropy_nats_R / mean
