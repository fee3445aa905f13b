"""``data_prep own`` on the forms in which people have rows: what becomes of them, and what is said where none does."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from data_prep.common import DEFAULT_INSTRUCTION
from recipe.prepo.rows import validate_files

Row = dict[str, Any]
ASK = [{"role": "user", "content": "1+1?"}]
HUMAN = {"from": "human", "value": "1+1?"}
REPLY = {"role": "assistant", "content": r"It is \boxed{2}."}
TEXT = [{"role": "user", "content": f"1+1?\n{DEFAULT_INSTRUCTION}"}]
HASHED = "cfe29f43bcc21dd4"  # of "1+1?"


def own(source: Path, out: Path, *options: str) -> tuple[int, list[Row]]:
    status = main(["own", "--source", str(source), "--out", str(out), *options])
    paths = sorted(out.glob("*_train.parquet"))
    assert not paths or validate_files(paths).num_without_id == 0
    return status, [row for path in paths for row in pq.read_table(path).to_pylist()]


# name of the file, its content (rows, or text), the row's prompt and gold
FORMS: dict[str, tuple[str, Any, list[Row], str]] = {
    "text and number": ("my.jsonl", [{"question": "1+1?", "answer": 2.0}], TEXT, "2"),
    "verl, no prompt_id": (
        "my.parquet",
        [{"data_source": "my", "prompt": ASK, "reward_model": {"ground_truth": "2"}, "extra_info": {"index": 0}}],
        ASK,
        "2",
    ),
    "GSM8K": ("my.json", [{"question": "1+1?", "answer": "1000+1=1,001\n#### 1,001"}], TEXT, "1001"),
    "MATH": ("my.jsonl", [{"problem": "1+1?", "solution": r"so $\boxed{\frac{4}{2}}$."}], TEXT, r"\frac{4}{2}"),
    "E3": ("my.parquet", [{"prompt": "1+1?", "answer": "2", "rank": 0.1}], TEXT, "2"),
    "TRL": ("my.jsonl", [{"prompt": ASK, "completion": [REPLY]}], ASK, "2"),
    "TRL, text": ("my.jsonl", [{"prompt": "1+1?", "completion": "Adding gives <answer>2</answer>"}], TEXT, "2"),
    "open-instruct": ("my.jsonl", [{"messages": ASK, "ground_truth": ["2"], "dataset": ["gsm8k"]}], ASK, "2"),
    "reply in the messages": ("my.jsonl", [{"messages": [*ASK, REPLY]}], ASK, "2"),
    "ShareGPT": ("my.json", [{"conversations": [HUMAN, {"from": "gpt", "value": "The answer is 2."}]}], ASK, "2"),
    "messages": ("my.json", [[HUMAN, {"from": "assistant", "ground_truth": {"value": "2"}}]], ASK, "2"),
    "content parts, several golds": (
        "my.jsonl",
        [{"prompt": [{"role": "user", "content": [{"type": "text", "text": "1+1?"}]}], "gold": ["2", 2.5, None, "2"]}],
        ASK,
        '["2", "2.5"]',
    ),
    "SQuAD": ("my.json", {"data": [{"question": "1+1?", "answers": {"text": ["2"], "start": [1]}}]}, TEXT, "2"),
    "pandas": ("my.json", {"Problem": {"0": "1+1?"}, "goldAnswer": {"0": 2}}, TEXT, "2"),
    "JSON text in CSV": (
        "my.csv",
        'prompt,reward_model\n"[{""role"": ""user"", ""content"": ""1+1?""}]","{\'ground_truth\': \'2\'}"\n',
        ASK,
        "2",
    ),
    "Windows CSV": ("my.csv", "\ufeffQuestion;Correct Answer\r\n1+1?;025\r\n".encode("utf-16"), TEXT, "025"),
    "old CSV": ("my.tsv", "Größe\tquestion\tanswer\nü\t1+1?\t1,5\n".encode("cp1252"), TEXT, "1,5"),
    "byte-order mark": ("my.jsonl", '\ufeff{"query": "1+1?", "target": 2}\n', TEXT, "2"),
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_recognised_by_their_columns(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, content, prompt, gold = FORMS[form]
    path = tmp_path / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(content), path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in content) if name.endswith(".jsonl") else json.dumps(content)
        path.write_text(content if isinstance(content, str) else lines, encoding="utf-8")
    status, (row,) = own(path, tmp_path / "out")
    assert (status, row["prompt"], row["reward_model"]["ground_truth"]) == (0, prompt, gold)
    assert (row["data_source"], "1+1?" in capsys.readouterr().out) == ("my", True)
    assert row["extra_info"]["prompt_id"] == f"my/{HASHED}"


def write(path: Path, *rows: Row) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_options_name_columns_and_say_what_surrounds_the_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = [{"role": "system", "content": "Old."}, *ASK, REPLY, {"role": "user", "content": "And 2+2?"}]
    source = write(tmp_path / "x.jsonl", {"a": {"q": chat}, "b": [{"c": "4"}], "n": 7, "tests": [1, 2], "why": "5"})
    options = "--question a.q --answer why --id N --keep tests --name z --instruction Go. --system New."
    options += " --model assets/mini-math-qwen2"
    status, (row,) = own(source, tmp_path / "out", *options.split())
    assert (status, row["prompt"][0]) == (0, {"role": "system", "content": "New."})
    assert row["prompt"][-1]["content"] == "And 2+2?\nGo."
    assert [message["content"] for message in row["prompt"][1:-1]] == ["1+1?", REPLY["content"]]
    assert (row["extra_info"]["prompt_id"], row["extra_info"]["tests"], row["data_source"]) == ("z/7", [1, 2], "z")
    printed = capsys.readouterr().out
    assert "question a.q, answer why, id n; not used: b" in printed.splitlines()[0]
    assert "<|im_start|>user\nAnd 2+2?\nGo.<|im_end|>\n<|im_start|>assistant\n" in printed


def test_unusable_rows_are_dropped_and_golds_for_an_own_reward_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]
    rows: list[Row] = [
        {"question": "a", "answer": "1"},
        {"question": "a", "answer": 1},  # a repeat
        {"question": "b", "answer": "1"},  # in conflict with the next
        {"question": "b", "answer": "2"},
        {"question": "c", "answer": float("nan")},
        {"question": None, "answer": "2"},
        {"question": image, "answer": "2"},
        {"question": "d", "answer": "2", "images": ["x.png"]},
        {"question": [*ASK, {"role": "tool", "content": "5"}], "answer": "2"},
        {"question": "e", "answer": "Any sentence without one value"},
        {"question": "f", "answer": {"x": 1, "y": 2}},
    ]
    _, kept = own(write(tmp_path / "x.jsonl", *rows), tmp_path)
    golds = [row["reward_model"]["ground_truth"] for row in kept]
    assert golds == ["1", "Any sentence without one value", '{"x": 1, "y": 2}']
    summary = json.loads((tmp_path / "x_train.summary.json").read_text())
    assert {reason: listing["count"] for reason, listing in summary["dropped"].items()} == {
        "conflicting_gold": 2,
        "empty_gold": 1,
        "empty_question": 1,
        "exact_duplicate": 1,
        "image_video_or_audio": 2,
        "last_message_not_from_user": 1,
    }
    assert summary["flagged"]["gold_needs_own_reward"]["count"] == 2
    assert "dropped 2, conflicting_gold" in capsys.readouterr().out
    assert validate_files([tmp_path / "x_train.parquet"]).ungradable


@pytest.mark.parametrize(
    ("own_ids", "expected"), [([1, 2], r"x/[12]"), ([1, 1], r"x/[0-9a-f]{16}"), ([1, None], r"x/[0-9a-f]{16}")]
)
def test_ids_are_the_files_own_only_where_each_names_one_question(
    own_ids: list[int | None], expected: str, tmp_path: Path
) -> None:
    rows = [{"id": own_id, "question": q, "answer": 1} for own_id, q in zip(own_ids, "ab", strict=True)]
    _, made = own(write(tmp_path / "x.jsonl", *rows), tmp_path / "out")
    assert all(re.fullmatch(expected, row["extra_info"]["prompt_id"]) for row in made)


def test_ids_of_prepared_files_stay(tmp_path: Path) -> None:
    prepared = {"extra_info": {"prompt_id": "d/5"}, "prompt": ASK, "reward_model": {"ground_truth": "2"}}
    _, (row,) = own(write(tmp_path / "again.jsonl", prepared), tmp_path / "again")
    assert row["extra_info"]["prompt_id"] == "d/5"


def test_splits_come_from_the_names_and_a_test_file_can_be_held_out(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "answer": i} for i in range(9)]
    for name, part in (("train-0", rows[:4]), ("train-1", rows[4:8]), ("validation", rows[8:])):
        write(tmp_path / "in" / f"{name}.jsonl", *part)
    assert own(tmp_path / "in", tmp_path / "a", "--name", "x")[0] == 0
    sizes = {path.name: pq.read_metadata(path).num_rows for path in (tmp_path / "a").glob("*.parquet")}
    assert sizes == {"x_train.parquet": 8, "x_validation.parquet": 1}
    held = []
    for order in (rows, rows[::-1]):
        _, left = own(write(tmp_path / "x.jsonl", *order), tmp_path / "b", "--hold-out", "2")
        test = pq.read_table(tmp_path / "b/x_test.parquet").to_pylist()
        assert (len(left), len(test), test[0]["extra_info"]["split"]) == (7, 2, "test")
        held.append({row["extra_info"]["prompt_id"] for row in test})
    assert held[0] == held[1]


ONE = '{"question": "a", "answer": 1}\n'
TWICE = '{"i": 1, "question": "a", "answer": 1}\n{"i": 1, "question": "b", "answer": 1}\n'
CANNOT_WORK = [
    ("x.csv", "Frage,Antwort\n1,2\n", "", "known as the question and answer: Frage, Antwort. Give --question KEY"),
    ("x.csv", "Frage,Antwort\n1,2\n", "--question Frag", r"no such column. Did you mean Frage\? Its columns: Fr"),
    ("x.jsonl", '{"question": "a", "foo": 1}\n', "", "known as the answer: question, foo"),
    ("x.jsonl", "", "", "it has no rows"),
    ("x.txt", "a", "", r"suffix is '\.txt', but must be one of \.jsonl"),
    ("x.jsonl", '{"question": "a", "answer": " "}\n', "", "none of its 1 rows can be used"),
    ("x.jsonl", ONE, "--hold-out 1", "only 1, with --hold-out 1, of its 1 rows"),
    ("x.jsonl", ONE, "--model no/such/model", "cannot show the rows"),
    ("x.jsonl", TWICE, "--id i", "same id '1'"),
]


@pytest.mark.parametrize(("name", "text", "options", "message"), CANNOT_WORK)
def test_what_cannot_work_is_one_line_with_the_files_own_columns(
    name: str, text: str, options: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    assert main(["own", "--source", str(tmp_path / name), "--out", str(tmp_path / "out"), *options.split()]) == 2
    error = capsys.readouterr().err
    assert re.match(rf"error: .*{message}", error)
    assert "none of its 1" in error or "only 1" in error or error.count("\n") == 1
