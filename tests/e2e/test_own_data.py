"""From a file of two columns and a reward function to a trained step, by the two commands of docs/your_data.md."""

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from real_stack import ROOT, launch

pytestmark = pytest.mark.e2e

PAGE = (ROOT / "docs/your_data.md").read_text(encoding="utf-8")
MAX_S = 180.0


def test_two_commands_lead_to_the_first_trained_step(tmp_path: Path) -> None:
    rows = pq.read_table(ROOT / "assets/mini-math/mini_math_train.parquet").slice(0, 120).to_pylist()
    texts = [{"question": r["prompt"][0]["content"], "answer": int(r["reward_model"]["ground_truth"])} for r in rows]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    (tmp_path / "reward.py").write_text(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0])
    prepare, train = re.findall(r"^(?:python -m data_prep own|bash run_qwen.sh) (.*)$", PAGE, re.MULTILINE)[:2]
    begin = time.monotonic()
    # The mini model knows the bare question.
    command = [sys.executable, "-m", "data_prep", "own", *shlex.split(prepare), "--instruction", ""]
    made = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert f"user: {texts[0]['question']}\n" in made
    overrides = [re.sub(r"=(data/|reward\.py)", rf"={tmp_path}/\1", each) for each in shlex.split(train)]
    limits = ["trainer.total_training_steps=1", "trainer.val_before_train=False", "trainer.save_freq=-1"]
    run = launch(tmp_path / "run", [*overrides, *limits])
    assert time.monotonic() - begin < MAX_S
    (line,) = run.steps.values()
    assert line["critic/rewards/mean"] > 0
    assert all(each["prompt_id"].startswith("my/") for each in run.lines("audit/rollouts.jsonl"))
