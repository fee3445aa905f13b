"""Event simulation of a training run: a pool of rollout replicas, a trainer that waits for whole groups of rollouts.

The modes are those of the trainer: ``sync`` (rollout and training in turn), ``colocate_async`` (generation stops while
the trainer works and goes on afterwards) and ``separate_async`` (pools of their own), the last two with warm-up batches
and a bound on staleness as in verl 0.9.1's replay buffer.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.scale_model_pool import COLOCATE, SEPARATE, SYNC, Costs, Plan, Pool

OLD_LOG_PROB_FRAC = 0.2  # of the training's FLOP, before the trainer waits for the choices of its step
Lengths = Callable[[np.random.Generator, int], NDArray[np.int64]]


@dataclass
class Step:
    """One step: its seconds, the parts that the trainer waited or worked, and the staleness of what it trained on."""

    seconds: float
    scoring_s: float
    waiting_s: float
    training_s: float
    sync_s: float
    rollout_idle_frac: float
    staleness: list[int] = field(default_factory=list)


@dataclass
class Result:
    steps: list[Step]
    dispatched: int
    trained: int
    evicted: int
    in_flight: int

    def mean(self, name: str, *, skip: int = 2) -> float:
        """Mean of a field of :class:`Step` over the steps after the first ``skip``."""
        return float(np.mean([getattr(step, name) for step in self.steps[skip:]]))


class Simulation:
    """A trainer and its pool; :func:`simulate` runs it."""

    def __init__(self, plan: Plan, costs: Costs, lengths: Lengths, seed: int) -> None:
        self.plan, self.costs = plan, costs
        self._lengths, self._rng = lengths, np.random.default_rng(seed)
        self.pool = Pool(plan, costs)
        self.now_s = 0.0
        self.scoring_s = 0.0
        self._chosen_s = 0.0  # when everything that was asked for is scored, chosen and submitted
        self._groups = itertools.count()
        self._version: dict[int, int] = {}  # of every group that is neither trained on nor evicted
        self._unfinished: dict[int, int] = {}  # group -> rollouts still missing
        self._tokens: dict[int, int] = {}
        self._finished: set[int] = set()
        self._submissions: list[tuple[float, int, NDArray[np.int64]]] = []
        self.dispatched = self.trained = self.evicted = 0

    def dispatch(self, num_groups: int, version: int) -> None:
        """Score candidates, choose, and submit groups as soon as the choice is made."""
        ready_s = self.now_s
        if self.plan.scores_prompts:
            ready_s = self.pool.score(round(num_groups * self.plan.candidate_ratio), self.now_s)
        self.scoring_s += ready_s - self.now_s
        self._chosen_s = max(self._chosen_s, ready_s)
        for _ in range(num_groups):
            group = next(self._groups)
            lengths = self._lengths(self._rng, self.plan.rollouts_per_prompt)
            self._version[group] = version
            self._unfinished[group] = len(lengths)
            self._tokens[group] = int(lengths.sum() + len(lengths) * self.plan.prompt_tokens)
            heapq.heappush(self._submissions, (ready_s + self.costs.generate_fixed_s, group, lengths))
        self.dispatched += num_groups

    def _next_event_s(self) -> float:
        submission_s = self._submissions[0][0] if self._submissions else math.inf
        return min(submission_s, self.pool.next_finish_s())

    def _handle_event(self) -> int | None:
        """The next thing that happens; returns the group that it finished, if any."""
        event_s = self._next_event_s()
        assert event_s < math.inf, "the trainer waits for groups and nothing is under way"
        self.now_s = max(self.now_s, event_s)
        if self._submissions and self._submissions[0][0] <= event_s:
            _, group, lengths = heapq.heappop(self._submissions)
            self.pool.submit(group, lengths, event_s)
            return None
        group = self.pool.finish_first()
        self._unfinished[group] -= 1
        if self._unfinished[group]:
            return None
        del self._unfinished[group]
        self._finished.add(group)
        return group

    def run_until(self, end_s: float) -> None:
        while self._next_event_s() <= end_s:
            self._handle_event()
        self.now_s = end_s

    def sample(self, num_groups: int, version: int) -> list[int]:
        """Wait for finished groups and take the oldest; too stale ones are thrown away and replaced, or waited for."""
        drops = self.plan.mode != SYNC and not self.plan.waits_for_stale
        if drops:
            self._evict([*self._finished], version)
        while len(self._finished) < num_groups or self._must_wait(version):
            group = self._handle_event()
            if drops and group is not None:
                self._evict([group], version)
        taken = sorted(self._finished, key=lambda group: (self._version[group], group))[:num_groups]
        self._finished.difference_update(taken)
        return taken

    def _must_wait(self, version: int) -> bool:
        if self.plan.mode == SYNC or not self.plan.waits_for_stale:
            return False
        return any(version - self._version[group] + 1 >= self.plan.max_staleness for group in self._unfinished)

    def _evict(self, groups: list[int], version: int) -> None:
        stale = [group for group in groups if version - self._version[group] + 1 > self.plan.max_staleness]
        for group in stale:
            self._finished.remove(group)
            del self._version[group], self._tokens[group]
        self.evicted += len(stale)
        if stale:
            self.dispatch(len(stale), version)

    def step(self, version: int) -> Step:
        plan, costs, start_s, scored_s = self.plan, self.costs, self.now_s, self.scoring_s
        busy_s = self.pool.busy_s(start_s)
        self.dispatch(plan.num_selected, version)
        staleness: list[int] = []
        waiting_s = training_s = 0.0
        for _ in range(plan.updates_per_sync):
            before_s = self.now_s
            taken = self.sample(plan.num_selected // plan.updates_per_sync, version)
            waiting_s += self.now_s - before_s
            staleness += [version - self._version.pop(group) for group in taken]
            self.trained += len(taken)
            tokens = sum(self._tokens.pop(group) for group in taken)
            rollouts = len(taken) * plan.rollouts_per_prompt
            work_s = costs.train_s_per_token * tokens + costs.driver_s_per_rollout * rollouts
            work_s += (costs.train_fixed_s + costs.driver_fixed_s) / plan.updates_per_sync
            training_s += work_s
            old_log_prob_s = OLD_LOG_PROB_FRAC * work_s if plan.mode == SEPARATE else 0.0
            self.run_until(self.now_s + old_log_prob_s)
            waiting_s += max(0.0, self._chosen_s - self.now_s)  # the weights of rollouts come after the choices
            self.run_until(max(self.now_s, self._chosen_s))
            work_s -= old_log_prob_s
            if plan.mode == COLOCATE:
                self.pool.block_all(self.now_s, work_s, prefill_again=True)
            self.run_until(self.now_s + work_s)
        self.pool.block_all(self.now_s, costs.sync_s, prefill_again=plan.mode == SEPARATE)
        self.run_until(self.now_s + costs.sync_s)
        seconds = self.now_s - start_s
        idle = 1.0 - (self.pool.busy_s(self.now_s) - busy_s) / (max(seconds, 1e-12) * plan.num_replicas)
        return Step(seconds, self.scoring_s - scored_s, waiting_s, training_s, costs.sync_s, idle, staleness)


def simulate(plan: Plan, costs: Costs, lengths: Lengths, *, num_steps: int, seed: int = 0) -> Result:
    """Run ``num_steps`` steps; group lengths are drawn in the order of dispatch."""
    simulation = Simulation(plan, costs, lengths, seed)
    if plan.mode != SYNC:
        simulation.dispatch(plan.warmup_batches * plan.num_selected, 1)
    steps = [simulation.step(version) for version in range(1, num_steps + 1)]
    in_flight = len(simulation._version)
    return Result(steps, simulation.dispatched, simulation.trained, simulation.evicted, in_flight)
