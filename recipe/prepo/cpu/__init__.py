"""The CPU as a verl platform: chosen with ``VERL_PLATFORM=cpu``, without effect anywhere else."""

from __future__ import annotations

import os

CPU_PLATFORM = "cpu"


def is_cpu_platform() -> bool:
    """Whether this process was told to run verl on the CPU."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == CPU_PLATFORM


def cpu_environment() -> dict[str, str]:
    """Environment variables of every process of a CPU run; a variable that is already set keeps its value."""
    wanted = {
        "VERL_PLATFORM": CPU_PLATFORM,
        "VLLM_TARGET_DEVICE": "cpu",
        # GiB of key-value cache: plenty for a tiny model, and small beside a laptop's memory.
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # Several single-threaded processes share few cores: more threads each would only fight.
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    return {name: os.environ.get(name, value) for name, value in wanted.items()}
