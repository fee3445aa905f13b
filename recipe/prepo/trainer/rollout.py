"""Agent-loop worker and manager that give each training rollout its own temperature and its own sampling seed."""

from __future__ import annotations

from typing import Any

import ray
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from recipe.prepo.maths.rng import rollout_seed
from recipe.prepo.supervise.failures import Failures
from recipe.prepo.supervise.reward_timeout import RewardLimit
from recipe.prepo.trainer import columns

# verl 0.9.1 exports the Ray actor class; the plain class that it wraps is what can be subclassed.
_PlainWorker: Any = vars(AgentLoopWorkerTQ)["__ray_metadata__"].modified_class


class PrepoAgentLoopWorker(_PlainWorker):
    """Samples training rollouts at their prompt's temperature, and with a seed when ``prepo.seed_rollouts`` is on.

    Waits for a reward no longer than :mod:`recipe.prepo.supervise.reward_timeout` says, and counts rollouts that fail.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reward_limit = RewardLimit()
        self.failures = Failures()

    async def _compute_score(self, outputs: list[Any], kwargs: dict[str, Any]) -> None:
        await self._reward_limit.score(super()._compute_score(outputs, kwargs), outputs[-1])

    async def _run_agent_loop(self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any) -> Any:
        prepo = self.config.prepo
        if not trajectory["validate"] and columns.TEMPERATURE in kwargs:
            sampling_params = {**sampling_params, "temperature": float(kwargs[columns.TEMPERATURE])}
        if prepo.seed_rollouts and not trajectory["validate"]:
            seed = rollout_seed(
                prepo.seed,
                int(kwargs["global_steps"]),
                kwargs["extra_info"]["prompt_id"],
                int(kwargs["session_id"]),
                call=int(kwargs.get(columns.CALL, 0)),
            )
            sampling_params = {**sampling_params, "seed": seed}
        try:
            return await super()._run_agent_loop(sampling_params, trajectory, **kwargs)
        except Exception as error:
            self.failures.note(error, validate=bool(trajectory["validate"]))
            raise


class PrepoAgentLoopManager(AgentLoopManagerTQ):
    """verl's manager with this recipe's workers (``rollout.agent.agent_loop_manager_class``)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(PrepoAgentLoopWorker)
