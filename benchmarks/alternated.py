"""Alternated runs of the real stack, timed by phase: the cost of two ways of training at the same work."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psutil

from benchmarks.real_stack import run_on_stack

COMMON = [
    "experiment=tiny_cpu",
    "trainer.resume_mode=disable",
    "trainer.val_before_train=false",
    "trainer.test_freq=-1",
    "trainer.save_freq=-1",
    "trainer.total_epochs=100",
    "actor_rollout_ref.actor.optim.lr=0",
]
WARM_UP_STEPS = 3
MEMORY = "memory at the end (MiB, all Ray processes)"

Phases = dict[str, float]
Pair = dict[str, Phases]


def record_steps(trainer: Any, agent_loop_manager: Any) -> list[Phases]:
    """Train, and return verl's phase timings of each step, with the run's memory at its end."""
    timings: list[Phases] = []
    compute_metrics = trainer._compute_metrics

    def recorded(*args: Any, **kwargs: Any) -> Any:
        timings.append(dict(trainer.timing_raw))
        return compute_metrics(*args, **kwargs)

    trainer._compute_metrics = recorded
    trainer.fit(agent_loop_manager)
    memory_mib = ray_memory_mib()
    return [step | {MEMORY: memory_mib} for step in timings]


def ray_memory_mib() -> float:
    """Proportional set size of all processes of the raylet: actor, vLLM, agent loops, stores."""
    raylet = psutil.Process().parent()
    assert raylet is not None
    total = 0
    for process in raylet.children(recursive=True):
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20


def summary(timings: list[Phases], reduce: Callable[[list[float]], float] = statistics.median) -> Phases:
    """Seconds of each phase over the steps after the warm-up."""
    kept = timings[WARM_UP_STEPS:]
    return {phase: reduce([step.get(phase, 0.0) for step in kept]) for phase in kept[-1]}


def alternated_pairs(
    sides: Mapping[str, Sequence[str]],
    *,
    num_pairs: int,
    num_steps: int,
    overrides: Sequence[str],
    after_pair: Callable[[list[Pair]], None],
    reduce: Callable[[list[float]], float] = statistics.median,
) -> list[Pair]:
    """Run every side once a pair, reversing the order each time (a, b, b, a, …), at learning rate 0.

    Args:
        sides: name -> Hydra overrides.
        overrides: further overrides of both sides.
        after_pair: called with the pairs so far, so that an interrupted benchmark keeps its results.
        reduce: of a phase's seconds over a run's steps.
    """
    pairs: list[Pair] = []
    for number in range(num_pairs):
        pair = {}
        for side in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            run_overrides = [
                *COMMON,
                *sides[side],
                f"trainer.total_training_steps={num_steps}",
                f"trainer.default_local_dir=outputs/bench/runs/{side}",
                *overrides,
            ]
            pair[side] = summary(run_on_stack(run_overrides, record_steps), reduce)
        pairs.append(pair)
        after_pair(pairs)
    return pairs


def phase_table(pairs: Sequence[Pair]) -> list[str]:
    """Markdown lines: the median of each phase over the pairs."""
    sides = list(pairs[0])
    phases = sorted({phase for pair in pairs for side in pair.values() for phase in side})
    rows = [f"| phase | {' | '.join(sides)} |", f"|---|{'---|' * len(sides)}"]
    for phase in phases:
        values = [statistics.median(pair[side].get(phase, 0.0) for pair in pairs) for side in sides]
        rows.append(f"| {phase} | {' | '.join(f'{value:.4f}' for value in values)} |")
    return rows


def spread(values: Sequence[float], form: str) -> str:
    """Minimum, median and maximum as cells of a Markdown table."""
    return " | ".join(format(value, form) for value in (min(values), statistics.median(values), max(values)))
