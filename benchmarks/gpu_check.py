"""Check a GPU: bf16 against float64, the cost of scoring beside generating, the real stack against stock verl.

``bash scripts/gpu_check.sh`` or ``python -m benchmarks.gpu_check [--size math-1.5b|tiny] [--device cuda|cpu]
[--rounds N] [--skip-stack]``. No network and no weights to download: the model is randomly initialised. Each part runs
in its own process. What cannot run here is reported as "not measured", with the reason. Table on stdout, figures in
outputs/bench/gpu_check.json. Exit status 1 when a part failed, 2 when the arguments or the environment cannot work.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu_cost import measure_transformers, measure_vllm
from benchmarks.gpu_numerics import PROGRESS, SEED, SIZES, measure_numerics

STACK_STEPS = 20
# The tiny model as GPU experiments run: bf16, CUDA graphs, servers that sleep while the actor trains.
STACK_OVERRIDES = [
    "trainer.device=cuda",
    "prepo.seed_rollouts=false",
    *(f"actor_rollout_ref.actor.fsdp_config.mixed_precision.{name}_dtype=fp32" for name in ("reduce", "buffer")),
    "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=bf16",
    "actor_rollout_ref.rollout.dtype=bfloat16",
    "actor_rollout_ref.rollout.enforce_eager=false",
    "actor_rollout_ref.rollout.enable_chunked_prefill=true",
    "actor_rollout_ref.rollout.free_cache_engine=true",
    "actor_rollout_ref.rollout.enable_sleep_mode=true",
]
PARTS = {
    "numerics": "bf16 against float64",
    "transformers": "cost with transformers",
    "vllm": "cost with vLLM",
    "stack": "the real stack against stock verl",
}
NEEDS = {"numerics": [], "transformers": [], "vllm": ["vllm"], "stack": ["verl", "vllm", "ray"]}


def measure_stack(out: Path) -> dict[str, Any]:
    """One pair of runs of ``benchmarks.overhead`` with the tiny model on the GPU."""
    from benchmarks import overhead

    folder = out / "gpu_check_stack"
    overhead.main(["--pairs", "1", "--steps", str(STACK_STEPS), "--out", str(folder), *STACK_OVERRIDES])
    (pair,) = json.loads((folder / "overhead.json").read_text())
    return {"num_steps": STACK_STEPS, "median_s": pair, "added_to_stock_step_frac": overhead.overheads(pair)}


def installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def why_not(part: str, arguments: argparse.Namespace) -> str | None:
    """The reason not to measure a part here, None when it can be."""
    if part == "stack" and arguments.skip_stack:
        return "--skip-stack"
    if NEEDS[part] and arguments.device == "cpu":
        return "it needs a GPU, and this is --device cpu"
    missing = [name for name in NEEDS[part] if installed(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed in {sys.executable}"
    if "verl" in NEEDS[part]:
        from recipe.prepo.preflight import VERL_VERSION

        if installed("verl") != VERL_VERSION:
            return f"verl is {installed('verl')}; this recipe hooks into {VERL_VERSION}"
    return None


def run_part(part: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a part in its own process, so that memory and crashes stay there; its output goes to stderr."""
    reason = why_not(part, arguments)
    if reason:
        return {"not_measured": reason, "failed": False}
    print(f"measuring: {PARTS[part]} …", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        own = ["--part", part, "--result", str(result), "--out", str(arguments.out)]
        options = ["--size", arguments.size, "--device", arguments.device, "--rounds", str(arguments.rounds)]
        command = [sys.executable, "-m", "benchmarks.gpu_check", *own, *options]
        status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
        if status or not result.exists():
            return {"not_measured": f"it failed with exit status {status}; its messages are above", "failed": True}
        return json.loads(result.read_text())


def measure(part: str, arguments: argparse.Namespace) -> dict[str, Any]:
    size, device, rounds = SIZES[arguments.size], arguments.device, arguments.rounds
    if part == "numerics":
        return measure_numerics(size, device)
    if part == "stack":
        return measure_stack(arguments.out)
    return {"transformers": measure_transformers, "vllm": measure_vllm}[part](size, device, rounds)


def numerics_table(numerics: dict[str, Any]) -> list[str]:
    """Root mean square and largest error of every figure, with the figure's mean and spread."""
    kinds, reference = numerics["errors"], numerics["reference"]
    heads = " | ".join(f"{kind}: rms, largest error" for kind in kinds)
    rows = [
        f"{numerics['num_prompts']} random prompts; float64 on {numerics['reference_device']}; standard deviation of "
        f"the logits {numerics['logit_std']:.2f} (initialisation scaled for it); peak memory "
        f"{numerics['peak_memory_gib']:.2f} GiB. bf16: bf16 model, float32 softmax. bf16_softmax: that in bf16 too.",
        "",
        f"| figure | float64: mean ± standard deviation | {heads} |",
        "|---|---|" + "---|" * len(kinds),
    ]
    for name, known in reference.items():
        errors = [f"{kind[name]['rms_error']:.1e}, {kind[name]['max_abs_error']:.1e}" for kind in kinds.values()]
        note = " (errors relative)" if name == "prompt_ppl" else ""
        rows.append(f"| {name}{note} | {known['mean']:.4g} ± {known['std']:.2g} | {' | '.join(errors)} |")
    ranks = " | ".join(f"{kind['spearman']:.6f}" for kind in kinds.values())
    rows.append(f"| Spearman of the prompts' ranking | 1 | {ranks} |")
    for progress in map(str, PROGRESS):
        changed = " | ".join(f"{kind['num_chosen_changed'][progress]}" for kind in kinds.values())
        rows.append(
            f"| chosen prompts that change at progress {progress} | of {kinds['bf16']['num_chosen']} | {changed} |"
        )
    return rows


def cost_table(cost: dict[str, Any]) -> list[str]:
    rows = [
        f"peak memory: {cost['peak_memory_is']}",
        "",
        "| side | tokens | min s | median s | max s | tokens/s | peak memory GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("scoring", "generating"):
        row = cost[name]
        times = f"{min(row['seconds']):.3f} | {row['median_s']:.3f} | {max(row['seconds']):.3f}"
        rows.append(
            f"| {name} | {row['num_tokens']} | {times} | {row['tokens_per_s']:.0f} | {row['peak_memory_gib']:.2f} |"
        )
    share = cost["scoring_over_generating"]
    return [*rows, "", "scoring / generating: median {median:.1%} (min {min:.1%}, max {max:.1%})".format(**share)]


def stack_table(stack: dict[str, Any]) -> list[str]:
    sides = stack["median_s"]
    rows = [
        f"{stack['num_steps']} steps a side, the tiny model",
        "",
        "| phase, median s | stock | prepo |",
        "|---|---|---|",
    ]
    for phase in sorted({phase for side in sides.values() for phase in side}):
        rows.append(f"| {phase} | {sides['stock'].get(phase, 0.0):.4f} | {sides['prepo'].get(phase, 0.0):.4f} |")
    added = ", ".join(f"{name} {share:.1%}" for name, share in stack["added_to_stock_step_frac"].items())
    return [*rows, "", f"added to a stock step: {added}"]


def section(part: str, figures: dict[str, Any]) -> str:
    """A part's figures, or the reason why there are none."""
    draw = {"numerics": numerics_table, "transformers": cost_table, "vllm": cost_table, "stack": stack_table}
    reason = figures.get("not_measured")
    rows = [f"not measured: {reason}"] if reason else draw[part](figures)
    return "\n".join(["", f"## {PARTS[part]}", "", *rows])


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="math-1.5b")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=positive, default=3, help="timed rounds of each cost, at least 1 (default 3)")
    parser.add_argument("--skip-stack", action="store_true", help="leave out the runs of the real stack")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    os.environ["HF_HUB_OFFLINE"] = "1"
    if arguments.part:
        arguments.result.write_text(json.dumps(measure(arguments.part, arguments)))
        return 0

    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(
            f"error: torch {torch.__version__} of {sys.executable} sees no GPU, so nothing can be measured on one. "
            f"Activate an environment with a GPU build of torch; --device cpu --size tiny tries the check itself.",
            file=sys.stderr,
        )
        return 2
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else platform.machine()
    versions = {package: installed(package) or "none" for package in ("torch", "transformers", "vllm", "verl")}
    result: dict[str, Any] = {
        "machine": {"device": name, "python": platform.python_version(), **versions},
        "size_name": arguments.size,
        "size": asdict(SIZES[arguments.size]),
        "rounds": arguments.rounds,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"GPU check: {', '.join(f'{name} {value}' for name, value in result['machine'].items())}")
    shape = ", ".join(f"{name} {value}" for name, value in result["size"].items())
    print(f"size {arguments.size}: {shape}; seed {SEED}; {arguments.rounds} rounds")
    for part in PARTS:  # printed one by one, so that an interrupted run keeps its results
        result[part] = run_part(part, arguments)
        (arguments.out / "gpu_check.json").write_text(json.dumps(result, indent=1) + "\n")
        print(section(part, result[part]), flush=True)
    return int(any(result[part].get("failed") for part in PARTS))


if __name__ == "__main__":
    sys.exit(main())
