"""Costs of a run on GPUs for ``scale_model``: roofline arithmetic on stated parameters. Nothing here was measured.

Sources: the H100 SXM's peaks are NVIDIA's published ones (989 TFLOP/s dense BF16, 3.35 TB/s); a 400 Gb/s network port a
GPU is that of NVIDIA's DGX H100; the model's sizes are those of Qwen2.5-7B's ``config.json``. The shares of the peaks
that a program reaches are ASSUMPTIONS, as are the lengths of the responses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.scale_model_pool import SEPARATE, Costs, Plan


@dataclass(frozen=True)
class Hardware:
    """One GPU. Peaks are published, ``*_frac`` are assumed."""

    name: str = "H100 SXM"
    flops_per_s: float = 989e12
    memory_bytes_per_s: float = 3.35e12
    network_bytes_per_s: float = 50e9
    train_flops_frac: float = 0.35
    prefill_flops_frac: float = 0.5
    decode_bytes_frac: float = 0.6
    network_frac: float = 0.5
    sync_latency_s: float = 1.0


@dataclass(frozen=True)
class Model:
    """A dense transformer in BF16."""

    name: str = "Qwen2.5-7B"
    num_parameters: float = 7.62e9
    num_layers: int = 28
    key_value_width: int = 512  # 4 key-value heads of 128

    @property
    def weight_bytes(self) -> float:
        return 2 * self.num_parameters

    @property
    def cache_bytes_per_token(self) -> float:
        return 2 * 2 * self.num_layers * self.key_value_width


@dataclass(frozen=True)
class Driver:
    """Serial seconds of the one driver process, measured on the CPU machine: see ``scale_model_fit``."""

    s_per_candidate: float
    s_per_rollout: float


@dataclass(frozen=True)
class Lengths:
    """Log-normal response lengths, cut at ``max_tokens``; assumed."""

    median_tokens: float = 900.0
    sigma: float = 0.8
    max_tokens: int = 3072

    def __call__(self, rng: np.random.Generator, size: int) -> NDArray[np.int64]:
        drawn = np.exp(np.log(self.median_tokens) + self.sigma * rng.standard_normal(size))
        return np.clip(np.round(drawn), 1, self.max_tokens).astype(np.int64)


def training_gpus(mode: str, num_gpus: int) -> int:
    """Three quarters where the pools are apart, which is about where both work equally long on these parameters."""
    return num_gpus * 3 // 4 if mode == SEPARATE else num_gpus


def layout(mode: str, num_gpus: int, *, prompts_per_gpu: int = 16, tensor_parallel: int = 2) -> Plan:
    """The batch grows with the cluster: K = 16 prompts a GPU, 8 rollouts each, |B| = 5 K."""
    rollout_gpus = num_gpus - training_gpus(mode, num_gpus) if mode == SEPARATE else num_gpus
    return Plan(
        mode=mode,
        num_selected=prompts_per_gpu * num_gpus,
        rollouts_per_prompt=8,
        candidate_ratio=5.0,
        prompt_tokens=150,
        num_replicas=rollout_gpus // tensor_parallel,
        max_sequences=256,
        max_staleness=4,
    )


def costs(plan: Plan, num_gpus: int, hardware: Hardware, model: Model, driver: Driver, *, context: float) -> Costs:
    """Roofline costs of a replica and of the trainer.

    Args:
        context: tokens that a decoding sequence holds on average.
    """
    train_gpus = training_gpus(plan.mode, num_gpus)
    replica_gpus = (num_gpus - train_gpus if plan.mode == SEPARATE else num_gpus) / plan.num_replicas
    decode_bytes_per_s = replica_gpus * hardware.memory_bytes_per_s * hardware.decode_bytes_frac
    prefill_flops_per_s = replica_gpus * hardware.flops_per_s * hardware.prefill_flops_frac
    train_flops_per_s = train_gpus * hardware.flops_per_s * hardware.train_flops_frac
    # Forward and backward (6 FLOP a parameter and token), activations computed again (2), old log-probs (2).
    train_flops = (6 + 2 + 2) * model.num_parameters
    network_bytes_per_s = hardware.network_bytes_per_s * hardware.network_frac
    return Costs(
        prefill_s_per_token=2 * model.num_parameters / prefill_flops_per_s,
        iteration_s=model.weight_bytes / decode_bytes_per_s,
        sequence_s=model.cache_bytes_per_token * context / decode_bytes_per_s,
        train_s_per_token=train_flops / train_flops_per_s,
        # Each rollout GPU receives its share of the weights; every replica at once.
        sync_s=hardware.sync_latency_s + model.weight_bytes / replica_gpus / network_bytes_per_s,
        driver_s_per_candidate=driver.s_per_candidate,
        driver_s_per_rollout=driver.s_per_rollout,
    )
