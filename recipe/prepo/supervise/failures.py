"""Rollouts that failed: their number, and what the latest one said.

Where a rollout raises (most often the user's reward function), verl 0.9.1 writes the error to the log of an agent-loop
worker and goes on: in sync mode a step is trained on what is left of it, in the asynchronous modes another prompt is
rolled out instead, for ever if need be. So the workers count, and the trainer asks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayTaskError

ASK_LIMIT_S = 10.0


@dataclass
class Failures:
    """Of one or of several agent-loop workers, since the run began.

    Attributes:
        training, validation: how many rollouts failed.
        latest: what the last one of them said.
    """

    training: int = 0
    validation: int = 0
    latest: str = ""

    def note(self, error: Exception, *, validate: bool) -> None:
        """Count a rollout that failed with this error."""
        self.validation += validate
        self.training += not validate
        self.latest = describe(error)

    def since(self, before: Failures) -> Failures:
        """Those that were counted after ``before``."""
        return Failures(self.training - before.training, self.validation - before.validation, self.latest)

    def __bool__(self) -> bool:
        return bool(self.training or self.validation)

    def __str__(self) -> str:
        of_validation = f" and {self.validation} of validation" if self.validation else ""
        return f"{self.training} training rollouts{of_validation} failed; the latest: {self.latest}"


def describe(error: BaseException) -> str:
    """An error in one line, of Ray's wrapping what it wraps.

    >>> describe(KeyError("answer"))
    "KeyError: 'answer'"
    """
    error = _unwrapped(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no text'}"


def reason(error: BaseException) -> str:
    """Ray's own account of a death in one line; without it the first line of the error.

    >>> reason(RuntimeError("The actor died.\\n\\tpid: 7\\nWorker exit detail: Code 2. End of file. Some more"))
    'Code 2. End of file'
    """
    error = _unwrapped(error)
    text = str(error).strip() or repr(error)
    detail = text.partition("Worker exit detail: ")[2] or text.partition("The actor is dead because ")[2]
    sentences = (detail or text).splitlines()[0].partition(" Some ")[0]
    return sentences.strip().rstrip(".")


def _unwrapped(error: BaseException) -> BaseException:
    """What was raised in another process: the text of Ray's own error begins with the remote traceback."""
    return error.cause if isinstance(error, RayTaskError) else error


def added(failures: Sequence[Failures]) -> Failures:
    """Of all workers together."""
    return Failures(
        training=sum(each.training for each in failures),
        validation=sum(each.validation for each in failures),
        latest=next((each.latest for each in failures if each.latest), ""),
    )


class FailureCount:
    """Asks the agent-loop workers; of one that does not answer in time, its last answer counts.

    Args:
        workers: those of this recipe count; others have nothing to say.
    """

    def __init__(self, workers: Sequence[Any]) -> None:
        self._workers = list(workers)
        self._known = [Failures()] * len(self._workers)

    def __call__(self) -> Failures:
        """Of all workers since the run began."""
        calls = [worker.__ray_call__.remote(_own) for worker in self._workers]
        answered = set(ray.wait(calls, num_returns=len(calls), timeout=ASK_LIMIT_S)[0] if calls else [])
        for number, call in enumerate(calls):
            if call in answered:
                self._known[number] = ray.get(call)
        return added(self._known)


def _own(worker: Any) -> Failures:
    return getattr(worker, "failures", Failures())
