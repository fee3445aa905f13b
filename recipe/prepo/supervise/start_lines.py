"""Says what a run is starting, and how long each part took, from the first second to the first step."""

from __future__ import annotations

import contextlib
import sys
import threading
import time

from tqdm import tqdm

POLL_INTERVAL_S = 0.5
# Part of the class name of a Ray actor, and what verl 0.9.1 starts once such an actor is there.
NEXT = (("TaskRunner", "the actor"), ("RewardLoopWorker", "vLLM"), ("AgentLoopWorker", "the first step"))


class StartLines:
    """One line for each part that starts; a context manager."""

    def __init__(self) -> None:
        self._part = ""
        self._done = threading.Event()
        self._begin = time.monotonic()

    def __enter__(self) -> StartLines:
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def now(self, part: str) -> None:
        """Print that ``part`` starts, and how long the part before took."""
        end = time.monotonic()
        took = f" ({self._part}: {end - self._begin:.0f} s)" if self._part else ""
        self._part, self._begin = part, end
        tqdm.write(f"starting {part}{took}")  # above the progress bar, if there is one
        sys.stdout.flush()

    def follow_actors(self) -> None:
        threading.Thread(target=self._follow, daemon=True, name="prepo-start").start()

    def _follow(self) -> None:
        import ray
        from ray._private.state import actors

        with contextlib.suppress(Exception):  # Ray has shut down during the start
            job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
            for name, part in NEXT:
                while not any(name in actor["ActorClassName"] for actor in actors(None, job, "ALIVE").values()):
                    if self._done.wait(POLL_INTERVAL_S):
                        return
                self.now(part)
