"""The CPU as a verl platform. It is active only if ``VERL_PLATFORM=cpu`` is set."""

from __future__ import annotations

import os

CPU_PLATFORM = "cpu"


def is_cpu_platform() -> bool:
    """Whether this process runs verl on the CPU."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == CPU_PLATFORM


def cpu_environment(threads: int | None = 1) -> dict[str, str]:
    """Environment variables for every process of a CPU run. Variables that are already set keep their values.

    ``threads`` is the number of threads of each process; None for as many as this one may use cores.
    """
    wanted = {
        "VERL_PLATFORM": CPU_PLATFORM,
        "VLLM_TARGET_DEVICE": "cpu",
        # GiB of key-value cache: enough for a small model, and little on a laptop.
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # The actor and the rollout server take turns; with a tiny model, more threads would only compete.
        "OMP_NUM_THREADS": str(threads or len(os.sched_getaffinity(0))),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    return {name: os.environ.get(name, value) for name, value in wanted.items()}
