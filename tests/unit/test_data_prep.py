"""Data preparation on small files of every public form: what is kept, what is dropped and how it is reported."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from data_prep.common import DEFAULT_INSTRUCTION, EXTRA_FIELDS, NUM_LISTED, build_row, write_parquet
from data_prep.registry import DAPO_WRAPPINGS, DATASETS
from recipe.prepo.errors import DataError
from recipe.prepo.reward.grading_process import GradingStopped
from recipe.prepo.rows import validate_files

Row = dict[str, Any]


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(dataset: str, source: Path, out: Path, *options: str) -> int:
    return main([dataset, "--source", str(source), "--out", str(out), *options])


def prepared(dataset: str, source: Path, out: Path, *options: str, split: str = "test") -> tuple[list[Row], Row]:
    """Rows and summary of one prepared split."""
    assert run(dataset, source, out, *options) == 0
    path = out / f"{dataset}_{split}.parquet"
    assert validate_files([path]).num_rows > 0
    return pq.read_table(path).to_pylist(), json.loads((out / f"{dataset}_{split}.summary.json").read_text())


def golds(rows: list[Row]) -> list[str]:
    return [row["reward_model"]["ground_truth"] for row in rows]


def ids(rows: list[Row]) -> list[str]:
    return [row["extra_info"]["prompt_id"] for row in rows]


def dropped(summary: Row) -> dict[str, int]:
    return {reason: listing["count"] for reason, listing in summary["dropped"].items()}


def dapo_row(question: str, gold: str, index: Any, form: str) -> Row:
    prefix, suffix = DAPO_WRAPPINGS[form]
    return {
        "prompt": [{"role": "user", "content": f"{prefix}{question}{suffix}"}],
        "reward_model": {"ground_truth": gold, "style": "rule"},
        "extra_info": {"index": index},
    }


def test_a_folder_gives_both_splits_and_a_file_the_split_that_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "in/train.jsonl", [{"question": "Q?", "answer": "1000 + 200 = 1200\n#### 1,200"}])
    write_jsonl(tmp_path / "in/test.jsonl", [{"question": "R?", "answer": "#### -3"}])
    (row,), _ = prepared("gsm8k", tmp_path / "in", tmp_path, split="train")
    assert (golds([row]), row["data_source"], row["extra_info"]["split"]) == (["1200"], "gsm8k", "train")
    assert row["prompt"] == [{"role": "user", "content": f"Q?\n{DEFAULT_INSTRUCTION}"}]
    assert golds(pq.read_table(tmp_path / "gsm8k_test.parquet").to_pylist()) == ["-3"]
    source = write_jsonl(tmp_path / "my_test_part.json", [{"question": "Q", "answer": "#### 1"}])
    prepared("gsm8k", source, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").glob("*.parquet")] == ["gsm8k_test.parquet"]
    assert "read 1, kept 1" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["greso", "original"])
def test_dapo_instructions_are_stripped(form: str, tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([dapo_row("Find $x$.", "34", 7, form)] * 100), path)
    rows, summary = prepared("dapo_math", path, tmp_path / "out", "--instruction", "", split="train")
    assert [row["prompt"][0]["content"] for row in rows] == ["Find $x$."] and ids(rows) == ["dapo_math/7"]
    repeats = summary["dropped"]["exact_duplicate"]
    assert (summary["rows_read"], repeats["count"], len(repeats["first"])) == (100, 99, NUM_LISTED)
    assert repeats["first"][0] == "row 1: same question and gold as row 0"


MATH_ROW = {"problem": "P", "level": "Level 5", "type": "Algebra"}
FORMS: list[tuple[str, Row, str, str]] = [
    ("math", MATH_ROW | {"solution": r"so \boxed{1}, no: \boxed{\frac{1}{\sqrt{2}}}."}, r"\frac{1}{\sqrt{2}}", "5c62e"),
    ("math", MATH_ROW | {"solution": r"is $\boxed 3$."}, "3", "5c62e"),
    ("math", MATH_ROW | {"solution": r"is \fbox{7}"}, "7", "5c62e"),
    ("dapo_math", {**dapo_row("", "5", "9a-uuid", "greso"), "prompt": "P"}, "5", "9a-uuid"),
    ("amc23", {"id": 0, "problem": "P", "answer": 27.0}, "27", "0"),
    ("amc23", {"id": 1, "question": "P", "answer": "27.5"}, "27.5", "1"),
    ("aime24", {"id": 60, "problem": "P", "answer": "025", "url": "u", "year": "2024"}, "025", "60"),
    ("aime24", {"ID": "2024-I-4", "Problem": "P", "Answer": 116, "Solution": "s"}, "116", "2024-I-4"),
    ("aime24", {"id": 0, "problem": "P", "solution": r"\boxed{204}"}, "204", "0"),
    ("aime25", {"question": "P", "answer": "70"}, "70", "5c62e091b8c0565f"),
    ("math500", {"problem": "P", "solution": "s", "answer": r"\frac{1}{2}", "unique_id": "a/1"}, r"\frac{1}{2}", "a/1"),
]


@pytest.mark.parametrize(("dataset", "row", "gold", "own_id"), FORMS)
def test_rows_of_every_data_set(dataset: str, row: Row, gold: str, own_id: str, tmp_path: Path) -> None:
    split = "train" if "train" in DATASETS[dataset].splits else "test"
    source = write_jsonl(tmp_path / f"{split}.jsonl", [row])
    rows, summary = prepared(dataset, source, tmp_path / "out", split=split)
    assert golds(rows) == [gold] and rows[0]["prompt"][0]["content"].startswith("P\n")
    assert ids(rows)[0].startswith(f"{dataset}/{own_id}")
    assert (summary["rows_read"], summary["rows_kept"], summary["dropped"]) == (1, 1, {})
    if dataset == "math":
        assert (rows[0]["extra_info"]["level"], rows[0]["extra_info"]["subject"]) == ("Level 5", "Algebra")
    schema = pq.read_schema(tmp_path / f"out/{dataset}_{split}.parquet")
    assert schema.field("extra_info").type == pa.struct(EXTRA_FIELDS), "files can be concatenated"


def test_olympiadbench_keeps_what_the_reward_needs_and_drops_prose(tmp_path: Path) -> None:
    row = {"question": "Q", "context": None, "unit": None, "error": None, "answer_type": "Numerical", "subfield": "S"}
    source = write_jsonl(
        tmp_path / "test.jsonl",
        [
            {**row, "id": 1, "question": "a", "final_answer": ["58,500"], "is_multiple_answer": True},
            {**row, "id": 2, "question": "b", "final_answer": ["4.2"], "is_multiple_answer": False, "error": "1e-1"},
            {**row, "id": 3, "question": "c", "final_answer": ["$ax$, where $a$ is any integer with $f(a)=0$"]},
            {**row, "id": 4, "question": "d", "context": "Let $n=1$.", "final_answer": ["t(0,4]"], "unit": "km"},
        ],
    )
    rows, summary = prepared("olympiadbench", source, tmp_path)
    assert golds(rows) == ["58,500", "4.2", "t(0,4]"]
    assert [row["extra_info"]["is_multiple_answer"] for row in rows] == [True, False, None]
    assert [row["extra_info"]["error"] for row in rows] == [None, "1e-1", None]
    assert rows[2]["extra_info"]["unit"] == "km"
    assert rows[2]["prompt"][0]["content"].startswith("Let $n=1$.\nd\n")
    assert summary["dropped"] == {
        "prose_gold": {"count": 1, "first": ["line 3: gold '$ax$, where $a$ is any integer with $f(a)=0$'"]}
    }
    assert summary["flagged"] == {"gold_compared_as_text": {"count": 1, "first": ["line 4: gold 't(0,4]'"]}}


def test_repeats_conflicts_and_empty_golds_are_dropped_and_listed(tmp_path: Path) -> None:
    pairs = [
        ("one", "1"),
        ("two", "2"),
        ("one", "1"),  # repeats line 1
        ("two", "22"),  # conflicts with line 2
        ("three", ""),
        ("  ", "4"),
        ("five", "5"),
        ("five ", "5.0"),  # the same text and gold, as written
        ("two", "2"),  # repeats line 2
        ("six", "6"),
        ("six\n", "7"),
    ]
    source = write_jsonl(tmp_path / "train.jsonl", [{"question": q, "answer": f"#### {a}"} for q, a in pairs])
    rows, summary = prepared("gsm8k", source, tmp_path, split="train")
    assert [row["prompt"][0]["content"].splitlines()[0] for row in rows] == ["one", "five"]
    assert [row["extra_info"]["index"] for row in rows] == [0, 6]
    assert dropped(summary) == {
        "conflicting_gold": 2,
        "conflicting_gold_but_for_outer_spaces": 2,
        "duplicate_but_for_outer_spaces": 1,
        "empty_gold": 1,
        "empty_question": 1,
        "exact_duplicate": 2,
    }
    assert summary["rows_read"] == summary["rows_kept"] + sum(dropped(summary).values())
    conflict = "same question, different golds: line 2 has '2'; line 4 has '22'"
    assert summary["dropped"]["conflicting_gold"]["first"] == [f"line 2: {conflict}", f"line 4: {conflict}"]


def test_gold_check_is_repeated_at_the_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[str | None] = [None, "math", None, None, None]  # None: the time limit was reached

    def ask(*_: Any, **__: Any) -> str:
        if (answer := answers.pop(0)) is None:
            raise GradingStopped
        return answer

    monkeypatch.setattr("data_prep.prepare.ask", ask)
    rows = [{"problem": gold, "solution": rf"\boxed{{{gold}}}"} for gold in (r"\frac{1}{2}", r"\sqrt{2}")]
    kept, summary = prepared("math", write_jsonl(tmp_path / "train.jsonl", rows), tmp_path, split="train")
    assert (golds(kept), dropped(summary)) == ([r"\frac{1}{2}"], {"unverifiable_gold": 1})


def test_making_again_gives_the_same_bytes_and_shuffling_the_same_ids(tmp_path: Path) -> None:
    rows = [{"question": f"Q{i}", "answer": f"#### {i}"} for i in range(9)]
    source = write_jsonl(tmp_path / "train.jsonl", rows)
    first, _ = prepared("gsm8k", source, tmp_path / "a", split="train")
    prepared("gsm8k", source, tmp_path / "b", split="train")
    assert (tmp_path / "a/gsm8k_train.parquet").read_bytes() == (tmp_path / "b/gsm8k_train.parquet").read_bytes()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["gsm8k_train.parquet", "gsm8k_train.summary.json"]
    shuffled, _ = prepared("gsm8k", write_jsonl(source, rows[::-1]), tmp_path / "c", split="train")
    assert ids(shuffled) == ids(first)[::-1]


AIME = '{"id": 1, "problem": "Q", "answer": "1"}\n{"id": 1, "problem": "R", "answer": "1"}'
UNUSABLE = [
    ("gsm8k", "train.jsonl", '{"question": "Q", "answer": "#### 1"}\n{"question":\n', "train.jsonl, line 2: not valid"),
    ("gsm8k", "train.jsonl", '{"problem": "Q"}\n', "line 1: not a known form of a gsm8k row: .*no field"),
    ("gsm8k", "data.jsonl", "{}", "no file's name has one of the words train, test"),
    ("gsm8k", "train.parquet", "text", "cannot be read as parquet"),
    ("math", "train.json", '[{"problem": "Q", "solution": 5}]', "item 0: not a known form of a math row"),
    ("math", "train.json", r'[{"problem": "Q", "solution": "\\boxed{\\text{ }}"}]', "dropped 1, unverifiable_gold"),
    ("dapo_math", "a.jsonl", '{"prompt": [{"role": "user", "content": "Hi"}], "reward_model": {"ground_truth": "1"}}',
     "none of the known instructions .*'Hi'"),
    ("olympiadbench", "a.jsonl", '{"id": 1, "question": "Q", "final_answer": ["1", "2"]}', "answer has 2 entries"),
    ("aime24", "a.jsonl", AIME, "line 1 and line 2 have the same id '1' but different questions"),
]  # fmt: skip


@pytest.mark.parametrize(("dataset", "name", "text", "message"), UNUSABLE)
def test_unusable_sources_are_one_clear_error(
    dataset: str, name: str, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    assert run(dataset, tmp_path / name, tmp_path / "out") == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_missing_files_and_splits_are_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "in/train.jsonl", [{"question": "Q", "answer": "#### 1"}])
    (tmp_path / "empty").mkdir()
    for source, options, message in (
        (tmp_path / "absent.jsonl", [], "no such file or folder"),
        (tmp_path / "empty", [], "the folder has no file of"),
        (tmp_path / "in", ["--split", "train", "test"], "has no test split of gsm8k"),
    ):
        assert run("gsm8k", source, tmp_path / "out", *options) == 2
        assert message in capsys.readouterr().err


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    row = build_row(data_source="d", question="Q", ground_truth="1", prompt_id="d/1", split="train", index=0)
    path = tmp_path / "f.parquet"
    write_parquet([row], path)
    before = path.read_bytes()
    with pytest.raises(DataError, match="'d/1'"):
        write_parquet([row, row], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_mini_math_is_generated(tmp_path: Path) -> None:
    assert main(["mini_math", "--out", str(tmp_path), "--num-train", "6", "--num-test", "3", "--seed", "1"]) == 0
    assert validate_files(sorted(tmp_path.glob("*train.parquet"))).num_rows == 6
    assert validate_files(sorted(tmp_path.glob("*test.parquet"))).num_rows == 3
