"""Data preparation on small files of every public form: what is kept, what is dropped and how it is reported."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from data_prep.common import DEFAULT_INSTRUCTION, NUM_LISTED, Listing, build_row, write_parquet
from data_prep.dapo_math import WRAPPINGS
from data_prep.registry import DATASETS
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
    prefix, suffix = WRAPPINGS[form]
    return {
        "prompt": [{"role": "user", "content": f"{prefix}{question}{suffix}"}],
        "reward_model": {"ground_truth": gold, "style": "rule"},
        "extra_info": {"index": index},
    }


def test_gsm8k_folder_gives_both_splits(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in/train.jsonl", [{"question": "Q?", "answer": "1000 + 200 = 1200\n#### 1,200"}])
    write_jsonl(tmp_path / "in/test.jsonl", [{"question": "R?", "answer": "#### -3"}])
    rows, _ = prepared("gsm8k", tmp_path / "in", tmp_path, split="train")
    assert golds(rows) == ["1200"]
    assert rows[0]["prompt"] == [{"role": "user", "content": f"Q?\n{DEFAULT_INSTRUCTION}"}]
    assert rows[0]["data_source"] == "gsm8k"
    assert rows[0]["extra_info"]["split"] == "train"
    assert golds(pq.read_table(tmp_path / "gsm8k_test.parquet").to_pylist()) == ["-3"]


def test_instruction_and_system_message_are_options_and_leave_ids_alone(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "test.jsonl", [{"question": " Q? ", "answer": "#### 1"}])
    bare, _ = prepared("gsm8k", source, tmp_path / "a", "--instruction", "")
    styled, _ = prepared("gsm8k", source, tmp_path / "b", "--instruction", "Go.", "--system", "Be brief.")
    assert bare[0]["prompt"] == [{"role": "user", "content": "Q?"}]
    assert styled[0]["prompt"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q?\nGo."}]
    assert ids(bare) == ids(styled)


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        (r"so \boxed{1}, no: \boxed{\frac{1}{\sqrt{2}}}.", r"\frac{1}{\sqrt{2}}"),
        (r"is $\boxed 3$.", "3"),
        (r"is \fbox{7}", "7"),
        (r"$\boxed{10,\!080}$", r"10,\!080"),
    ],
)
def test_math_gold_is_the_last_box_of_the_solution(solution: str, gold: str, tmp_path: Path) -> None:
    row = {"problem": "P", "level": "Level 5", "type": "Algebra", "solution": solution}
    rows, _ = prepared("math", write_jsonl(tmp_path / "train.jsonl", [row]), tmp_path, split="train")
    assert golds(rows) == [gold]
    assert (rows[0]["extra_info"]["level"], rows[0]["extra_info"]["subject"]) == ("Level 5", "Algebra")


@pytest.mark.parametrize("form", ["greso", "original"])
def test_dapo_instructions_are_stripped(form: str, tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([dapo_row("Find $x$.", "34", 7, form)] * 100), path)
    rows, summary = prepared("dapo_math", path, tmp_path / "out", "--instruction", "", split="train")
    assert [row["prompt"][0]["content"] for row in rows] == ["Find $x$."]
    assert ids(rows) == ["dapo_math/7"]
    assert summary["rows_read"] == 100
    assert summary["dropped"]["exact_duplicate"]["count"] == 99
    assert summary["dropped"]["exact_duplicate"]["first"][0] == "row 1: same question and gold as row 0"
    assert len(summary["dropped"]["exact_duplicate"]["first"]) == NUM_LISTED


def test_processed_dapo_has_the_bare_question(tmp_path: Path) -> None:
    row = {**dapo_row("", "5", "9a-uuid", "greso"), "prompt": "Find $y$."}
    rows, _ = prepared("dapo_math", write_jsonl(tmp_path / "t.jsonl", [row]), tmp_path, split="train")
    assert rows[0]["prompt"][0]["content"].startswith("Find $y$.\n")
    assert ids(rows) == ["dapo_math/9a-uuid"]


@pytest.mark.parametrize(
    ("dataset", "row", "gold", "prompt_id"),
    [
        ("amc23", {"id": 0, "problem": "P", "answer": 27.0}, "27", "amc23/0"),
        ("amc23", {"id": 1, "question": "P", "answer": "27.5"}, "27.5", "amc23/1"),
        ("aime24", {"id": 60, "problem": "P", "answer": "025", "url": "u", "year": "2024"}, "025", "aime24/60"),
        ("aime24", {"ID": "2024-I-4", "Problem": "P", "Answer": 116, "Solution": "s"}, "116", "aime24/2024-I-4"),
        ("aime24", {"id": 0, "problem": "P", "solution": r"\boxed{204}"}, "204", "aime24/0"),
        ("aime25", {"question": "P", "answer": "70"}, "70", "aime25/5c62e091b8c0565f"),
        (
            "math500",
            {"problem": "P", "solution": "s", "answer": r"\frac{1}{2}", "level": 2, "unique_id": "test/a/1.json"},
            r"\frac{1}{2}",
            "math500/test/a/1.json",
        ),
    ],
)
def test_evaluation_sets(dataset: str, row: Row, gold: str, prompt_id: str, tmp_path: Path) -> None:
    rows, summary = prepared(dataset, write_jsonl(tmp_path / "some.jsonl", [row]), tmp_path)
    assert golds(rows) == [gold]
    assert ids(rows) == [prompt_id]
    assert (summary["rows_read"], summary["rows_kept"], summary["dropped"]) == (1, 1, {})


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


def test_gold_that_no_grader_can_read_is_dropped(tmp_path: Path) -> None:
    rows = [{"problem": p, "solution": rf"\boxed{{{g}}}"} for p, g in (("a", r"\frac{1}{2}"), ("b", r"\text{ }"))]
    kept, summary = prepared("math", write_jsonl(tmp_path / "train.jsonl", rows), tmp_path, split="train")
    assert golds(kept) == [r"\frac{1}{2}"]
    assert dropped(summary) == {"unverifiable_gold": 1}


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


def test_all_data_sets_share_one_schema_so_that_files_can_be_concatenated(tmp_path: Path) -> None:
    sources: dict[str, Row] = {
        "gsm8k": {"question": "Q", "answer": "#### 1"},
        "math": {"problem": "Q", "solution": r"\boxed{1}", "level": "Level 1", "type": "Algebra"},
        "olympiadbench": {"id": 1, "question": "Q", "final_answer": ["1"], "is_multiple_answer": False},
        "aime25": {"question": "Q", "answer": "1"},
        "dapo_math": dapo_row("Q", "1", 1, "greso"),
    }
    schemas = []
    for dataset, row in sources.items():
        split = "train" if "train" in DATASETS[dataset].splits else "test"
        prepared(dataset, write_jsonl(tmp_path / f"{dataset}_{split}.jsonl", [row]), tmp_path / "out", split=split)
        schemas.append(pq.read_schema(tmp_path / f"out/{dataset}_{split}.parquet"))
    assert all(schema == schemas[0] for schema in schemas)


@pytest.mark.parametrize(
    ("dataset", "name", "text", "message"),
    [
        (
            "gsm8k",
            "train.jsonl",
            '{"question": "Q", "answer": "#### 1"}\n{"question":\n',
            "train.jsonl, line 2: not valid",
        ),
        ("gsm8k", "train.jsonl", '{"question": "Q", "answer": "#### 1"}\n[1]\n', "line 2: it is a list, but must be"),
        ("gsm8k", "train.jsonl", '{"problem": "Q"}\n', "line 1: not a known form of a gsm8k row: .*no field"),
        ("gsm8k", "data.jsonl", "{}", "neither train nor test"),
        ("gsm8k", "train.parquet", "text", "cannot be read as parquet"),
        ("math", "train.json", '[{"problem": "Q", "solution": 5}]', "item 0: not a known form of a math row"),
        ("aime24", "a.jsonl", '{"id": 1, "problem": "Q", "answer": ""}', "none of its 1 rows can be used"),
        ("dapo_math", "a.jsonl", json.dumps({"prompt": [], "reward_model": {"ground_truth": "1"}}), "0 user messages"),
        (
            "dapo_math",
            "a.jsonl",
            json.dumps({"prompt": [{"role": "user", "content": "Hi"}], "reward_model": {"ground_truth": "1"}}),
            "none of the known instructions .*'Hi'",
        ),
        (
            "olympiadbench",
            "a.jsonl",
            json.dumps({"id": 1, "question": "Q", "final_answer": ["1", "2"]}),
            "final_answer has 2 entries",
        ),
        (
            "aime24",
            "a.jsonl",
            '{"id": 1, "problem": "Q", "answer": "1"}\n{"id": 1, "problem": "R", "answer": "1"}',
            "line 1 and line 2 have the same id '1' but different questions",
        ),
    ],
)
def test_unusable_sources_are_one_clear_error(
    dataset: str, name: str, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text(text)
    assert run(dataset, tmp_path / name, tmp_path / "out") == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_missing_files_and_splits_are_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = write_jsonl(tmp_path / "in/train.jsonl", [{"question": "Q", "answer": "#### 1"}])
    (tmp_path / "empty").mkdir()
    for source, options, message in (
        (tmp_path / "absent.jsonl", [], "no such file or folder"),
        (tmp_path / "empty", [], "has no train file"),
        (train, ["--split", "test"], "has no test split of gsm8k"),
        (tmp_path / "in", ["--split", "train", "test"], "has no test split of gsm8k"),
    ):
        assert run("gsm8k", source, tmp_path / "out", *options) == 2
        assert message in capsys.readouterr().err
    write_jsonl(tmp_path / "in/train-2.jsonl", [])
    assert run("gsm8k", tmp_path / "in", tmp_path / "out") == 2
    assert "several files match the train split (train-2.jsonl, train.jsonl)" in capsys.readouterr().err


def test_only_the_split_that_a_file_holds_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl(tmp_path / "in/my_test_part.json", [{"question": "Q", "answer": "#### 1"}])
    prepared("gsm8k", source, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").glob("*.parquet")] == ["gsm8k_test.parquet"]
    assert "read 1, kept 1" in capsys.readouterr().out


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    row = build_row(data_source="d", question="Q", ground_truth="1", prompt_id="d/1", split="train", index=0)
    path = tmp_path / "f.parquet"
    write_parquet([row], path)
    before = path.read_bytes()
    with pytest.raises(DataError, match="'d/1'"):
        write_parquet([row, row], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_summary_lists_the_first_rows_and_counts_all() -> None:
    listing = Listing()
    for i in range(NUM_LISTED + 5):
        listing.add(f"row {i}", "why")
    assert (listing.count, len(listing.first), listing.first[0]) == (NUM_LISTED + 5, NUM_LISTED, "row 0: why")


def test_mini_math_is_generated(tmp_path: Path) -> None:
    assert main(["mini_math", "--out", str(tmp_path), "--num-train", "6", "--num-test", "3", "--seed", "1"]) == 0
    assert validate_files(sorted(tmp_path.glob("*train.parquet"))).num_rows == 6
    assert validate_files(sorted(tmp_path.glob("*test.parquet"))).num_rows == 3
