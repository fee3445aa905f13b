"""verl 0.9.1's replay buffer with an account of what is thrown away, and with refill rounds for skipping rules."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from omegaconf import DictConfig
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from recipe.prepo.errors import DataError
from recipe.prepo.trainer import columns
from recipe.prepo.types import Refill, RolloutBatch

NextRound = Callable[..., Refill | None]


class AccountingReplayBuffer(ReplayBuffer):
    """Remembers groups that verl throws away, and hands out groups in the order in which they were submitted.

    Groups may be ragged: of the groups that are ready it takes those that fit into ``max_rollouts`` together, so that a
    step never trains on more than its mini-batches hold.

    Args:
        max_rollouts: most rollouts in one batch (K * M).
        on_poll: called while it waits for rollouts; raises what must end the wait.
        kwargs: of verl's ``ReplayBuffer``.
    """

    def __init__(self, *, max_rollouts: int, on_poll: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._max_rollouts = max_rollouts
        self._on_poll = on_poll
        self._listing_s = 0.0
        self._discarded: list[RolloutBatch] = []
        self._submitted: dict[str, int] = {}
        self._num_submitted = 0

    def note_submitted(self, uids: Iterable[str]) -> None:
        """Remember the order of the groups that are being rolled out."""
        for uid in uids:
            self._submitted[uid] = self._num_submitted
            self._num_submitted += 1

    def take_discarded(self) -> tuple[RolloutBatch, ...]:
        """The groups that were thrown away since the last call."""
        taken, self._discarded = tuple(self._discarded), []
        return taken

    def _sync_metadata_from_transfer_queue(self) -> None:
        begin = time.perf_counter()
        super()._sync_metadata_from_transfer_queue()
        self._listing_s = time.perf_counter() - begin

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        self._on_poll()
        # Listing takes time in proportion to the rollouts: a tenth of the trainer's process at most.
        time.sleep(max(0.0, 9 * self._listing_s - self.poll_interval))
        waited: float = super()._wait_for_next_poll(partition_id, last_debug_time)
        return waited

    def _clear_groups(self, partition_id: str, uids: set[str]) -> None:
        if partition_id == columns.TRAIN_PARTITION:
            partition = self.partitions[partition_id]
            tags = {key: tag for key, tag in partition.items() if columns.uid_of(key) in uids}
            if tags:
                self._discarded.append(columns.read_outcomes(partition_id, tags))
            for uid in uids:
                self._submitted.pop(uid, None)
        super()._clear_groups(partition_id, uids)

    def _select_prompt_uids(
        self, partition_id: str, sampleable_keys: set[str], batch_size: int
    ) -> tuple[list[str], dict[str, dict], dict[str, int]]:
        if partition_id != columns.TRAIN_PARTITION:
            selected: tuple[list[str], dict[str, dict], dict[str, int]] = super()._select_prompt_uids(
                partition_id, sampleable_keys, batch_size
            )
            return selected
        steps = dict(self.prompt_global_steps[partition_id])
        partition = dict(self.partitions[partition_id])
        size: dict[str, int] = dict.fromkeys(sampleable_keys, 0)
        for key in partition:
            uid = columns.uid_of(key)
            if uid in size:
                size[uid] += 1
        room = self._max_rollouts
        chosen: list[str] = []
        for uid in sorted(sampleable_keys, key=lambda uid: (steps.get(uid, 0), self._submitted.get(uid, -1), uid)):
            if len(chosen) < batch_size and size[uid] <= room:
                chosen.append(uid)
                room -= size[uid]
        for uid in chosen:
            self._submitted.pop(uid, None)
        return chosen, partition, steps


class AccountingReplayBufferAsync(AccountingReplayBuffer, ReplayBufferAsync):
    """The same over verl's buffer for the asynchronous modes, which refills each group that it throws away."""


