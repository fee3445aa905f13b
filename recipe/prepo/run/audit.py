"""Audit lines: every choice and the weight of every rollout, so that an outside script can check them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from recipe.prepo.types import Decision, FloatArray, IntArray, RolloutBatch


def selection_line(decision: Decision) -> dict[str, Any]:
    """The line of ``audit/selection.jsonl`` for one choice of prompts.

    Scalars of the rule's details become fields of the line, arrays become fields of the candidates. A line with a part
    of the candidates counts all that were skipped, by reason (``num_skipped``).
    """
    candidates, selection, recorded_C = decision.candidates, decision.selection, decision.recorded_C
    scalars: dict[str, Any] = dict(selection.details)
    columns: dict[str, Any] = {"nll_nats": candidates.nll_nats_C, "num_tokens": candidates.num_tokens_C}
    columns["ppl"] = candidates.ppl_C
    columns |= {name: scalars.pop(name) for name in selection.details if isinstance(scalars[name], np.ndarray)}
    if candidates.score_age_steps_C is not None:
        ages = candidates.score_age_steps_C.tolist()
        columns["score_age_steps"] = np.array([age if age >= 0 else None for age in ages], dtype=object)
    places_C = np.arange(len(candidates)) if recorded_C is None else recorded_C
    columns_C = {"prompt_id": [candidates.prompt_ids[i] for i in places_C.tolist()]}
    columns_C |= {name: _values(array, places_C) for name, array in columns.items()}
    reasons = selection.skip_reasons
    if recorded_C is not None:
        scalars["num_skipped"] = dict(Counter(reasons.values()))
        reasons = {i: reasons[i] for i in recorded_C.tolist() if i in reasons}
    selected = [candidates.prompt_ids[i] for i in selection.indices_P.tolist()]
    rollout_n = Counter[str]()  # a refill that passes the end of the data may hold a prompt twice
    for prompt_id, n in zip(selected, decision.rollout_n_P.tolist(), strict=True):
        rollout_n[prompt_id] += n
    return {
        "step": decision.step,
        "call": decision.call,
        "rule": decision.rule,
        "progress": decision.progress,
        "num_selected": len(selected),
        "window_start": scalars.pop("window_start", None),
        "candidates": [dict(zip(columns_C, values, strict=True)) for values in zip(*columns_C.values(), strict=True)],
        "selected": selected,
        "skipped": [{"prompt_id": candidates.prompt_ids[i], "reason": reason} for i, reason in reasons.items()],
        "rollout_n": dict(rollout_n),
        "temperature": decision.temperature,
        "policy_version": decision.step - 1,  # weights are pushed to the rollout servers at the end of each step
        **scalars,
    }


def _values(array: FloatArray | IntArray | None, places_C: IntArray) -> list[Any]:
    """The recorded values; None where there is none."""
    values = [None] * len(places_C) if array is None else array[places_C].tolist()
    return [None if value != value else value for value in values]


def rollout_lines(
    rollouts: RolloutBatch,
    *,
    step: int,
    rollout_R: IntArray,
    weight_R: FloatArray,
    advantage_R: FloatArray,
    advantage_weighted_R: FloatArray,
    base_temperature: float,
    temperature_R: FloatArray | None = None,
    shaped_R: FloatArray | None = None,
    policy_versions_R: list[tuple[int, int]] | None = None,
    update: int | None = None,
) -> list[dict[str, Any]]:
    """The lines of ``audit/rollouts.jsonl`` for one step.

    Args:
        advantage_R: group advantages before weighting.
        temperature_R: temperature of each rollout; None if all have ``base_temperature``.
        shaped_R: rewards that the advantages were computed from, if they differ from the raw ones.
        policy_versions_R: first and last version of the weights that generated each rollout.
        update: index of the update that trains on them, if the step has several: weights have mean 1 in each.
    """
    return [
        {
            "step": step,
            "prompt_id": prompt_id,
            "rollout": int(rollout_R[i]),
            "reward": float(rollouts.reward_R[i]),
            "num_tokens": int(rollouts.num_tokens_R[i]),
            "entropy_nats": None if rollouts.entropy_nats_R is None else float(rollouts.entropy_nats_R[i]),
            "weight": float(weight_R[i]),
            "advantage": float(advantage_R[i]),
            "advantage_weighted": float(advantage_weighted_R[i]),
            "temperature": base_temperature if temperature_R is None else float(temperature_R[i]),
            **({} if shaped_R is None else {"reward_shaped": float(shaped_R[i])}),
            **({} if policy_versions_R is None else {"policy_versions": list(policy_versions_R[i])}),
            **({} if update is None else {"update": update}),
        }
        for i, prompt_id in enumerate(rollouts.prompt_ids)
    ]
