"""Each check of the doctor refuses the bad value with the override that fixes it, and accepts that one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from composed import composed
from omegaconf import OmegaConf

from recipe.prepo import preflight, verl_checks
from recipe.prepo.doctor import diagnose
from recipe.prepo.errors import PrepoError

ASSETS = Path(__file__).parents[2] / "assets"
REWARDS = '''
import nowhere_to_be_found
'''
GRADERS = """
def accepts(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    return {"score": 0.9, "acc": 1.0}

def nothing(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    return None
"""
TOOLS = '''
from verl.tools.function_tool import function_tool

@function_tool()
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the first.
        b: the second.
    """
    return a + b
'''
ACTOR, MODEL, ROLLOUT = (f"actor_rollout_ref.{part}" for part in ("actor", "model", "rollout"))
REWARD, TOOL_PATH = "reward.custom_reward_function", "actor_rollout_ref.rollout.multi_turn.function_tool_path"
TWO_GPUS, EIGHT_GPUS = "trainer.n_gpus_per_node=2", "trainer.n_gpus_per_node=8"
# What is refused, what the message names, and the overrides that are accepted in its place. {} is the folder of files.
CASES: list[tuple[list[str], list[str], list[str]]] = [
    (["custom_reward_function.path={}/graders.py"], [f"{REWARD}.path={{}}/graders.py"], []),
    (["reward_model.reward_manager=dapo"], ["reward.reward_manager.name=dapo"], ["reward.reward_manager.name=dapo"]),
    (["+reward_model.reward_kwargs.max_resp_len=9"], ["set reward.reward_kwargs.max_resp_len=9"], []),
    (["sandbox_fusion.url=http://localhost"], ["reward.sandbox_fusion.url=http://localhost"], []),
    (["trainer.v1.trainer_mode=colocate_async"], ["trainer.v1.trainer_mode=prepo_colocate_async"], []),
    (["algorithm.adv_estimator=gae"], ["a critic", "algorithm.adv_estimator=grpo"], ["algorithm.adv_estimator=rloo"]),
    (["algorithm.adv_estimator=gpro"], ["knows grpo", "Set algorithm.adv_estimator=grpo"], []),
    (["critic.enable=true"], ["critic.enable=False"], ["critic.enable=false"]),
    ([f"{ACTOR}.loss_agg_mode=tokenmean"], [f"{ACTOR}.loss_agg_mode=token-mean"], [f"{ACTOR}.loss_agg_mode=token-mean"]),
    ([f"{ACTOR}.policy_loss.loss_mode=gsp"], ["loss_mode=gspo"], [f"{ACTOR}.policy_loss.loss_mode=gspo"]),
    ([f"{ACTOR}.kl_loss_type=low_var"], ["kl_loss_type=low_var_kl"], [f"{ACTOR}.kl_loss_type=k3+"]),
    (["reward.reward_manager.name=naiv"], ["reward.reward_manager.name=naive"], []),
    ([f"{ROLLOUT}.agent.default_agent_loop=single_turn"], ["single_turn_agent"], []),
    (["trainer.resume_mode=Disable"], ["trainer.resume_mode=disable"], ["trainer.resume_mode=disable"]),
    ([f"{ROLLOUT}.mode=sync"], ["verl 0.9.1 refuses", "mode=async"], [f"{ROLLOUT}.mode=async"]),
    ([f"{ACTOR}.optim.lr_scheduler_type=linear"], ["verl 0.9.1 refuses"], [f"{ACTOR}.optim.lr_scheduler_type=cosine"]),
    (["data.train_batch_size=8"], [f"{ACTOR}.ppo_mini_batch_size=8"], ["data.train_batch_size=32"]),
    ([TWO_GPUS, "data.train_batch_size=3", f"{ACTOR}.ppo_mini_batch_size=3", f"{ROLLOUT}.n=3"], ["=6"], [TWO_GPUS]),
    ([f"{ROLLOUT}.tensor_model_parallel_size=16", EIGHT_GPUS], ["pool of 8"], [f"{ROLLOUT}.tensor_model_parallel_size=2", EIGHT_GPUS]),
    ([f"{ROLLOUT}.tensor_model_parallel_size=8", EIGHT_GPUS], ["attention heads"], []),
    ([f"{ROLLOUT}.log_prob_use_dynamic_bsz=false"], ["log_prob_use_dynamic_bsz=True"], []),
    (["data.max_response_length=4096"], ["4096 tokens", "data.max_response_length=4000"], ["data.max_response_length=4000"]),
    (["data.max_prompt_length=5000"], ["data.max_prompt_length=4048"], []),
    ([f"{ROLLOUT}.max_model_len=100"], ["data.max_response_length=4"], [f"{ROLLOUT}.max_model_len=144"]),
    ([f"{ROLLOUT}.max_model_len=5000"], [f"{ROLLOUT}.max_model_len=4096"], []),
    ([f"{MODEL}.path={{}}/no_template"], [f"{MODEL}.custom_chat_template="], [f"{MODEL}.path={{}}/no_template", f"{MODEL}.custom_chat_template={verl_checks.PLAIN_TEMPLATE}"]),
    ([f"{MODEL}.path={{}}/no_tokenizer"], ["verl cannot load it"], []),
    ([f"{MODEL}.lora_rank=1024"], [f"{MODEL}.lora_rank=64"], [f"{MODEL}.lora_rank=8"]),
    ([f"{REWARD}.path={{}}/broken.py"], ["nowhere_to_be_found", "broken.py:2"], []),
    ([f"{REWARD}.path={{}}/graders.py"], ["no such function, only accepts, nothing"], [f"{REWARD}.path={{}}/graders.py", f"{REWARD}.name=accepts"]),
    ([f"{REWARD}.path={{}}/graders.py", f"{REWARD}.name=nothing"], ["nothing of", "returned None"], []),
    ([f"{REWARD}.path=null"], ["data_source='mini_math'", f"Set {REWARD}.path=<your file>"], []),
    (["data.train_files={}/tool.parquet"], ["tool_agent", "prepo/selection=uniform"], ["data.train_files={}/tool.parquet", "prepo/selection=uniform", f"{TOOL_PATH}={{}}/tools.py", "data.max_prompt_length=512"]),
    (["data.train_files={}/tool.parquet", "prepo/selection=uniform", "prepo.score_candidates=always"], ["prepo.score_candidates=auto"], []),
    (["data.train_files={}/unknown_loop.parquet", "prepo/selection=uniform"], ["my_agent", "agent_loop_config_path"], []),
    (["prepo/selection=uniform", f"{TOOL_PATH}={{}}/broken.py"], ["the tools do not load", "nowhere_to_be_found"], []),
    (["data.train_files={}/long.parquet"], ["150 of 200", "data.max_prompt_length=96", "50 prompts"], ["data.train_files={}/long.parquet", "data.train_batch_size=8", f"{ACTOR}.ppo_mini_batch_size=8"]),
    (["trainer.logger=[tensorbord]"], ["trainer.logger=[console]"], ["trainer.logger=[console,file]"]),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, models, rewards and tools as the cases name them."""
    folder = tmp_path_factory.mktemp("doctor")
    rows = pq.read_table(ASSETS / "mini-math/mini_math_train.parquet").slice(0, 200).to_pylist()

    def write(name: str, change: Callable[[int, Any], Any]) -> None:
        pq.write_table(pa.Table.from_pylist([change(i, dict(row)) for i, row in enumerate(rows)]), folder / f"{name}.parquet")

    write("rows", lambda i, row: row)
    write("tool", lambda i, row: row | {"agent_name": "tool_agent"})
    write("unknown_loop", lambda i, row: row | {"agent_name": "my_agent"})
    write("long", lambda i, row: row | {"prompt": [{"role": "user", "content": "Omar counts apples. " * (i % 4 * 20 + 1)}]})
    for name, changed in (("no_template", "tokenizer_config.json"), ("no_tokenizer", "config.json")):
        shutil.copytree(ASSETS / "mini-math-qwen2", folder / name)
        settings = json.loads((folder / name / changed).read_text(encoding="utf-8"))
        settings.pop("chat_template", None)
        settings |= {"model_type": "none_such"} if name == "no_tokenizer" else {}
        (folder / name / changed).write_text(json.dumps(settings), encoding="utf-8")
        (folder / name / "chat_template.jinja").unlink(missing_ok=True)
    for name, text in (("graders", GRADERS), ("broken", REWARDS), ("tools", TOOLS)):
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def doctor(files: Path, overrides: list[str]) -> list[str]:
    start = ["experiment=tiny_cpu", f"data.train_files={files}/rows.parquet", "trainer.total_training_steps=2"]
    return diagnose([*start, *(override.format(files) if "{}" in override else override for override in overrides)])


@pytest.mark.parametrize(("refused", "named", "accepted"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_the_doctor_refuses_and_accepts(files: Path, refused: list[str], named: list[str], accepted: list[str]) -> None:
    with pytest.raises(PrepoError) as error:
        doctor(files, refused)
    message = str(error.value)
    assert [text for text in named if text.replace("{}", str(files)) not in message] == [], message
    assert "\n" not in message
    if accepted:
        assert doctor(files, accepted)[-1] == "ok: this run would start"
