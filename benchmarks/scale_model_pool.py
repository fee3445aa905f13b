"""The rollout pool of ``scale_model``'s simulation: replicas that decode their sequences together.

One iteration of a replica gives every one of its sequences a token and takes ``iteration_s`` plus ``sequence_s`` for
each of them, so all of them advance at one pace and each finishes at a fixed count of iterations.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SYNC, COLOCATE, SEPARATE = "sync", "colocate_async", "separate_async"


@dataclass(frozen=True)
class Costs:
    """Seconds. Per replica: prefill, decoding, ``rollout_s``. Whole trainer: ``train_*``. One driver: ``driver_*``."""

    prefill_s_per_token: float = 0.0
    iteration_s: float = 0.0
    sequence_s: float = 0.0
    rollout_s: float = 0.0
    generate_fixed_s: float = 0.0
    train_fixed_s: float = 0.0
    train_s_per_token: float = 0.0
    sync_s: float = 0.0
    score_fixed_s: float = 0.0
    driver_s_per_candidate: float = 0.0
    driver_s_per_rollout: float = 0.0
    driver_fixed_s: float = 0.0


@dataclass(frozen=True)
class Plan:
    """Sizes of a run. ``max_staleness``: model versions that a group may span, verl's ``max_off_policy_threshold``."""

    mode: str
    num_selected: int
    rollouts_per_prompt: int
    candidate_ratio: float
    prompt_tokens: float
    scores_prompts: bool = True
    num_replicas: int = 1
    max_sequences: int = 1024
    warmup_batches: int = 1
    max_staleness: int = 8
    waits_for_stale: bool = False
    updates_per_sync: int = 1

    @property
    def num_candidates(self) -> int:
        return round(self.num_selected * self.candidate_ratio)


class Replica:
    """One server. Its sequences advance together, so each finishes at a fixed count of iterations."""

    def __init__(self, costs: Costs, max_sequences: int) -> None:
        self._costs, self._max_sequences = costs, max_sequences
        self.clock_s = 0.0  # up to here its progress is counted; ahead of now while it is blocked
        self.iterations = 0.0
        self.busy_s = 0.0
        self.active: list[tuple[float, int, int, int]] = []  # last iteration, number, group, length
        self._waiting: deque[tuple[int, int]] = deque()
        self._numbers = itertools.count()

    @property
    def load(self) -> int:
        return len(self.active) + len(self._waiting)

    def _iteration_s(self) -> float:
        return self._costs.iteration_s + self._costs.sequence_s * len(self.active)

    def advance(self, now_s: float) -> None:
        gap_s = now_s - self.clock_s
        if gap_s <= 0:
            return
        if self.active:
            self.iterations = min(self.iterations + gap_s / max(self._iteration_s(), 1e-12), self.active[0][0])
            self.busy_s += gap_s
        self.clock_s = now_s

    def block(self, now_s: float, seconds: float, *, busy: bool) -> None:
        self.advance(now_s)
        self.clock_s = max(self.clock_s, now_s) + seconds
        self.busy_s += seconds * busy

    def add(self, group: int, length: int) -> None:
        self._waiting.append((group, length))
        self._admit()

    def _admit(self) -> None:
        while self._waiting and len(self.active) < self._max_sequences:
            group, length = self._waiting.popleft()
            heapq.heappush(self.active, (self.iterations + length, next(self._numbers), group, length))

    def next_finish_s(self) -> float:
        if not self.active:
            return math.inf
        return self.clock_s + max(0.0, self.active[0][0] - self.iterations) * self._iteration_s()

    def finish_first(self) -> int:
        self.advance(self.next_finish_s())
        self.iterations, _, group, _ = heapq.heappop(self.active)
        self._admit()
        return group

    def tokens_held(self) -> float:
        """Tokens that unfinished sequences have so far: prefilled again after their cache was thrown away."""
        return sum(length - (last - self.iterations) for last, _, _, length in self.active)


class Pool:
    """The rollout replicas; a new rollout goes to the least loaded one."""

    def __init__(self, plan: Plan, costs: Costs) -> None:
        self._plan, self._costs = plan, costs
        self.replicas = [Replica(costs, plan.max_sequences) for _ in range(plan.num_replicas)]
        self._loads = np.zeros(plan.num_replicas, dtype=np.int64)
        self._stamps = [0] * plan.num_replicas
        self._finishes: list[tuple[float, int, int]] = []

    def _changed(self, index: int) -> None:
        self._stamps[index] += 1
        heapq.heappush(self._finishes, (self.replicas[index].next_finish_s(), index, self._stamps[index]))

    def submit(self, group: int, lengths: NDArray[np.int64], now_s: float) -> None:
        overhead_s = self._costs.rollout_s + self._costs.prefill_s_per_token * self._plan.prompt_tokens
        for length in lengths.tolist():
            index = int(self._loads.argmin())
            self.replicas[index].block(now_s, overhead_s, busy=True)
            self.replicas[index].add(group, length)
            self._loads[index] += 1
            self._changed(index)

    def score(self, num_prompts: int, now_s: float) -> float:
        """Prefill candidates on all replicas; returns when the driver has their scores."""
        prefill_s = num_prompts * self._plan.prompt_tokens * self._costs.prefill_s_per_token / len(self.replicas)
        self.block_all(now_s, prefill_s, busy=True)
        return now_s + self._costs.score_fixed_s + max(prefill_s, num_prompts * self._costs.driver_s_per_candidate)

    def block_all(self, now_s: float, seconds: float, *, busy: bool = False, prefill_again: bool = False) -> None:
        for index, replica in enumerate(self.replicas):
            replica.block(now_s, seconds, busy=busy)
            if prefill_again:
                replica.block(now_s, replica.tokens_held() * self._costs.prefill_s_per_token, busy=True)
            self._changed(index)

    def next_finish_s(self) -> float:
        while self._finishes and self._finishes[0][2] != self._stamps[self._finishes[0][1]]:
            heapq.heappop(self._finishes)
        return self._finishes[0][0] if self._finishes else math.inf

    def finish_first(self) -> int:
        self.next_finish_s()
        index = self._finishes[0][1]
        group = self.replicas[index].finish_first()
        self._loads[index] -= 1
        self._changed(index)
        return group

    def busy_s(self, now_s: float) -> float:
        """Seconds worked until now, of all replicas; a replica ahead of now has prefilling before it."""
        return sum(replica.busy_s - max(0.0, replica.clock_s - now_s) for replica in self.replicas)
