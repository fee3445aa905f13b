"""The trainer modes and the agent-loop workers, composed of hooks and supervision. Importing it registers the modes."""

from __future__ import annotations

from typing import Any

import ray
from verl.trainer.ppo.v1 import PPOTrainerColocateAsync, PPOTrainerSeparateAsync, PPOTrainerSync, register_trainer
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from recipe.prepo.supervise.hung_rewards import SupervisedRollouts
from recipe.prepo.supervise.supervisor import Supervisor
from recipe.prepo.trainer.async_hooks import AsyncHooks
from recipe.prepo.trainer.hooks import PrepoHooks
from recipe.prepo.trainer.rollout import OwnSampling

# verl exports the Ray actor class; only the plain class that it wraps can be subclassed.
PlainWorker: Any = vars(AgentLoopWorkerTQ)["__ray_metadata__"].modified_class


@register_trainer("prepo_sync")
class PrepoTrainerSync(PrepoHooks, PPOTrainerSync):
    """Rollout and training take turns on the same devices: choose, roll out, weigh, update."""

    verl_mode = "sync"
    supervisor_class = Supervisor


@register_trainer("prepo_colocate_async")
class PrepoTrainerColocateAsync(AsyncHooks, PPOTrainerColocateAsync):
    """Rollout and training take turns on the same devices; a long rollout is interrupted and continued later."""

    verl_mode = "colocate_async"
    supervisor_class = Supervisor

    def on_sample_end(self) -> None:
        self.wait_for_dispatch()  # the servers sleep from here until new weights arrive
        super().on_sample_end()


@register_trainer("prepo_separate_async")
class PrepoTrainerSeparateAsync(AsyncHooks, PPOTrainerSeparateAsync):
    """Rollout and training run at the same time, each on its own devices."""

    verl_mode = "separate_async"
    supervisor_class = Supervisor

    def scoring_client(self) -> Any:
        return self.standalone_server_manager.get_client()


class PrepoWorker(SupervisedRollouts, OwnSampling, PlainWorker):
    """verl's agent-loop worker with this recipe's sampling and supervision."""


class PrepoAgentLoopManager(AgentLoopManagerTQ):
    """verl's manager with this recipe's workers (``rollout.agent.agent_loop_manager_class``)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(PrepoWorker)
