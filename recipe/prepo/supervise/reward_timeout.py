"""Timeout for hung reward functions, with a counter.

This recipe's own grader limits each comparison. A reward function of the user's may hang for ever, and verl 0.9.1 would
wait for it: so the agent-loop worker waits for a limited time, and then scores 0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta

TIMED_OUT = "timed_out"  # in what the reward function returns
GIVEN_UP = "reward_given_up"  # in a rollout's extra fields


class RewardTimeout:
    """Waits for the rewards of one agent-loop worker.

    Args:
        limit_s: seconds to wait for one reward, with everything that is graded before it.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._keys: tuple[str, ...] = ("score", "acc", TIMED_OUT)  # this recipe's, until another reward was seen

    async def score(self, scoring: Awaitable[None], output: Any) -> None:
        """Await verl's scoring of ``output``; give it 0 where that takes too long."""
        task = asyncio.ensure_future(scoring)
        await asyncio.wait({task}, timeout=self._limit_s)
        if task.done():
            task.result()  # an error of the reward function, perhaps a timeout of its own, is verl's to handle
            self._keys = tuple(output.extra_fields.get("reward_extra_info", self._keys))
            return
        task.cancel()
        # verl makes a column of each key, so every rollout must have the same ones.
        info = {key: float(key == TIMED_OUT) for key in self._keys}
        output.reward_score = 0.0
        output.extra_fields.update({"reward_extra_info": info, GIVEN_UP: True})


def renew_threads(reward_workers: Iterable[Any]) -> None:
    """Give reward workers new threads: a hung reward function keeps its own, and verl 0.9.1 has few of them."""
    for worker in reward_workers:
        worker.__ray_call__.remote(_renew_threads)


def _renew_threads(reward_worker: Any) -> None:
    loop = getattr(reward_worker.reward_manager, "loop", None)  # a manager of the user's own may have none
    if loop is not None:
        loop.set_default_executor(ThreadPoolExecutor())


def count_timeouts(batch: KVBatchMeta) -> int:
    """Rollouts of a training batch that scored 0 because grading took too long."""
    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    fields = [getattr(value, "data", value) for value in data["extra_fields"]]
    return sum(bool(each.get(GIVEN_UP) or each.get("reward_extra_info", {}).get(TIMED_OUT)) for each in fields)
