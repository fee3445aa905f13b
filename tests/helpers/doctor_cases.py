"""Files that the doctor's tests name, and configurations that it accepts, each of which a real run starts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recipe.prepo.verl_checks import PLAIN_TEMPLATE

ASSETS = Path(__file__).parents[2] / "assets"
BROKEN = "import nowhere_to_be_found\n"
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
REWARD, TOOLS_PATH = "reward.custom_reward_function", f"{ROLLOUT}.multi_turn.function_tool_path"
EIGHT = f"data.train_batch_size=8 {ACTOR}.ppo_mini_batch_size=8"
# {} is the folder of the files.
ACCEPTED = {
    "objective": f"""
        {ACTOR}.use_kl_loss=true {ACTOR}.kl_loss_type=k3+ {ACTOR}.loss_agg_mode=token-mean
        {ACTOR}.policy_loss.loss_mode=gspo {ACTOR}.optim.lr_scheduler_type=cosine algorithm.adv_estimator=rloo
        data.train_batch_size=32 {REWARD}.path={{}}/graders.py {REWARD}.name=accepts""".split(),
    "tools": f"""
        method=mopps data.train_files={{}}/tool.parquet data.max_prompt_length=768 {TOOLS_PATH}={{}}/tools.py
        {MODEL}.lora_rank=8 {EIGHT}""".split(),
    "model": [
        *f"{MODEL}.path={{}}/no_template {ROLLOUT}.max_model_len=144 data.train_files={{}}/long.parquet".split(),
        *f"trainer.resume_mode=disable trainer.logger=[console,file] {EIGHT}".split(),
        f"{MODEL}.custom_chat_template={PLAIN_TEMPLATE}",
    ],
}


def write_files(folder: Path) -> None:
    """Rows, models, rewards and tools."""
    rows = pq.read_table(ASSETS / "mini-math/mini_math_train.parquet").slice(0, 200).to_pylist()

    def write(name: str, change: Callable[[int, Any], Any]) -> None:
        pq.write_table(
            pa.Table.from_pylist([change(i, dict(row)) for i, row in enumerate(rows)]), folder / f"{name}.parquet"
        )

    write("rows", lambda i, row: row)
    write("tool", lambda i, row: row | {"agent_name": "tool_agent"})
    write("unknown_loop", lambda i, row: row | {"agent_name": "my_agent"})
    write(
        "long",
        lambda i, row: row | {"prompt": [{"role": "user", "content": "Omar counts apples. " * (i % 4 * 20 + 1)}]},
    )
    for name, changed in (("no_template", "tokenizer_config.json"), ("no_tokenizer", "config.json")):
        shutil.copytree(ASSETS / "mini-math-qwen2", folder / name)
        settings = json.loads((folder / name / changed).read_text(encoding="utf-8"))
        settings.pop("chat_template", None)
        settings |= {"model_type": "none_such"} if name == "no_tokenizer" else {}
        (folder / name / changed).write_text(json.dumps(settings), encoding="utf-8")
        (folder / name / "chat_template.jinja").unlink(missing_ok=True)
    for name, text in (("graders", GRADERS), ("broken", BROKEN), ("tools", TOOLS)):
        (folder / f"{name}.py").write_text(text, encoding="utf-8")


def overrides(folder: Path, own: list[str]) -> list[str]:
    """The tiny model for two steps on a few rows, with ``own`` overrides."""
    start = ["experiment=tiny_cpu", f"data.train_files={folder}/rows.parquet", "trainer.total_training_steps=2"]
    return [*start, *(override.replace("{}", str(folder)) for override in own)]
