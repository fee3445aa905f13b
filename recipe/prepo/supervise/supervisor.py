"""Early termination: a graceful stop, or the failure of a process, a disk or the reward function."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError
from transfer_queue import KVBatchMeta, interface
from verl.workers.rollout.replica import RolloutMode

from recipe.prepo.errors import FaultError, StateError
from recipe.prepo.run.checkpoint import is_complete, latest_checkpoint
from recipe.prepo.supervise import messages
from recipe.prepo.supervise.dead_processes import Process, Watch
from recipe.prepo.supervise.hung_rewards import FailureCount, Failures, count_timeouts, renew_threads
from recipe.prepo.supervise.messages import reason

STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
COUNT_INTERVAL_S = 5.0


class Supervisor:
    """Stops a run when the driver asks for it, and ends it with one clear message when it cannot go on."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._count_failures = FailureCount(())
        self._counted = Failures()  # up to the step before
        self._count_again_at = 0.0

    def stop_requested(self) -> bool:
        return bool(messages.get(messages.STOP))

    def stopped(self) -> None:
        """The run ends after the trainer's current step, as requested."""
        messages.put(messages.STOPPED, str(self.trainer.global_steps))

    def tell(self, text: str) -> None:
        messages.tell(text)

    @contextmanager
    def training(self, agent_loop_manager: Any) -> Iterator[None]:
        """Watch the run's processes, and replace an error by one that says more."""
        self._count_failures = FailureCount(agent_loop_manager.agent_loop_workers)
        self._watch = Watch(processes_of(self.trainer, agent_loop_manager), self._how_to_resume)
        with self._watch:
            try:
                yield
            except (FaultError, RayActorError):
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
                    raise self._fault(f"step {self.trainer.global_steps} failed: {reason(error)}") from error
                if failed := self._count_failures().since(self._counted):  # which may be the cause
                    raise self._failed(failed, f"then: {reason(error)}") from error
                raise

    def polling(self) -> None:
        """End a wait for rollouts that all fail: in the asynchronous modes verl would replace them for ever."""
        if time.monotonic() < self._count_again_at:
            return
        failed = self._count_failures().since(self._counted)
        self._count_again_at = time.monotonic() + COUNT_INTERVAL_S
        prepo = self.trainer.prepo
        if failed.training > prepo.num_selected * prepo.rollouts_per_prompt:
            raise self._failed(failed, "and it waits for others")

    def before_advantages(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> None:
        """Count failed rollouts and rewards that timed out. A step that consists mostly of them ends the run."""
        num_rollouts = sum(not tag.get("is_padding", False) for tag in batch.tags)
        found = self._count_failures()
        failed = found.since(self._counted)
        if failed.training > num_rollouts:
            raise self._failed(failed, f"{num_rollouts} are left")
        if failed:
            if not self._counted:
                self.tell(f"step {self.trainer.global_steps}: {str(failed).rstrip('.')}. Such rollouts are left out.")
            messages.put(messages.FAILED, str(found))
        self._counted = found
        metrics["prepo/failed_rollouts/sum"] = failed.training
        metrics["prepo/failed_validation_rollouts/sum"] = failed.validation
        metrics["prepo/reward_timeouts/sum"] = num_timeouts = count_timeouts(batch)
        if num_timeouts:
            renew_threads(self.trainer.reward_loop_manager.reward_loop_workers)
        if num_timeouts > num_rollouts / 2:
            raise self._fault(
                f"step {self.trainer.global_steps}: {num_timeouts} of {num_rollouts} rewards timed out, so they say "
                f"nothing about the answers. Does the reward function hang (reward.custom_reward_function)? "
                f"prepo.reward_wait_limit_s={self.trainer.prepo.reward_wait_limit_s:g} is the limit for one reward"
            )

    @contextmanager
    def saving(self) -> Iterator[None]:
        self._watch.require_alive()  # a step that lost rollouts to a death must not be kept
        try:
            yield
        except RayActorError:
            raise
        except Exception as error:
            folder = self.trainer.checkpoint_dir
            free = shutil.disk_usage(self.trainer.run_dir).free / 2**20
            if not is_complete(folder):
                shutil.rmtree(folder, ignore_errors=True)
            raise self._fault(
                f"the checkpoint of step {self.trainer.global_steps} could not be written to {folder} "
                f"({reason(error)}; {free:.0f} MiB are free there). Free some space, or keep fewer checkpoints "
                f"(trainer.max_actor_ckpt_to_keep)"
            ) from error

    def _failed(self, failed: Failures, then: str) -> FaultError:
        self._watch.require_alive()  # a death makes rollouts fail too, and has a message of its own
        text = f"step {self.trainer.global_steps}: {failed}"
        if "the reward function" not in failed.latest:  # which needs no further words
            text += f"; {then}. The most frequent cause is the reward function (reward.custom_reward_function)"
        return self._fault(text)

    def _fault(self, what: str) -> FaultError:
        text = f"{what.rstrip('.')}. {self._how_to_resume()}"
        messages.put(messages.FAULT, text)  # on a full disk, closing the logs may raise and replace this error
        return FaultError(text)

    def _how_to_resume(self) -> str:
        try:
            step = latest_checkpoint(self.trainer.run_dir)
        except StateError as error:
            return str(error)
        if not step:
            return "There is no checkpoint yet (trainer.save_freq): the same command starts over."
        auto = self.trainer.config.trainer.resume_mode == "auto"
        how = "the same command" if auto else "trainer.resume_mode=auto"
        return f"The checkpoint of step {step} is complete: {how} resumes from it."


def processes_of(trainer: Any, agent_loop_manager: Any) -> list[Process]:
    """Every process that a step of verl 0.9.1 needs, besides the trainer's own."""
    groups = {"actor worker": trainer.actor_rollout_wg.workers}
    if trainer.use_critic:
        groups["critic worker"] = trainer.critic_wg.workers
    if trainer.use_reference_policy and trainer.ref_policy_wg.workers != trainer.actor_rollout_wg.workers:
        groups["reference worker"] = trainer.ref_policy_wg.workers
    groups["agent-loop worker"] = agent_loop_manager.agent_loop_workers
    groups["reward worker"] = trainer.reward_loop_manager.reward_loop_workers
    groups["storage unit of TransferQueue"] = (interface._TQ_STORAGE or {}).get("SimpleStorage", {}).values()
    found = [Process(f"{name} {i}", handle) for name, handles in groups.items() for i, handle in enumerate(handles)]
    for manager in trainer._rollout_server_managers():
        for replica in manager.get_replicas():
            of_replica = f"of vLLM replica {replica.replica_rank}"
            for node, server in enumerate(replica.servers):
                of_node = f", its node {node}" if len(replica.servers) > 1 else ""
                found.append(Process(f"rollout server {of_replica}{of_node}", server))
            if replica.rollout_mode == RolloutMode.STANDALONE:  # otherwise they are the actor's workers
                for rank, worker in enumerate(replica.workers):
                    found.append(Process(f"worker {rank} {of_replica}, which receives its weights", worker))
        if getattr(manager, "global_load_balancer", None) is not None:  # without replicas there is none
            found.append(Process("load balancer of the rollout servers", manager.global_load_balancer))
    queue = ray.get_actor(messages.QUEUE, namespace=messages.QUEUE_NAMESPACE)
    return [*found, Process("controller of TransferQueue", queue)]
