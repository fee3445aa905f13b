"""Metrics of a step that every run has. A rule's own metrics come from the rule.

verl reduces a metric over a step's parts by the end of its name: /mean, /min, /max or /sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recipe.prepo.maths.entropy import token_mean_entropy_nats
from recipe.prepo.maths.groups import group_statistics
from recipe.prepo.types import Decision, FloatArray, RolloutBatch, concatenate_rollouts


def selection_metrics(decisions: Sequence[Decision]) -> dict[str, float]:
    """Metrics of a step's choices; none for a step without any."""
    if not decisions:  # asynchronous modes may train on prompts that were chosen steps ago
        return {}
    metrics = {
        "prepo/progress/mean": float(np.mean([d.progress for d in decisions])),
        "prepo/candidates/sum": float(sum(len(d.candidates) for d in decisions)),
        "prepo/selected/sum": float(sum(len(d.selection.indices_P) for d in decisions)),
        "prepo/temperature/mean": float(np.mean([d.temperature for d in decisions])),
    }
    metrics["prepo/skipped_frac/mean"] = 1.0 - metrics["prepo/selected/sum"] / metrics["prepo/candidates/sum"]
    scored = [(d.candidates.ppl_C, d.selection.indices_P) for d in decisions if d.candidates.ppl_C is not None]
    if scored:
        metrics |= _summary("prepo/ppl_candidates", np.concatenate([ppl_C for ppl_C, _ in scored]))
        metrics |= _summary("prepo/ppl_selected", np.concatenate([ppl_C[indices_P] for ppl_C, indices_P in scored]))
    ages = [d.candidates.score_age_steps_C for d in decisions if d.candidates.score_age_steps_C is not None]
    if ages:
        age_C = np.concatenate(ages)
        metrics |= _summary("prepo/score_age_steps", age_C[age_C >= 0].astype(np.float64))
    return metrics


def rollout_metrics(
    rollouts: RolloutBatch, weight_R: FloatArray, shaped_R: FloatArray | None, discarded: Sequence[RolloutBatch]
) -> dict[str, float]:
    """Metrics of a step's rollouts. Shares are over all groups that were rolled out, discarded ones included."""
    rolled_out = concatenate_rollouts([rollouts, *discarded])
    reward_R = rolled_out.reward_R.copy()
    groups = group_statistics(reward_R, rolled_out.group_R, rolled_out.correct_R)
    reward_R[: len(rollouts)] = rollouts.reward_R if shaped_R is None else shaped_R
    for_advantages = group_statistics(reward_R, rolled_out.group_R, rolled_out.correct_R)
    metrics = _summary("prepo/weight", weight_R)
    metrics["prepo/zero_advantage_frac/mean"] = _share(for_advantages.is_flat_G)
    metrics["prepo/all_correct_frac/mean"] = _share(groups.num_correct_G == groups.size_G)
    metrics["prepo/all_wrong_frac/mean"] = _share(groups.num_correct_G == 0)
    metrics["prepo/discarded_rollouts/sum"] = float(sum(len(batch) for batch in discarded))
    entropy_nats_R = rollouts.entropy_nats_R
    if entropy_nats_R is not None and len(rollouts):
        metrics["prepo/entropy_nats/mean"] = float(entropy_nats_R.mean())
        if (token_entropy_nats := token_mean_entropy_nats(entropy_nats_R, rollouts.num_tokens_R)) is not None:
            metrics["prepo/token_entropy_nats/mean"] = token_entropy_nats
    return metrics


def _share(is_true_G: NDArray[np.bool_]) -> float:
    return float(is_true_G.mean()) if is_true_G.size else 0.0


def _summary(name: str, values: FloatArray) -> dict[str, float]:
    """Mean, minimum and maximum of what is known; nothing where every rollout of the step failed."""
    values = values[~np.isnan(values)]
    return {f"{name}/{end}": float(getattr(values, end)()) for end in ("mean", "min", "max")} if values.size else {}
