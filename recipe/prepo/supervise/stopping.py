"""How a run ends before its end: because it was asked to, or because something died. Independent of any method.

Stands in front of the other mixins. ``fit()`` stays verl's: only the moment of the checkpoint is moved, from the middle
of the step to the end of it, after the step's metrics were written. So whatever a checkpoint holds has its lines in
``metrics.jsonl`` and in the audit files, and a kill between two of verl's writes loses or doubles no step.
"""

from __future__ import annotations

import errno
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError
from transfer_queue import KVBatchMeta, interface
from verl.workers.rollout.replica import RolloutMode

from recipe.prepo.config import PrepoConfig
from recipe.prepo.errors import FaultError, StateError
from recipe.prepo.run.checkpoint import is_complete, latest_checkpoint
from recipe.prepo.supervise import messages
from recipe.prepo.supervise.failures import FailureCount, Failures, reason
from recipe.prepo.supervise.reward_timeout import LIMIT_ENV, count_timeouts, renew_threads
from recipe.prepo.supervise.watch import Member, Watch

if TYPE_CHECKING:
    from verl.trainer.ppo.v1 import PPOTrainer as _Trainer
else:
    _Trainer = object


STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
ASK_INTERVAL_S = 5.0
WAITING = f"{LIMIT_ENV} is how long one reward is waited for"


