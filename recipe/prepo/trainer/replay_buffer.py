"""verl 0.9.1's replay buffer, which also reports the groups that it discards, and one that refills in rounds."""

from __future__ import annotations

import inspect
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from recipe.prepo.cpu import is_cpu_platform
from recipe.prepo.errors import DataError
from recipe.prepo.trainer import columns
from recipe.prepo.types import Refill, RolloutBatch

# verl 0.9.1 polls every 2 s, which no step can be shorter than. A poll lists every key, and GPU runs have many more.
CPU_POLL_INTERVAL_S, GPU_POLL_INTERVAL_S = 0.05, 0.25


class PrepoReplayBuffer(ReplayBuffer):
    """Keeps the outcomes of discarded groups, and returns groups in the order of their submission.

    Groups may be ragged. A batch takes those of the ready groups that fit into ``max_rollouts`` (K * M) together, what
    its mini-batches hold. ``on_poll`` is called while the buffer waits for rollouts; an error ends the wait.
    """

    def __init__(self, *, max_rollouts: int, on_poll: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._max_rollouts = max_rollouts
        self._on_poll = on_poll
        self._listing_s = 0.0
        self._discarded: list[RolloutBatch] = []
        self._submitted: dict[str, int] = {}
        self._numbers = itertools.count()

    def note_submitted(self, uids: Iterable[str]) -> None:
        """Remember the order of the groups that are being rolled out."""
        self._submitted.update(zip(uids, self._numbers, strict=False))

    def take_discarded(self) -> tuple[RolloutBatch, ...]:
        taken, self._discarded = tuple(self._discarded), []
        return taken

    def _sync_metadata_from_transfer_queue(self) -> None:
        begin = time.perf_counter()
        super()._sync_metadata_from_transfer_queue()
        self._listing_s = time.perf_counter() - begin

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        self._on_poll()
        # Listing takes time in proportion to the rollouts: spend at most a tenth of the trainer's time on it.
        time.sleep(max(0.0, 9 * self._listing_s - self.poll_interval))
        return float(super()._wait_for_next_poll(partition_id, last_debug_time))

    def _clear_groups(self, partition_id: str, uids: set[str]) -> None:
        if partition_id == columns.TRAIN_PARTITION:
            tags = {key: tag for key, tag in self.partitions[partition_id].items() if columns.uid_of(key) in uids}
            if tags:
                self._discarded.append(columns.read_outcomes(partition_id, tags))
            for uid in uids:
                self._submitted.pop(uid, None)
        super()._clear_groups(partition_id, uids)

    def _select_prompt_uids(self, partition_id: str, sampleable_keys: set[str], batch_size: int) -> Any:
        if partition_id != columns.TRAIN_PARTITION:
            return super()._select_prompt_uids(partition_id, sampleable_keys, batch_size)
        steps, partition = dict(self.prompt_global_steps[partition_id]), dict(self.partitions[partition_id])
        size = Counter(map(columns.uid_of, partition))
        room = self._max_rollouts
        chosen: list[str] = []
        for uid in sorted(sampleable_keys, key=lambda uid: (steps.get(uid, 0), self._submitted.get(uid, -1), uid)):
            if len(chosen) < batch_size and size[uid] <= room:
                chosen.append(uid)
                room -= size[uid]
        for uid in chosen:
            self._submitted.pop(uid, None)
        return chosen, partition, steps


class PrepoReplayBufferAsync(PrepoReplayBuffer, ReplayBufferAsync):
    """The same over verl's buffer for the asynchronous modes, which itself refills each group that it discards."""


class RoundsReplayBuffer(PrepoReplayBuffer):
    """Rolls out in rounds: waits for a whole round, discards groups without reward variance, asks for the next round.

    ``next_round`` sizes it from ``(num_missing, zero_variance_frac=…, refills=…)``; None trains on what there is.
    """

    def __init__(self, *, next_round: Callable[..., Refill | None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._next_round = next_round

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        """``batch_size`` groups with reward variance, or fewer; a DataError where there is none at all."""
        if partition_id != columns.TRAIN_PARTITION:
            return tuple(super().sample(global_steps, partition_id, batch_size))
        refills: tuple[Refill, ...] = ()
        num_evicted = num_before = 0
        while True:
            self._wait_for_round(partition_id)
            reasons = self._terminal_eviction_reasons(global_steps, partition_id)
            num_rolled_out = len(self._terminal(partition_id)) - num_before
            evicted, *_ = self._evict_terminal_groups(global_steps, partition_id, reasons)
            num_evicted += len(evicted)
            num_before = len(self._terminal(partition_id))
            # Groups of which every rollout failed have nothing to train on.
            ready = self._terminal(partition_id) & set(map(columns.uid_of, self.partitions[partition_id]))
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
                f"step {global_steps}: in {len(refills) + 1} rounds of rollouts not one group had rewards that differ. "
                f"Look at the rewards (audit/selection.jsonl has the prompts), or take easier or harder prompts "
                f"(data.train_files), or another rule of prepo/selection."
            )
        chosen, partition, _ = self._select_prompt_uids(partition_id, ready, batch_size)
        surplus = self._terminal(partition_id) - set(chosen)
        self._clear_groups(partition_id, surplus)
        metrics = {
            "training/filter_groups/evicted_samples": num_evicted,
            "training/filter_groups/discarded_surplus_samples": len(surplus),
        }
        return self._materialize_batch(partition_id, chosen, partition), metrics

    def _wait_for_round(self, partition_id: str) -> None:
        last_debug_time = time.time()
        self._sync_metadata_from_transfer_queue()
        while self.pending_keys[partition_id] or self.running_keys[partition_id]:
            last_debug_time = self._wait_for_next_poll(partition_id, last_debug_time)
            self._sync_metadata_from_transfer_queue()

    def _terminal(self, partition_id: str) -> set[str]:
        return set(self.finished_keys[partition_id] | self.failure_keys[partition_id])


def extend_replay_buffer(trainer: Any, stock: ReplayBuffer) -> PrepoReplayBuffer | None:
    """This recipe's buffer with the options of verl's own; None beside a buffer of the user's."""
    if type(stock) not in (ReplayBuffer, ReplayBufferAsync):
        return None
    prepo, options = trainer.prepo, {name: getattr(stock, name) for name in inspect.signature(ReplayBuffer).parameters}
    options["poll_interval"] = CPU_POLL_INTERVAL_S if is_cpu_platform() else GPU_POLL_INTERVAL_S
    options["on_poll"] = trainer.on_poll
    options["max_rollouts"] = prepo.num_selected * prepo.rollouts_per_prompt // trainer.parameter_sync_step
    if isinstance(stock, ReplayBufferAsync):
        return PrepoReplayBufferAsync(**options)
    if prepo.skips_prompts:
        return RoundsReplayBuffer(next_round=lambda *args, **kw: trainer.controller.next_round(*args, **kw), **options)
    return PrepoReplayBuffer(**options)
