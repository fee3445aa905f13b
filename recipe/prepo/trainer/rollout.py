"""The agent-loop worker, which gives each training rollout its own temperature and sampling seed (verl 0.9.1)."""

from __future__ import annotations

from typing import Any

from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ

from recipe.prepo.maths.rng import rollout_seed
from recipe.prepo.trainer import columns

# verl exports the Ray actor class; only the plain class that it wraps can be subclassed.
PlainWorker: Any = vars(AgentLoopWorkerTQ)["__ray_metadata__"].modified_class


class RolloutWorker(PlainWorker):
    """Samples training rollouts at their prompt's temperature, and with a seed where ``prepo.seed_rollouts`` is on."""

    async def _run_agent_loop(self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any) -> Any:
        if not trajectory["validate"]:
            sampling_params = sampling_params | self._own_params(kwargs)
        return await super()._run_agent_loop(sampling_params, trajectory, **kwargs)

    def _own_params(self, rollout: dict[str, Any]) -> dict[str, Any]:
        """Sampling parameters of one rollout, from its prompt's columns."""
        params: dict[str, Any] = {}
        if columns.TEMPERATURE in rollout:
            params["temperature"] = float(rollout[columns.TEMPERATURE])
        prepo = self.config.prepo
        if prepo.seed_rollouts:
            params["seed"] = rollout_seed(
                prepo.seed,
                int(rollout["global_steps"]),
                rollout["extra_info"]["prompt_id"],
                int(rollout["session_id"]),
                call=int(rollout.get(columns.CALL, 0)),
            )
        return params
