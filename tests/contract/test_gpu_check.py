"""scripts/gpu_check.sh: what it says without a GPU, and the check itself in its small size on the CPU."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stand_ins import executable, path_folder

from benchmarks.gpu_numerics import SIZES

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/gpu_check.sh"
# What the scripts call; a GPU's tools and Python are left out on purpose.
TOOLS = ("bash", "cat", "cut", "dirname", "env", "grep", "sed", "sha256sum", "tail", "timeout", "uname")
ROUNDS = 2
KINDS = ("bf16", "bf16_softmax", "float32")
ENTROPIES = ("token_entropy_nats", "rollout_entropy_nats", "rollout_weight")
FIGURES = ["prompt_nll_nats", "prompt_ppl", *(f"{name}_T{t}" for t in ("0.7", "1.0", "1.3") for name in ENTROPIES)]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return path_folder(tmp_path_factory.mktemp("bin"), TOOLS)


def gpu_check(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path, "HOME": os.environ.get("HOME", "/"), "OMP_NUM_THREADS": "1"}
    command = ["bash", str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.skipif(
    any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists(), reason="this machine has a GPU device"
)
def test_without_a_gpu_one_line_says_so(tools: Path, tmp_path: Path) -> None:
    done = gpu_check(str(tools), "--out", str(tmp_path / "bench"))
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert "not measured" in line and "no GPU" in line
    assert not (tmp_path / "bench").exists()


def test_table_and_json_have_every_figure(tools: Path, tmp_path: Path) -> None:
    """Started in the small size, with a PATH whose only Python is this one."""
    python = tmp_path / "python"
    python.mkdir()
    executable(python / "python3", f'exec "{sys.executable}" "$@"')
    options = ("--device", "cpu", "--size", "tiny", "--rounds", str(ROUNDS), "--out", str(tmp_path))
    done = gpu_check(f"{python}:{tools}", *options)
    assert done.returncode == 0, done.stderr
    table, result = done.stdout, json.loads((tmp_path / "gpu_check.json").read_text())
    size, numerics, cost = SIZES["tiny"], result["numerics"], result["transformers"]
    for name in FIGURES:
        assert f"\n| {name}" in table and math.isfinite(numerics["reference"][name]["mean"])
        assert all(math.isfinite(numerics["errors"][kind][name]["rms_error"]) for kind in KINDS)
    assert cost["scoring"]["num_tokens"] == size.num_candidates * size.prompt_tokens
    num_rollouts = size.num_selected * size.rollouts_per_prompt
    assert cost["generating"]["num_tokens"] == num_rollouts * size.response_tokens
    for side in ("scoring", "generating"):
        row = cost[side]
        assert f"\n| {side} | {row['num_tokens']} |" in table
        assert len(row["seconds"]) == ROUNDS and min(row["seconds"]) > 0
        assert row["tokens_per_s"] == pytest.approx(row["num_tokens"] / row["median_s"])
    for part in ("vllm", "stack"):
        assert "--device cpu" in result[part]["not_measured"]
    assert table.count("not measured: it needs a GPU") == 2

    for name in FIGURES:  # bf16 differs from float64 by a little
        errors, reference = numerics["errors"], numerics["reference"][name]
        spread = reference["std"] / (reference["mean"] if name == "prompt_ppl" else 1.0)
        for kind in ("bf16", "bf16_softmax"):
            assert 1e-6 * spread < errors[kind][name]["rms_error"] < 0.1 * spread
        # A reference that rounded somewhere to float32 or less would be as far from float32 as from bf16.
        assert errors["float32"][name]["rms_error"] < 1e-2 * errors["bf16"][name]["rms_error"]
    assert 0.95 < errors["bf16"]["spearman"] < errors["float32"]["spearman"] <= 1.0
