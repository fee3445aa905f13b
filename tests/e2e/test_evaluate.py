"""`evaluate` and `analyze` through vLLM on the tiny model: each fixture is one call, each test a question to it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from real_stack import ROOT, Run
from transformers import AutoModelForCausalLM, AutoTokenizer
from verl.trainer.ppo.v1.trainer_base import collate_fn
from verl.utils import tensordict_utils
from verl.utils.dataset.rl_dataset import RLHFDataset

from recipe.prepo.cpu import cpu_environment
from recipe.prepo.doctor import compose_config
from recipe.prepo.errors import ConfigError
from recipe.prepo.maths.rng import rollout_seed
from recipe.prepo.tools.evaluation.models import find_model, loadable_folder
from recipe.prepo.trainer.hooks import set_val_samples

pytestmark = pytest.mark.e2e
MODEL = ROOT / "assets" / "mini-math-qwen2"
DATA = ROOT / "assets" / "mini-math" / "mini_math_test.parquet"
TIMEOUT_S = 900
NUM_SAMPLES = 16
NUM_PROMPTS = 300


def start(module: str, out: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"recipe.prepo.{module}", "--model", str(MODEL), "--data", str(DATA)]
    command += ["--out", str(out), "--samples", str(NUM_SAMPLES), "--max-tokens", "48", "--device", "cpu", *flags]
    environment = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def output_of(process: subprocess.Popen[str], status: int = 0) -> str:
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == status, output[-4000:]
    return output


def lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSON-lines file, which may be being written."""
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n") if path.exists() else ("", "", "")
    return [json.loads(line) for line in whole.split("\n") if line]


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("analyze") / "out"
    output_of(start("analyze", out))
    return out


def test_low_perplexity_goes_with_high_pass_rate(analyzed: Path) -> None:
    found = json.loads((analyzed / "analysis.json").read_text())["sets"]["mini_math_test"]
    assert found["num_prompts"] >= 300 and found["num_samples"] >= 16
    assert found["rho"]["rho"] < -0.3 and found["rho"]["high"] < 0 and "premise holds" in found["conclusion"]
    assert found["all_right_frac"] + found["all_wrong_frac"] + found["live_frac"] == pytest.approx(1)
    assert found["signal_frac"]["mean"] + found["right_groups_frac"] + found["wrong_groups_frac"] == pytest.approx(1)
    assert set(found["choosing"]["saving"]) == {"5", "20"}
    assert (analyzed / "perplexity_pass_rate.png").read_bytes().startswith(b"\x89PNG")


def test_perplexities_are_those_of_the_model(analyzed: Path) -> None:
    """Against a plain forward pass over the chat template's tokens, the first one unscored."""
    scored = {line["prompt_id"]: line for line in lines(analyzed / "prompts.jsonl")}
    assert len(scored) == NUM_PROMPTS
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rows = RLHFDataset([str(DATA)], tokenizer, compose_config(["experiment=tiny_cpu"]).data).dataframe
    for row in [rows[index] for index in range(0, NUM_PROMPTS, 30)]:
        ids = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        tokens = torch.tensor([ids])
        with torch.inference_mode():
            nll = torch.nn.functional.cross_entropy(model(input_ids=tokens).logits[0, :-1], tokens[0, 1:]).item()
        line = scored[row["extra_info"]["prompt_id"]]
        assert line["num_tokens"] == len(ids) - 1
        assert line["nll_nats"] == pytest.approx(nll, abs=1e-4)


@pytest.mark.slow
def test_an_interrupted_call_ends_with_the_samples_of_an_uninterrupted_one(analyzed: Path, tmp_path: Path) -> None:
    """The seed is of the sample, whatever is sampled beside it. (Sums of floats in another order may turn a choice
    between two tokens.) A finished folder needs no vLLM, and refuses another setting."""
    out, deadline = tmp_path / "out", time.monotonic() + TIMEOUT_S
    process = start("evaluate", out)
    while len(lines(out / "generations.jsonl")) < 200 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # as at a time limit
    assert "the same call continues" in output_of(process, 130)
    before = (out / "generations.jsonl").read_bytes()
    num_before = before.count(b"\n")
    assert 0 < num_before < NUM_PROMPTS * NUM_SAMPLES
    assert f"{num_before:,} of 4,800 samples exist" in output_of(start("evaluate", out))
    after = (out / "generations.jsonl").read_bytes()
    assert after.startswith(before[: before.rfind(b"\n") + 1]) and after.count(b"\n") == NUM_PROMPTS * NUM_SAMPLES
    straight, again = (
        {(line["prompt_id"], line["sample"]): line for line in lines(folder / "generations.jsonl")}
        for folder in (analyzed, out)
    )
    assert straight.keys() == again.keys() and len(straight) == NUM_PROMPTS * NUM_SAMPLES
    assert all(line["seed"] == rollout_seed(0, 0, *key) for key, line in straight.items())
    assert np.mean([straight[key]["text"] == again[key]["text"] for key in straight]) > 0.99
    output = output_of(start("evaluate", out, "--k", "2,16"))
    assert "starting vLLM" not in output and "pass@2 %" in output
    output = output_of(start("evaluate", out, "--temperature", "0.6"), 2)
    assert "another sampling.temperature: 1.0 there, 0.6 now" in output and "Traceback" not in output


def test_a_verl_checkpoint_becomes_a_model_folder(
    straight_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are the actor's, in bfloat16, as verl's merger stores them."""
    for name, value in cpu_environment().items():
        monkeypatch.setenv(name, value)
    found = find_model(str(straight_run.directory / "global_step_4"))
    assert found.shards is not None
    merged = loadable_folder(found, tmp_path)
    weights = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).state_dict()
    actor = torch.load(found.shards / "model_world_size_1_rank_0.pt", map_location="cpu", weights_only=False)
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).state_dict()
    name = "model.layers.0.mlp.up_proj.weight"
    trained = actor[name].full_tensor() if hasattr(actor[name], "full_tensor") else actor[name]
    assert torch.equal(weights[name], trained.bfloat16().float())
    assert not torch.equal(weights[name], base[name].bfloat16().float())
    before = (merged / "model.safetensors").stat().st_mtime_ns
    assert loadable_folder(found, tmp_path) == merged
    assert (merged / "model.safetensors").stat().st_mtime_ns == before


def test_each_validation_set_gets_its_own_number_of_samples() -> None:
    """On verl's own data set, collation and batch: the column that `_validate` and the agent loop read."""
    config = compose_config(["experiment=tiny_cpu"]).data
    dataset = RLHFDataset([str(DATA)], AutoTokenizer.from_pretrained(MODEL), config)
    dataset.dataframe = dataset.dataframe.map(
        lambda row, index: {"data_source": "mini_math_easy" if index % 3 else "mini_math_hard"}, with_indices=True
    )
    set_val_samples(dataset, {}, default=2)
    assert "__rollout_n__" not in dataset[0]
    with pytest.raises(ConfigError, match=r"names aime24, but .* mini_math_easy, mini_math_hard"):
        set_val_samples(dataset, {"aime24": 16}, default=2)
    set_val_samples(dataset, {"mini_math_hard": 16}, default=2)
    batch = collate_fn([dataset[index] for index in range(6)])
    numbers = list(tensordict_utils.get_tensordict(batch)["__rollout_n__"])
    assert numbers == [16, 2, 2, 16, 2, 2] and {type(number) for number in numbers} == {int}
    with pytest.raises(ConfigError, match="column __rollout_n__ of their own"):
        set_val_samples(dataset, {"mini_math_hard": 4}, default=2)
