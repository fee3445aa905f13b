"""Failed rollouts and hung rewards: what agent-loop workers note, and what the trainer reads of it.

Where a rollout raises, verl 0.9.1 logs the error in an agent-loop worker and goes on. In sync mode the step is trained
on the remaining rollouts; in the asynchronous modes other prompts take their place, for ever if all of them fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray
import transfer_queue as tq
from transfer_queue import KVBatchMeta

from recipe.prepo.supervise.messages import describe

ANSWER_LIMIT_S = 10.0
TIMED_OUT = "timed_out"  # in what the reward function returns
GIVEN_UP = "reward_given_up"  # in a rollout's extra fields


@dataclass
class Failures:
    """Failed rollouts of one or more agent-loop workers since the run began, and the latest error as one line."""

    training: int = 0
    validation: int = 0
    latest: str = ""

    def note(self, error: Exception, *, validate: bool) -> None:
        self.validation += validate
        self.training += not validate
        self.latest = describe(error)

    def since(self, before: Failures) -> Failures:
        """Those that were counted after ``before``."""
        return Failures(self.training - before.training, self.validation - before.validation, self.latest)

    def __add__(self, other: Failures) -> Failures:
        validation = self.validation + other.validation
        return Failures(self.training + other.training, validation, self.latest or other.latest)

    def __bool__(self) -> bool:
        return bool(self.training or self.validation)

    def __str__(self) -> str:
        counts = {"training": self.training, "validation": self.validation}
        failed = " and ".join(f"{count} {kind} rollouts" for kind, count in counts.items() if count)
        return f"{failed} failed; the latest: {self.latest}"


class SupervisedRollouts:
    """For verl's agent-loop worker: counts rollouts that fail, and limits the wait for each reward.

    This recipe's own grader limits each comparison. A reward that takes longer than ``prepo.reward_wait_limit_s``, with
    everything that is graded before it, is 0.
    """

    config: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.failures = Failures()
        self._reward_keys: Iterable[str] = ("score", "acc", TIMED_OUT)  # this recipe's, until another reward was seen

    async def _run_agent_loop(self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **kwargs: Any) -> Any:
        try:
            return await super()._run_agent_loop(sampling_params, trajectory, **kwargs)  # type: ignore[misc]
        except Exception as error:
            self.failures.note(error, validate=bool(trajectory["validate"]))
            raise

    async def _compute_score(self, outputs: list[Any], kwargs: dict[str, Any]) -> None:
        await self.limit(super()._compute_score(outputs, kwargs), outputs[-1])  # type: ignore[misc]

    async def limit(self, scoring: Awaitable[None], output: Any) -> None:
        """Await verl's scoring of ``output``; give it 0 where that takes too long."""
        task = asyncio.ensure_future(scoring)
        await asyncio.wait({task}, timeout=float(self.config.prepo.reward_wait_limit_s))
        if task.done():
            task.result()  # an error of the reward function, perhaps a timeout of its own, is verl's to handle
            self._reward_keys = tuple(output.extra_fields.get("reward_extra_info", self._reward_keys))
            return
        task.cancel()
        # verl makes a column of each key, so every rollout must have the same ones.
        info = {key: float(key == TIMED_OUT) for key in self._reward_keys}
        output.reward_score = 0.0
        output.extra_fields.update({"reward_extra_info": info, GIVEN_UP: True})


class FailureCount:
    """Asks agent-loop workers for their failures. For one that does not answer in time, its last answer counts."""

    def __init__(self, workers: Sequence[Any]) -> None:
        self._workers = list(workers)
        self._known = [Failures()] * len(self._workers)

    def __call__(self) -> Failures:
        # A worker of the user's own may not count.
        calls = [w.__ray_call__.remote(lambda worker: getattr(worker, "failures", Failures())) for w in self._workers]
        answered = set(ray.wait(calls, num_returns=len(calls), timeout=ANSWER_LIMIT_S)[0] if calls else [])
        for number, call in enumerate(calls):
            if call in answered:
                self._known[number] = ray.get(call)
        return sum(self._known, Failures())


def count_timeouts(batch: KVBatchMeta) -> int:
    """Rollouts of a training batch that scored 0 because grading took too long."""
    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
    fields = [getattr(value, "data", value) for value in data["extra_fields"]]
    return sum(bool(each.get(GIVEN_UP) or each.get("reward_extra_info", {}).get(TIMED_OUT)) for each in fields)


def renew_threads(reward_workers: Iterable[Any]) -> None:
    """Give reward workers new threads: a hung reward function keeps its own, and verl 0.9.1 has few of them."""

    def renew(reward_worker: Any) -> None:
        loop = getattr(reward_worker.reward_manager, "loop", None)  # a manager of the user's own may have none
        if loop is not None:
            loop.set_default_executor(ThreadPoolExecutor())

    for worker in reward_workers:
        worker.__ray_call__.remote(renew)
