"""Token entropy of rollouts (arXiv 2511.00794)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from recipe.prepo.maths import FloatArray, IntArray


def sequence_entropy_nats(entropy_R_T: Iterable[ArrayLike], mask_R_T: Iterable[ArrayLike]) -> FloatArray:
    """Mean token entropy ``(1/|o_i|) * sum_t H_t`` of each rollout, shape [R]; 0 for one without tokens.

    Args:
        entropy_R_T: for each rollout, the full-vocabulary Shannon entropy in nats at each response position, [T_i].
        mask_R_T: for each rollout, 1 where the policy generated the token, 0 for tool tokens and padding, [T_i].

    >>> sequence_entropy_nats([[0.5, 1.5, 9.0], [2.0]], [[1, 1, 0], [0]]).tolist()
    [1.0, 0.0]
    """
    means = []
    for entropy_T, mask_T in zip(entropy_R_T, mask_R_T, strict=True):
        kept_T = np.asarray(entropy_T, dtype=np.float64)[np.asarray(mask_T).astype(bool)]
        mean = float(kept_T.mean()) if kept_T.size else 0.0
        means.append(0.0 if mean < 0.0 else mean)  # keeps nan, which callers must refuse
    return np.array(means, dtype=np.float64)


def token_mean_entropy_nats(entropy_nats_R: FloatArray, num_tokens_R: IntArray) -> float | None:
    """Mean entropy over all tokens of a step, from the mean and the length of each rollout; None without tokens.

    >>> token_mean_entropy_nats(np.array([1.0, 4.0]), np.array([2, 1]))
    2.0
    """
    num_tokens = int(num_tokens_R.sum())
    return float((entropy_nats_R * num_tokens_R).sum() / num_tokens) if num_tokens else None
