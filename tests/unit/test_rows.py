"""The row contract: what passes, and what each offence is reported as."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.common import build_row
from recipe.prepo.errors import DataError
from recipe.prepo.rows import (
    content_ids,
    read_prompts,
    rows_within_limit,
    validate_files,
    validate_rows,
)

Row = dict[str, Any]


def make_rows(num: int, prefix: str = "d") -> list[Row]:
    return [
        build_row(
            data_source="d",
            question=f"What is {i} + 1?",
            ground_truth=str(i + 1),
            prompt_id=f"{prefix}/{i}",
            split="train",
            index=i,
        )
        for i in range(num)
    ]


def write(path: Path, rows: list[Row]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_built_row_has_verls_columns_and_the_projects_id() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    row = build_row(
        data_source="d",
        messages=messages,
        ground_truth="2",
        prompt_id="d/7",
        split="test",
        index=3,
        extra={"level": "1"},
    )
    assert row == {
        "data_source": "d",
        "prompt": messages,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"prompt_id": "d/7", "split": "test", "index": 3, "level": "1"},
    }


def test_good_rows_pass_also_with_categorical_columns() -> None:
    table = pa.Table.from_pylist(make_rows(5))
    validate_rows(table, name="good")
    validate_rows(table.set_column(0, "data_source", table["data_source"].dictionary_encode()), name="good")


def set_prompt_id(value: Any) -> Callable[[Row], None]:
    return lambda row: row["extra_info"].update(prompt_id=value)


def set_gold(value: Any) -> Callable[[Row], None]:
    return lambda row: row["reward_model"].update(ground_truth=value)


OFFENCES: dict[str, tuple[Callable[[Row], None], str]] = {
    "no messages": (lambda row: row.update(prompt=[]), "prompt: it is missing or empty"),
    "null prompt": (lambda row: row.update(prompt=None), "prompt: it is missing or empty"),
    "blank content": (lambda row: row["prompt"][0].update(content=" \n"), r"prompt\.content: it is missing or empty"),
    "null role": (lambda row: row["prompt"][0].update(role=None), r"prompt\.role: it is missing or empty"),
    "unknown role": (
        lambda row: row["prompt"][0].update(role="human"),
        r"prompt\.role: .*'human' is none of system",
    ),
    "null prompt_id": (set_prompt_id(None), r"extra_info\.prompt_id: it is missing or empty"),
    "empty prompt_id": (set_prompt_id(""), r"extra_info\.prompt_id: it is missing or empty"),
    "null extra_info": (lambda row: row.update(extra_info=None), r"extra_info\.prompt_id: it is missing or empty"),
    "null gold": (set_gold(None), r"reward_model\.ground_truth: it is missing or empty"),
    "blank gold": (set_gold(" "), r"reward_model\.ground_truth: it is missing or empty"),
    "no gold in the list": (set_gold([]), r"reward_model\.ground_truth: it is missing or empty"),
    "null data_source": (lambda row: row.update(data_source=None), "data_source: it is missing or empty"),
}


@pytest.mark.parametrize("offence", OFFENCES)
@pytest.mark.parametrize("kind", ["table", "file"])
def test_offence_is_named_with_file_row_and_field(offence: str, kind: str, tmp_path: Path) -> None:
    spoil, message = OFFENCES[offence]
    rows = make_rows(5)
    if "list" in offence:
        for row in rows:
            row["reward_model"]["ground_truth"] = ["1"]
    spoil(rows[3])
    path = tmp_path / "train.parquet"
    with pytest.raises(DataError, match=rf"train\.parquet: row 3 .*field {message}") as error:
        if kind == "file":
            validate_files([write(path, rows)])
        else:
            validate_rows(pa.Table.from_pylist(rows), name=str(path))
    assert "python -m data_prep" in str(error.value)


def test_integer_ids_are_refused_with_the_value() -> None:
    rows = make_rows(2)
    for i, row in enumerate(rows):
        row["extra_info"]["prompt_id"] = 40 + i
    with pytest.raises(DataError, match=r"row 0 .*prompt_id: it is 40 \(int64\), but must be text"):
        validate_rows(pa.Table.from_pylist(rows), name="f")


def test_prompt_that_is_plain_text_everywhere_is_refused() -> None:
    rows = [{**row, "prompt": "text"} for row in make_rows(2)]
    with pytest.raises(DataError, match="field prompt: it is string, but must be chat messages"):
        validate_rows(pa.Table.from_pylist(rows), name="f")


@pytest.mark.parametrize("column", ["data_source", "prompt", "reward_model"])
def test_missing_column_is_named(column: str, tmp_path: Path) -> None:
    rows = make_rows(2)
    for row in rows:
        del row[column]
    with pytest.raises(DataError, match=f"column {column} is missing"):
        validate_files([write(tmp_path / "f.parquet", rows)])


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("without", ["prompt_id", "extra_info"])
def test_files_without_ids_pass_under_any_prompt_key_and_beside_files_with_ids(
    without: str, suffix: str, tmp_path: Path
) -> None:
    rows = [{**{k: v for k, v in row.items() if k != "prompt"}, "chat": row["prompt"]} for row in make_rows(3)]
    given = write(tmp_path / "given.parquet", rows)
    for row in rows:
        row["extra_info"].pop("prompt_id") if without == "prompt_id" else row.pop("extra_info")
    path = write(tmp_path / "none.parquet", rows)
    if suffix == ".jsonl":
        path = tmp_path / "none.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = validate_files([path], prompt_key="chat")
    assert (facts.num_rows, facts.num_without_id, facts.data_sources) == (3, 3, {"d"})
    assert read_prompts([path], prompt_key="chat") == [row["chat"] for row in rows]
    if without == "extra_info":
        assert validate_files([given, path], prompt_key="chat").num_without_id == 3
    with pytest.raises(DataError, match=r"column prompt is missing \(data\.prompt_key"):
        validate_files([path])


def test_content_ids_follow_the_content_and_number_its_repeats() -> None:
    rows = make_rows(3)
    rows += [copy.deepcopy(rows[1])]
    rows[3]["prompt"][0]["tool_calls"] = None  # as pyarrow reads rows where only others have the field
    ids = content_ids([row["prompt"] for row in rows], [row["reward_model"]["ground_truth"] for row in rows])
    assert ids[3] == f"{ids[1]}-2"
    assert len(set(ids)) == 4
    assert content_ids([rows[2]["prompt"]], ["3"]) == [ids[2]]
    assert content_ids([rows[2]["prompt"]], ["4"]) != [ids[2]]


def change(row: Row, **changes: Any) -> Row:
    return {**row, **changes}


def gold(row: Row, value: Any) -> Row:
    return change(row, reward_model={"style": "rule", "ground_truth": value})


def test_files_that_verl_cannot_join_are_refused_with_the_difference(tmp_path: Path) -> None:
    paths = [write(tmp_path / "first.parquet", make_rows(2))]
    for name, extra in (("text", {"index": "7"}), ("more", {"level": "hard"})):
        rows = [change(row, extra_info={**row["extra_info"], **extra}) for row in make_rows(2, prefix=name)]
        paths.append(write(tmp_path / f"{name}.parquet", rows))
    loaded = [datasets.Dataset.from_parquet(str(path), cache_dir=tmp_path) for path in paths]
    with pytest.raises(DataError, match=r"columns: extra_info\.index is int64 in the first, string in the second"):
        validate_files(paths)
    with pytest.raises(ValueError, match="align"):
        datasets.concatenate_datasets(loaded)
    assert validate_files([paths[0], paths[2]]).num_rows == len(datasets.concatenate_datasets([loaded[0], loaded[2]]))


@pytest.mark.parametrize(
    ("value", "is_ungradable"),
    [("7", False), (7.5, False), (["7", "8"], False), ({"a": "7"}, True), ([{"a": "7"}], True), ('{"a": 7}', True)],
)
def test_golds_that_the_default_reward_never_matches_are_found(value: Any, is_ungradable: bool, tmp_path: Path) -> None:
    facts = validate_files([write(tmp_path / "f.parquet", [gold(row, value) for row in make_rows(2)])])
    assert facts.ungradable.startswith(f"{tmp_path}/f.parquet: row 0") == is_ungradable


def test_media_and_agent_loops_are_found(tmp_path: Path) -> None:
    rows = [change(row, pictures=[], agent_name="tool_agent") for row in make_rows(3)]
    rows[2]["pictures"] = [{"bytes": b"PNG"}]
    facts = validate_files([write(tmp_path / "f.parquet", rows)], media_keys=["pictures"])
    assert facts.media == f"{tmp_path}/f.parquet: row 2 (counted from 0), column pictures"
    assert facts.agent_loops == {"tool_agent"}
    assert not validate_files([tmp_path / "f.parquet"]).media


def test_a_template_that_no_prompt_fits_is_one_clear_error() -> None:
    class NoTemplate:
        def apply_chat_template(self, *_: Any, **__: Any) -> str:
            raise ValueError("no template")

    with pytest.raises(DataError, match="fails for every prompt: ValueError: no template"):
        rows_within_limit([[]], NoTemplate(), {}, 9)


def test_duplicate_id_shows_the_id_and_both_rows() -> None:
    rows = make_rows(6)
    rows[4]["extra_info"]["prompt_id"] = "d/1"
    with pytest.raises(DataError, match=r"f: rows 1 and 4 .*'d/1'"):
        validate_rows(pa.Table.from_pylist(rows), name="f")


def test_duplicate_id_in_two_files_shows_both_files(tmp_path: Path) -> None:
    first = write(tmp_path / "first.parquet", make_rows(3))
    second = write(tmp_path / "second.parquet", [*make_rows(2, prefix="e"), make_rows(3)[2]])
    assert validate_files([first]).num_rows == validate_files([second]).num_rows == 3
    with pytest.raises(DataError, match=r"first\.parquet: row 2 and .*second\.parquet row 2 .*'d/2'"):
        validate_files([first, second])


def test_files_give_the_number_of_rows_together(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{p}.parquet", make_rows(n, prefix=p)) for p, n in (("a", 3), ("b", 4))]
    assert validate_files(paths).num_rows == 7
    with pytest.raises(DataError, match="listed twice"):
        validate_files([paths[0], paths[0]])


def test_row_numbers_count_on_over_batches(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(make_rows(1)).take(pa.array([0] * 70_000))
    prompt_ids = [f"d/{i}" for i in range(70_000)]
    prompt_ids[69_000] = " "
    extra_info = pa.StructArray.from_arrays([pa.array(prompt_ids)], ["prompt_id"])
    path = tmp_path / "long.parquet"
    pq.write_table(table.set_column(table.schema.get_field_index("extra_info"), "extra_info", extra_info), path)
    with pytest.raises(DataError, match="row 69000 "):
        validate_files([path])


def test_unusable_files_say_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    write(tmp_path / "empty.parquet", make_rows(1)[:0] or [])
    for name, message in (
        ("absent.parquet", "does not exist"),
        ("text.parquet", "cannot be read as parquet"),
        ("", "is no file"),
        ("empty.parquet", "missing"),
    ):
        with pytest.raises(DataError, match=message) as error:
            validate_files([tmp_path / name])
        assert "python -m data_prep" in str(error.value)


def test_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.parquet"
    pq.write_table(pa.Table.from_pylist(make_rows(1)).slice(0, 0), path)
    with pytest.raises(DataError, match="no rows"):
        validate_files([path])
