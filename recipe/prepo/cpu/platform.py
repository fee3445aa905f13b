"""verl's platform interface on a CPU (verl 0.9.1, ``verl.plugin.platform``). Importing it registers the platform."""

from __future__ import annotations

import contextlib
import types
from typing import Any

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

from recipe.prepo.cpu import CPU_PLATFORM


def _always(value: Any) -> Any:
    """A method that returns ``value``, whatever it is called with."""
    return staticmethod(lambda *_args, **_kwargs: value)


class CpuIndex(str):
    """A device index for both ``tensor.to(index)`` and ``f"cpu:{index}"``, which verl uses."""

    def __format__(self, spec: str) -> str:
        return "0"


class CpuDeviceModule(types.ModuleType):
    """The part of ``torch.cuda`` that verl uses, on top of ``torch.cpu``. Memory figures are the host's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    @staticmethod
    def _resident_bytes(*_args: Any, **_kwargs: Any) -> int:
        return int(psutil.Process().memory_info().rss)

    @staticmethod
    def mem_get_info(*_args: Any) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return int(memory.available), int(memory.total)

    memory_allocated = memory_reserved = max_memory_allocated = max_memory_reserved = _resident_bytes
    empty_cache = ipc_collect = reset_peak_memory_stats = set_per_process_memory_fraction = _always(None)
    set_device = synchronize = _always(None)
    is_available, device_count = _always(True), _always(1)
    current_device, get_device_name = _always(CpuIndex("cpu")), _always("cpu")
    manual_seed = manual_seed_all = staticmethod(torch.manual_seed)
    get_rng_state = staticmethod(lambda *_: torch.get_rng_state())
    set_rng_state = staticmethod(lambda state, *_: torch.set_rng_state(state))


@PlatformRegistry.register(platform=CPU_PLATFORM)
class PlatformCPU(PlatformBase):
    """Ray's "GPU" resource stands for logical devices: start Ray with ``num_gpus`` of them."""

    device_name = vendor_name = CPU_PLATFORM
    device_module = CpuDeviceModule("torch_cpu_device_module")
    is_available, device_count = _always(True), _always(1)
    is_platform_available = _always(False)  # a CPU is never detected, only chosen with VERL_PLATFORM=cpu
    current_device = _always(CpuIndex("cpu"))
    manual_seed = manual_seed_all = staticmethod(torch.manual_seed)
    set_device = synchronize = set_allocator_settings = empty_cache = _always(None)
    profiler_start = profiler_stop = cudart = _always(None)
    nvtx_range = _always(contextlib.nullcontext())
    get_device_capability = _always((None, None))
    communication_backend_name = _always("gloo")
    visible_devices_envvar = _always("CUDA_VISIBLE_DEVICES")
    ray_resource_name = _always("GPU")
    ray_noset_envvars = _always(["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"])
    is_ipc_supported = _always(False)  # so weights are sent through shared memory
