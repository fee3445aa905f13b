"""Advantages and the policy update, as verl 0.9.1 computes them for the recipe's objective."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from benchmarks.mini_math.policy import Responses, TokenIds, response_log_probs
from recipe.prepo.types import FloatArray, IntArray

EPSILON = 1e-6
MICRO_BATCH = 32
"""Rollouts in one backward pass; gradients of a mini-batch add up."""


def group_advantages(reward_R: FloatArray, group_R: IntArray) -> FloatArray:
    """``(reward - mean) / (std + 1e-6)`` within each group, shape [R]; a group of one keeps its reward.

    The standard deviation has one degree of freedom less than rollouts, as in verl's ``grpo`` estimator.

    >>> group_advantages(np.array([1.0, 0.0, 1.0]), np.array([0, 0, 1])).round(3).tolist()
    [0.707, -0.707, 1.0]
    """
    advantage_R = reward_R.astype(np.float64)
    for group in np.unique(group_R):
        rows = np.flatnonzero(group_R == group)
        if len(rows) > 1:
            advantage_R[rows] = (reward_R[rows] - reward_R[rows].mean()) / (reward_R[rows].std(ddof=1) + EPSILON)
    return advantage_R


def policy_loss(
    log_probs_RT: torch.Tensor,
    old_log_probs_RT: torch.Tensor,
    advantage_R: torch.Tensor,
    mask_RT: torch.Tensor,
    *,
    clip_ratio: float,
    clip_ratio_c: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """PPO's clipped loss of each token, with verl's second clip where the advantage is negative.

    Returns:
        Losses, shape [R, T], 0 behind a response's end; and whether the first clip acted, same shape.
    """
    ratio = (log_probs_RT - old_log_probs_RT).clamp(-20.0, 20.0).exp()
    advantage = advantage_R[:, None]
    plain = -advantage * ratio
    clipped = -advantage * ratio.clamp(1.0 - clip_ratio, 1.0 + clip_ratio)
    loss = torch.maximum(plain, clipped)
    loss = torch.where(advantage < 0, torch.minimum(loss, -advantage * clip_ratio_c), loss)
    return loss * mask_RT, (clipped > plain) & mask_RT


def update_policy(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    prompts_R: Sequence[TokenIds],
    responses: Responses,
    advantage_R: FloatArray,
    temperature_R: FloatArray,
    mini_batches: Sequence[IntArray],
    *,
    clip_ratio: float,
    clip_ratio_c: float,
    max_grad_norm: float,
    loss_scale_tokens: int,
) -> dict[str, float]:
    """One optimiser step for each mini-batch: token sums over ``loss_scale_tokens``, mean over its rollouts.

    Rollouts without an advantage count in that mean and are not computed: their gradient is zero.

    Args:
        advantage_R: weighted advantages.
        prompts_R: the prompt of each rollout, those of a group one after the other.
        mini_batches: rollouts of each mini-batch.

    Returns:
        grad_norm and clip_frac (share of the tokens that were computed), means over the mini-batches.
    """
    grad_norms, clip_fracs = [], []
    for part in mini_batches:
        optimizer.zero_grad(set_to_none=False)
        num_clipped = num_tokens = 0
        for rows in _micro_batches(part[advantage_R[part] != 0.0]):
            width = int(responses.num_tokens_R[rows].max())
            mask = responses.mask_RT[rows, :width]
            log_probs = response_log_probs(
                model,
                [prompts_R[i] for i in rows],
                responses.tokens_RT[rows, :width],
                mask,
                torch.as_tensor(temperature_R[rows], dtype=torch.float32),
            )
            loss, is_clipped = policy_loss(
                log_probs,
                responses.log_probs_RT[rows, :width],
                torch.as_tensor(advantage_R[rows], dtype=torch.float32),
                mask,
                clip_ratio=clip_ratio,
                clip_ratio_c=clip_ratio_c,
            )
            (loss.sum() / loss_scale_tokens / len(part)).backward()
            num_clipped += int(is_clipped.sum())
            num_tokens += int(mask.sum())
        grad_norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)))
        optimizer.step()
        clip_fracs.append(num_clipped / max(num_tokens, 1))
    return {"grad_norm": float(np.mean(grad_norms)), "clip_frac": float(np.mean(clip_fracs))}


def _micro_batches(rows: IntArray) -> list[IntArray]:
    """Rollouts of a prompt together, so that it is computed once."""
    ordered = np.sort(rows)
    return [ordered[first : first + MICRO_BATCH] for first in range(0, len(ordered), MICRO_BATCH)]
