"""verl's platform interface on a CPU (verl 0.9.1, ``verl.plugin.platform``). Importing it registers the platform."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

from recipe.prepo.cpu import CPU_PLATFORM


class CpuIndex(str):
    """A device index for both ``tensor.to(index)`` and ``f"cpu:{index}"``, which verl uses."""

    def __format__(self, spec: str) -> str:
        return "0"


class CpuDeviceModule(types.ModuleType):
    """The part of ``torch.cuda`` that verl uses, on top of ``torch.cpu``. Memory figures are the host's."""

    def __init__(self) -> None:
        super().__init__("torch_cpu_device_module")

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    @staticmethod
    def _nothing(*_args: Any, **_kwargs: Any) -> None:
        return None

    @staticmethod
    def _resident_bytes(*_args: Any, **_kwargs: Any) -> int:
        return int(psutil.Process().memory_info().rss)

    empty_cache = ipc_collect = reset_peak_memory_stats = set_per_process_memory_fraction = _nothing
    set_device = synchronize = _nothing
    memory_allocated = memory_reserved = max_memory_allocated = max_memory_reserved = _resident_bytes

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> CpuIndex:
        return CpuIndex("cpu")

    @staticmethod
    def get_device_name(*_args: Any) -> str:
        return "cpu"

    @staticmethod
    def mem_get_info(*_args: Any) -> tuple[int, int]:
        memory = psutil.virtual_memory()
        return int(memory.available), int(memory.total)

    @staticmethod
    def manual_seed(seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    @staticmethod
    def get_rng_state(*_args: Any) -> torch.Tensor:
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state: torch.Tensor, *_args: Any) -> None:
        torch.set_rng_state(state)


@PlatformRegistry.register(platform=CPU_PLATFORM)
class PlatformCPU(PlatformBase):
    """Ray's "GPU" resource stands for logical devices: start Ray with ``num_gpus`` of them."""

    _module = CpuDeviceModule()

    @property
    def device_name(self) -> str:
        return CPU_PLATFORM

    @property
    def vendor_name(self) -> str:
        return CPU_PLATFORM

    @property
    def device_module(self) -> types.ModuleType:
        return self._module

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        """False: the CPU is never detected, only chosen with ``VERL_PLATFORM=cpu``."""
        return False

    def current_device(self) -> Any:
        return CpuIndex("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        return None

    def synchronize(self, device_index: int | None = None) -> None:
        return None

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        return None

    def empty_cache(self) -> None:
        return None

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        return None

    def profiler_stop(self) -> None:
        return None

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """False, so that weights are sent through shared memory."""
        return False

    def cudart(self) -> None:
        return None
