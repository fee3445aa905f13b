"""Gives each training rollout its own temperature and sampling seed (verl 0.9.1)."""

from __future__ import annotations

from typing import Any

from recipe.prepo.maths.rng import rollout_seed
from recipe.prepo.trainer import columns


class OwnSampling:
    """For verl's agent-loop worker: training rollouts sample at the temperature in their prompt's columns.

    Where ``prepo.seed_rollouts`` is on, each also has a seed of its own.
    """

    config: Any

    async def _run_agent_loop(self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any) -> Any:
        prepo, params = self.config.prepo, dict(sampling_params)
        if not trajectory["validate"] and columns.TEMPERATURE in kwargs:
            params["temperature"] = float(kwargs[columns.TEMPERATURE])
        if not trajectory["validate"] and prepo.seed_rollouts:
            params["seed"] = rollout_seed(
                prepo.seed,
                int(kwargs["global_steps"]),
                kwargs["extra_info"]["prompt_id"],
                int(kwargs["session_id"]),
                call=int(kwargs.get(columns.CALL, 0)),
            )
        return await super()._run_agent_loop(params, trajectory, **kwargs)  # type: ignore[misc]
