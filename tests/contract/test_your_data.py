"""The commands of docs/your_data.md, on files such as the page describes. The training itself is in tests/e2e."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main as prepare
from recipe.prepo.doctor import main as doctor

PAGE = (Path(__file__).parents[2] / "docs/your_data.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
NUM_ROWS = 120  # one step of experiment=tiny_cpu takes 80, the page's own files leave out 20


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [(f"What is {i} + 1?", i + 1) for i in range(NUM_ROWS)]
    chat = [[{"role": "user", "content": question}] for question, _ in rows]
    verl = [
        {"data_source": "d", "prompt": prompt, "reward_model": {"style": "rule", "ground_truth": str(a)}}
        for prompt, (_, a) in zip(chat, rows, strict=True)
    ]
    lines: dict[str, list[Any]] = {
        "my.jsonl": [{"question": q, "answer": a} for q, a in rows],
        "nested.jsonl": [{"item": {"text": q, "gold": a}, "key": f"k{a}"} for q, a in rows],
        "chat.jsonl": [
            {"messages": [m], "answer": [a, f"{a}.0"], "tests": ["x"]} for [m], (_, a) in zip(chat, rows, strict=True)
        ],
        "chat_key.jsonl": [{**{k: v for k, v in row.items() if k != "prompt"}, "chat": row["prompt"]} for row in verl],
    }
    for name, objects in lines.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in objects))
    (tmp_path / "my.csv").write_text("Question;Correct answer\n" + "".join(f"{q};{a}\n" for q, a in rows))
    pq.write_table(pa.Table.from_pylist(verl), tmp_path / "verl.parquet")
    (tmp_path / "reward.py").write_text(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_of_the_page_works(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        program, _, arguments = command.partition(" own ") if " own " in command else command.partition(" experiment=")
        if program == "python -m data_prep":
            assert prepare(["own", *shlex.split(arguments)]) == 0, command
        else:  # what the doctor accepts trains; tests/e2e trains with these files
            assert program in ("python -m recipe.prepo.doctor", "bash run_qwen.sh"), command
            assert doctor(shlex.split(f"experiment={arguments}")) == 0, command
        assert capsys.readouterr().err == ""
    assert pq.read_table(files / "data/my_test.parquet").num_rows == 20
    row = pq.read_table(files / "data/chat_train.parquet").to_pylist()[0]
    assert row["prompt"][0] == {"role": "system", "content": "You are careful."}
    assert (row["extra_info"]["tests"], row["reward_model"]["ground_truth"]) == (["x"], '["1", "1.0"]')
    assert pq.read_table(files / "data/nested_train.parquet")["extra_info"][0]["prompt_id"].as_py() == "nested/k1"
