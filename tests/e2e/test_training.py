"""PREPO on the real stack: what a run leaves, that it learns, and that a resumed run makes the same choices."""

from collections import Counter, defaultdict

import pandas as pd
import pytest
import torch
from real_stack import ROOT, Run, check_audit
from tracker_records import CONTRACT, json_lines_history, mlflow_history, tensorboard_history, wandb_text
from transformers import AutoModelForCausalLM, AutoTokenizer

pytestmark = pytest.mark.e2e
MODEL = ROOT / "assets" / "mini-math-qwen2"


def test_leaves_every_file_of_the_contract(straight_run: Run) -> None:
    names = ["config.yaml", "metrics.jsonl", "audit/selection.jsonl", "audit/rollouts.jsonl", "report/index.html"]
    names += ["global_step_2/prepo_state.json", "global_step_4/prepo_state.json", "global_step_4/actor"]
    assert [name for name in names if not (straight_run.directory / name).exists()] == []
    assert list((straight_run.directory / "report").glob("*.png"))
    assert "trainer_mode: prepo_sync" in (straight_run.directory / "config.yaml").read_text()
    assert str(straight_run.directory / "report" / "index.html") in straight_run.output


def test_every_tracker_has_every_metric(straight_run: Run) -> None:
    directory = straight_run.directory
    logged = json_lines_history(directory / "metrics.jsonl")
    run, mlflow = mlflow_history(f"sqlite:///{directory / 'mlflow.db'}", "prepo")
    assert (run.info.status, run.data.params["data/train_batch_size"]) == ("FINISHED", "8")
    assert all(name.encode() in wandb_text(directory) for name in CONTRACT)
    for history in (
        tensorboard_history(directory / "tensorboard"),
        {step: {name.replace("_at_", "@"): v for name, v in data.items()} for step, data in mlflow.items()},
        json_lines_history(directory / "file.jsonl"),
    ):
        for step, data in logged.items():
            assert set(data) <= set(history[step]), step
        for step in (1, 2, 3, 4):
            assert not [name for name in CONTRACT if name not in history[step]], step
            assert history[step]["prepo/rollouts_total/max"] == 32 * step


def test_each_step_stands_once_with_the_metrics_of_the_contract(straight_run: Run) -> None:
    assert [line["step"] for line in straight_run.lines("metrics.jsonl")] == [0, 1, 2, 3, 4]
    for step, data in straight_run.steps.items():
        assert not [name for name in CONTRACT if name not in data], step
        assert data["prepo/candidates/sum"] == 40
        assert data["prepo/selected/sum"] == 8
        assert data["prepo/rollouts/sum"] == 32
        assert data["prepo/rollouts_total/max"] == 32 * step
        assert data["prepo/weight/mean"] == pytest.approx(1, abs=1e-6)
        assert data["prepo/weight/min"] >= 0
        assert 0.05 < data["prepo/entropy_nats/mean"] < 3
        assert data["actor/grad_norm"] > 0
        # The server and the actor hold the same weights: same text, nearly the same probabilities.
        assert data["training/rollout_probs_diff_mean"] < 0.02
    assert [data["prepo/progress/mean"] for data in straight_run.steps.values()] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_audit_lines_agree_with_metrics_data_and_group_advantages(straight_run: Run) -> None:
    assert check_audit(straight_run).startswith("ok: 4 choices and 128 rollouts")
    train = pd.read_parquet(ROOT / "assets" / "mini-math" / "mini_math_train.parquet")
    known = {info["prompt_id"] for info in train["extra_info"]}
    choices = {line["step"]: line for line in straight_run.lines("audit/selection.jsonl")}
    rollouts = defaultdict(list)
    for line in straight_run.lines("audit/rollouts.jsonl"):
        rollouts[line["step"]].append(line)
    seen: Counter = Counter()
    for step, choice in choices.items():
        seen.update(candidate["prompt_id"] for candidate in choice["candidates"])
        assert Counter(line["prompt_id"] for line in rollouts[step]) == Counter(choice["rollout_n"])
        for prompt_id in choice["selected"]:
            group = [line for line in rollouts[step] if line["prompt_id"] == prompt_id]
            reward = torch.tensor([line["reward"] for line in group])
            expected = (reward - reward.mean()) / (reward.std() + 1e-6)
            assert [line["advantage"] for line in group] == pytest.approx(expected.tolist(), abs=1e-5)
            assert sorted(line["rollout"] for line in group) == list(range(4))
        tokens = sum(line["num_tokens"] for line in rollouts[step])
        before = straight_run.steps[step - 1]["prepo/response_tokens_total/max"] if step > 1 else 0
        assert tokens == straight_run.steps[step]["prepo/response_tokens_total/max"] - before
    # Within an epoch every candidate is new: each step consumes |B| prompts of the data.
    assert set(seen) <= known and max(seen.values()) == 1 and len(seen) == 160


def test_scores_are_those_of_the_model_on_the_chat_template(straight_run: Run) -> None:
    """The first step's candidates, scored again with plain transformers on the weights that the run began with."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    train = pd.read_parquet(ROOT / "assets" / "mini-math" / "mini_math_train.parquet")
    messages = {row.extra_info["prompt_id"]: list(row.prompt) for row in train.itertuples()}
    for candidate in straight_run.lines("audit/selection.jsonl")[0]["candidates"]:
        text = tokenizer.apply_chat_template(
            messages[candidate["prompt_id"]], add_generation_prompt=True, tokenize=False
        )
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            log_probs = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])
        assert candidate["num_tokens"] == ids.shape[1] - 1
        assert candidate["nll_nats"] == pytest.approx(-log_probs.mean().item(), abs=1e-3)