class StoppingMixin(_Trainer):
    """Stops after a step when the driver says so, and with a message when a process of the run died."""

    _in_step = False
    _checkpoint_is_due = False
    _saving_s = 0.0
    _count_failures = FailureCount(())
    _failed_before = Failures()
    _ask_again_at = 0.0
    prepo: PrepoConfig

    def fit(self, agent_loop_manager: Any) -> None:
        if messages.hear(messages.STOP):
            self._shutdown_dump_executor()
            messages.say(messages.STOPPED, str(self.global_steps))
            return
        self._count_failures = FailureCount(agent_loop_manager.agent_loop_workers)
        self._watch = Watch(self._members(agent_loop_manager), self._how_to_go_on)
        with self._watch:
            try:
                super().fit(agent_loop_manager)
                self.logger.finish()  # now: Ray ends this process without the interpreter's own clean-up
            except (FaultError, RayActorError):
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
                    raise self._fault(f"step {self.global_steps} failed: {reason(error)}") from error
                failed = self._count_failures().since(self._failed_before)
                if failed:  # which may well be why
                    raise self._failed(failed, f"then: {reason(error)}") from error
                raise

    def on_step_begin(self) -> None:
        self._in_step = True
        if self._saving_s:
            self.timing_raw["save_checkpoint"] = self._saving_s  # of the step before, whose metrics stood already
            self._saving_s = 0.0
        super().on_step_begin()

    def _save_checkpoint(self) -> None:
        """Called by verl before the step's metrics are known: only noted here."""
        self._checkpoint_is_due = True

    @property
    def logger(self) -> Any:
        """verl's tracker, which ``fit`` sets and calls once at the end of a step."""
        return self._logging

    @logger.setter
    def logger(self, tracking: Any) -> None:
        below = super(StoppingMixin, type(self))  # which writes metrics.jsonl
        below.logger.fset(self, tracking)  # type: ignore[attr-defined]
        self._logging = EndOfStep(super().logger, self._end_step)

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Count the rewards that timed out; stop when they are most of a step, which would teach nonsense."""
        num_rollouts = sum(not tag.get("is_padding", False) for tag in batch.tags)
        found = self._count_failures()
        failed = found.since(self._failed_before)
        if failed.training > num_rollouts:
            raise self._failed(failed, f"{num_rollouts} are left")
        if failed:
            messages.say(messages.FAILED, str(found))  # for the driver, which tells at the end
        self._failed_before = found
        metrics["prepo/failed_rollouts/sum"] = failed.training
        metrics["prepo/failed_validation_rollouts/sum"] = failed.validation
        metrics["prepo/reward_timeouts/sum"] = num_timeouts = count_timeouts(batch)
        if num_timeouts:
            renew_threads(self.reward_loop_manager.reward_loop_workers)
        if num_timeouts > num_rollouts / 2:
            raise self._fault(
                f"step {self.global_steps}: {num_timeouts} of {num_rollouts} rewards timed out, so they say nothing "
                f"about the answers. Does the reward function hang (reward.custom_reward_function)? {WAITING}"
            )
        return super()._compute_advantage(batch, metrics)

    def on_poll(self) -> None:
        """End a wait for rollouts that all fail: verl would roll out others for ever in the asynchronous modes."""
        super().on_poll()  # type: ignore[misc]
        if time.monotonic() < self._ask_again_at:
            return
        failed = self._count_failures().since(self._failed_before)
        self._ask_again_at = time.monotonic() + ASK_INTERVAL_S
        if failed.training > self.prepo.num_selected * self.prepo.rollouts_per_prompt:
            raise self._failed(failed, "and it waits for others")

    def _failed(self, failed: Failures, then: str) -> FaultError:
        self._watch.require_alive()  # a death makes rollouts fail, too, and has a message of its own
        return self._fault(
            f"step {self.global_steps}: {failed}; {then}. What raises most often is the reward function "
            f"(reward.custom_reward_function)"
        )

    def _end_step(self) -> None:
        if not self._in_step:
            return  # the validation before the first step
        self._in_step = False
        stops = self.global_steps < self.total_training_steps and bool(messages.hear(messages.STOP))
        if self._checkpoint_is_due or stops:
            self._checkpoint_is_due = False
            self._watch.require_alive()  # a step that lost a part of its rollouts to a death must not be kept
            begin = time.perf_counter()
            self._write_checkpoint()
            self._saving_s = time.perf_counter() - begin
        if stops:
            messages.say(messages.STOPPED, str(self.global_steps))
            self.total_training_steps: int = self.global_steps  # ends verl's loop

    def _write_checkpoint(self) -> None:
        try:
            super()._save_checkpoint()
        except RayActorError:
            raise
        except Exception as error:
            run_dir = self._files_dir
            folder = run_dir / f"global_step_{self.global_steps}"
            free = shutil.disk_usage(run_dir).free / 2**20
            if not is_complete(folder):
                shutil.rmtree(folder, ignore_errors=True)
            raise self._fault(
                f"the checkpoint of step {self.global_steps} could not be written to {folder} ({reason(error)}; "
                f"{free:.0f} MiB are free there). Free some space, or keep fewer checkpoints "
                f"(trainer.max_actor_ckpt_to_keep)"
            ) from error

    def _fault(self, what: str) -> FaultError:
        text = f"{what}. {self._how_to_go_on()}"
        messages.say(messages.FAULT, text)  # closing the logs on a full disk may put another error in this one's place
        return FaultError(text)

    def _how_to_go_on(self) -> str:
        try:
            step = latest_checkpoint(self._files_dir)
        except StateError as error:
            return str(error)
        if not step:
            return "There is no checkpoint yet (trainer.save_freq): the same command starts over."
        how = "the same command" if self.config.trainer.resume_mode == "auto" else "trainer.resume_mode=auto"
        return f"The checkpoint of step {step} is whole: {how} goes on from there."

    @property
    def _files_dir(self) -> Path:
        return Path(self.config.trainer.default_local_dir).absolute()

    def _members(self, agent_loop_manager: Any) -> list[Member]:
        """Every process that a step needs."""
        members = []
        groups = {"actor worker": self.actor_rollout_wg}
        if self.use_critic:
            groups["critic worker"] = self.critic_wg
        if self.use_reference_policy and self.ref_policy_wg.workers != self.actor_rollout_wg.workers:
            groups["reference worker"] = self.ref_policy_wg
        for name, group in groups.items():
            members += [Member(f"{name} {rank}", handle) for rank, handle in enumerate(group.workers)]
        for manager in self._rollout_server_managers():
            for replica in manager.get_replicas():
                for node, server in enumerate(replica.servers):
                    of_node = f", its node {node}" if len(replica.servers) > 1 else ""
                    members.append(Member(f"rollout server of vLLM replica {replica.replica_rank}{of_node}", server))
                if replica.rollout_mode == RolloutMode.STANDALONE:  # of others they are the actor's workers
                    members += [
                        Member(f"worker {rank} of vLLM replica {replica.replica_rank}, which takes its weights", worker)
                        for rank, worker in enumerate(replica.workers)
                    ]
            if getattr(manager, "global_load_balancer", None) is not None:  # without replicas there is none
                members.append(Member("balancer of the rollout servers", manager.global_load_balancer))
        members += [
            Member(f"agent-loop worker {i}", worker) for i, worker in enumerate(agent_loop_manager.agent_loop_workers)
        ]
        members += [
            Member(f"reward worker {i}", worker)
            for i, worker in enumerate(self.reward_loop_manager.reward_loop_workers)
        ]
        queue = ray.get_actor(messages.QUEUE, namespace=messages.QUEUE_NAMESPACE)
        members.append(Member("TransferQueue's controller", queue))
        storage = (interface._TQ_STORAGE or {}).get("SimpleStorage", {})
        return members + [Member(f"TransferQueue's storage unit {i}", unit) for i, unit in enumerate(storage.values())]


class EndOfStep:
    """Passes everything on to a tracker, and tells when it has logged."""

    def __init__(self, tracking: Any, logged: Any) -> None:
        self._tracking = tracking
        self._logged = logged

    def log(self, data: Any, step: int) -> None:
        self._tracking.log(data=data, step=step)
        self._logged()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracking, name)
