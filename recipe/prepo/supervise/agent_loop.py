"""The agent-loop worker with supervision: a timeout for rewards, and a count of failed rollouts."""

from __future__ import annotations

from typing import Any

from recipe.prepo.supervise.failures import Failures
from recipe.prepo.supervise.reward_timeout import RewardTimeout
from recipe.prepo.trainer.rollout import RolloutWorker


class SupervisedWorker(RolloutWorker):
    """Scores 0 where a reward takes longer than ``prepo.reward_wait_limit_s``, and counts rollouts that fail."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reward_timeout = RewardTimeout(float(self.config.prepo.reward_wait_limit_s))
        self.failures = Failures()

    async def _compute_score(self, outputs: list[Any], kwargs: dict[str, Any]) -> None:
        await self._reward_timeout.score(super()._compute_score(outputs, kwargs), outputs[-1])

    async def _run_agent_loop(self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any) -> Any:
        try:
            return await super()._run_agent_loop(sampling_params, trajectory, **kwargs)
        except Exception as error:
            self.failures.note(error, validate=bool(trajectory["validate"]))
            raise