class RoundsReplayBuffer(AccountingReplayBuffer):
    """Rolls out in rounds: waits for a whole round, drops groups without reward variance, and asks for the next round.

    Args:
        next_round: sizes the next round from ``(num_missing, zero_variance_frac=…, refills=…)``; None ends the step
            with what there is.
        kwargs: of :class:`AccountingReplayBuffer`.
    """

    def __init__(self, *, next_round: NextRound, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._next_round = next_round

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        """A step's batch of ``batch_size`` groups with reward variance (fewer when no further round is wanted).

        Raises:
            DataError: not one group had reward variance when the last round was over.
        """
        if partition_id != columns.TRAIN_PARTITION:
            batch_and_metrics: tuple[KVBatchMeta, dict] = super().sample(global_steps, partition_id, batch_size)
            return batch_and_metrics
        refills: tuple[Refill, ...] = ()
        metrics = {"training/filter_groups/evicted_samples": 0, "training/filter_groups/discarded_surplus_samples": 0}
        num_before = 0
        while True:
            self._wait_for_round(partition_id)
            reasons = self._terminal_eviction_reasons(global_steps, partition_id)
            num_rolled_out = len(self._terminal(partition_id)) - num_before
            evicted, *_ = self._evict_terminal_groups(global_steps, partition_id, reasons)
            metrics["training/filter_groups/evicted_samples"] += len(evicted)
            num_before = len(self._terminal(partition_id))
            ready = self._with_rollouts(partition_id, self._terminal(partition_id))
            if len(ready) >= batch_size:
                break
            refill = self._next_round(
                batch_size - len(ready),
                zero_variance_frac=min(1.0, len(evicted) / max(num_rolled_out, 1)),
                refills=refills,
            )
            if refill is None:
                break
            refills += (refill,)
            self.refill_fn(refill.num_prompts)
        if not ready:
            raise DataError(
                f"step {global_steps}: in {len(refills) + 1} rounds of rollouts not one group had rewards that differ, "
                f"so there is nothing to learn from. Look at the rewards (audit/selection.jsonl has the prompts), "
                f"take easier or harder prompts (data.train_files), or choose without dropping groups "
                f"(prepo/selection=uniform)."
            )
        chosen, partition, _ = self._select_prompt_uids(partition_id, ready, batch_size)
        surplus = self._terminal(partition_id) - set(chosen)
        metrics["training/filter_groups/discarded_surplus_samples"] = len(surplus)
        self._clear_groups(partition_id, surplus)
        return self._materialize_batch(partition_id, chosen, partition), metrics

    def _wait_for_round(self, partition_id: str) -> None:
        last_debug_time = time.time()
        self._sync_metadata_from_transfer_queue()
        while self.pending_keys[partition_id] or self.running_keys[partition_id]:
            last_debug_time = self._wait_for_next_poll(partition_id, last_debug_time)
            self._sync_metadata_from_transfer_queue()

    def _terminal(self, partition_id: str) -> set[str]:
        return set(self.finished_keys[partition_id] | self.failure_keys[partition_id])

    def _with_rollouts(self, partition_id: str, uids: set[str]) -> set[str]:
        """Without the groups whose every rollout failed."""
        return uids & {columns.uid_of(key) for key in self.partitions[partition_id]}


def build_replay_buffer(
    config: DictConfig,
    *,
    trainer_mode: str,
    filter_groups_metric: str | None,
    refill_fn: Callable[[int], Any],
    max_rollouts: int,
    poll_interval_s: float,
    next_round: NextRound | None,
    on_poll: Callable[[], None],
) -> AccountingReplayBuffer:
    """The buffer with the options that verl 0.9.1 gives its own one.

    Args:
        next_round: sizes the rounds of a rule that skips prompts; used in sync mode only.
    """
    sampler, data = config.trainer.v1.sampler, config.data
    filter_groups = config.algorithm.get("filter_groups") or {}
    options = {
        "max_rollouts": max_rollouts,
        "on_poll": on_poll,
        "trainer_mode": trainer_mode,
        "trainer_config": config.trainer.v1.get(trainer_mode, {}),
        "max_off_policy_threshold": sampler.max_off_policy_threshold,
        "max_off_policy_strategy": sampler.max_off_policy_strategy,
        "sampler_kwargs": sampler.sampler_kwargs,
        "poll_interval": poll_interval_s,
        "refill_fn": refill_fn,
        "filter_groups_metric": filter_groups_metric,
        "train_batch_size": data.train_batch_size,
        "gen_batch_size": data.gen_batch_size,
        "max_inflight_gen_batches": filter_groups.get("max_inflight_gen_batches", 1),
        "sync_refill_failed_groups": bool(sampler.get("sync_refill_failed_groups", False)),
    }
    if trainer_mode != "sync":
        return AccountingReplayBufferAsync(**options)
    if next_round is not None:
        return RoundsReplayBuffer(next_round=next_round, **options)
    return AccountingReplayBuffer(**options)
