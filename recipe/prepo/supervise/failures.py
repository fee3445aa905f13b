"""Failed rollouts: how many there are, and the latest error.

Where a rollout raises (most often in the user's reward function), verl 0.9.1 logs the error in an agent-loop worker and
goes on. In sync mode the step is trained on the remaining rollouts; in the asynchronous modes other prompts take their
place, for ever if all of them fail. So the workers count, and the trainer asks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayTaskError

ANSWER_LIMIT_S = 10.0


@dataclass
class Failures:
    """Failed rollouts of one or more agent-loop workers since the run began, and the latest error as one line."""

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

    def __add__(self, other: Failures) -> Failures:
        validation = self.validation + other.validation
        return Failures(self.training + other.training, validation, self.latest or other.latest)

    def __bool__(self) -> bool:
        return bool(self.training or self.validation)

    def __str__(self) -> str:
        of_validation = f" and {self.validation} validation rollouts" if self.validation else ""
        return f"{self.training} training rollouts{of_validation} failed; the latest: {self.latest}"


class FailureCount:
    """Asks agent-loop workers for their failures. For one that does not answer in time, its last answer counts."""

    def __init__(self, workers: Sequence[Any]) -> None:
        self._workers = list(workers)
        self._known = [Failures()] * len(self._workers)

    def __call__(self) -> Failures:
        """The failures of all workers together since the run began."""
        calls = [worker.__ray_call__.remote(_own_failures) for worker in self._workers]
        answered = set(ray.wait(calls, num_returns=len(calls), timeout=ANSWER_LIMIT_S)[0] if calls else [])
        for number, call in enumerate(calls):
            if call in answered:
                self._known[number] = ray.get(call)
        return sum(self._known, Failures())


def _own_failures(worker: Any) -> Failures:
    return getattr(worker, "failures", Failures())  # a worker of the user's own may not count


def describe(error: BaseException) -> str:
    """An error as one line.

    >>> describe(KeyError("answer"))
    "KeyError: 'answer'"
    """
    error = _unwrapped(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no text'}"


def reason(error: BaseException) -> str:
    """Ray's own account of a death as one line, or else the first line of the error.

    >>> reason(RuntimeError("The actor died.\\n\\tpid: 7\\nWorker exit detail: Code 2. End of file. Some more"))
    'Code 2. End of file'
    """
    error = _unwrapped(error)
    text = str(error).strip() or repr(error)
    detail = text.partition("Worker exit detail: ")[2] or text.partition("The actor is dead because ")[2]
    return (detail or text).splitlines()[0].partition(" Some ")[0].strip().rstrip(".")


def _unwrapped(error: BaseException) -> BaseException:
    """What another process raised; the text of Ray's error would begin with the remote traceback."""
    return error.cause if isinstance(error, RayTaskError) else error
