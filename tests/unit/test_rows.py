"""The row contract: what passes, and what each offence is reported as."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipe.prepo.errors import DataError
from recipe.prepo.rows import build_row, validate_files, validate_rows

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


@pytest.mark.parametrize("column", ["data_source", "prompt", "reward_model", "extra_info"])
def test_missing_column_is_named(column: str, tmp_path: Path) -> None:
    rows = make_rows(2)
    for row in rows:
        del row[column]
    with pytest.raises(DataError, match=f"column {column} is missing"):
        validate_files([write(tmp_path / "f.parquet", rows)])


def test_extra_info_without_prompt_id_is_named() -> None:
    rows = make_rows(2)
    for row in rows:
        del row["extra_info"]["prompt_id"]
    with pytest.raises(DataError, match=r"field extra_info\.prompt_id: it is missing"):
        validate_rows(pa.Table.from_pylist(rows), name="f")


def test_duplicate_id_shows_the_id_and_both_rows() -> None:
    rows = make_rows(6)
    rows[4]["extra_info"]["prompt_id"] = "d/1"
    with pytest.raises(DataError, match=r"f: rows 1 and 4 .*'d/1'"):
        validate_rows(pa.Table.from_pylist(rows), name="f")


def test_duplicate_id_in_two_files_shows_both_files(tmp_path: Path) -> None:
    first = write(tmp_path / "first.parquet", make_rows(3))
    second = write(tmp_path / "second.parquet", [*make_rows(2, prefix="e"), make_rows(3)[2]])
    assert validate_files([first]) == 3
    assert validate_files([second]) == 3
    with pytest.raises(DataError, match=r"first\.parquet: row 2 and .*second\.parquet row 2 .*'d/2'"):
        validate_files([first, second])


def test_files_give_the_number_of_rows_together(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{p}.parquet", make_rows(n, prefix=p)) for p, n in (("a", 3), ("b", 4))]
    assert validate_files(paths) == 7
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
