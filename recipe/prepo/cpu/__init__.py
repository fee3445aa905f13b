"""The CPU as a verl platform. It is active only if ``VERL_PLATFORM=cpu`` is set."""

from __future__ import annotations

import os

CPU_PLATFORM = "cpu"


def is_cpu_platform() -> bool:
    """Whether this process runs verl on the CPU."""
    return os.environ.get("VERL_PLATFORM", "").strip().lower() == CPU_PLATFORM


def cpu_environment() -> dict[str, str]:
    """Environment variables for every process of a CPU run. Variables that are already set keep their values."""
    wanted = {
        "VERL_PLATFORM": CPU_PLATFORM,
        "VLLM_TARGET_DEVICE": "cpu",
        # GiB of key-value cache: enough for a small model, and little on a laptop.
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # Several processes share a few cores; more threads would only compete.
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    return {name: os.environ.get(name, value) for name, value in wanted.items()}
