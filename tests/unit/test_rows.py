"""The row contract: what passes, and what each offence is reported as."""

import copy
import json

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


def make_row(i, prefix="d"):
    names = {"data_source": "d", "split": "train", "prompt_id": f"{prefix}/{i}"}
    return build_row(question=f"What is {i} + 1?", ground_truth=str(i + 1), index=i, **names)


def make_rows(num, prefix="d"):
    return [make_row(i, prefix) for i in range(num)]


def write(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_good_rows_pass_also_with_categorical_columns():
    table = pa.Table.from_pylist(make_rows(5))
    validate_rows(table, name="good")
    validate_rows(table.set_column(0, "data_source", table["data_source"].dictionary_encode()), name="good")


def spoiled(field, value):
    """Rows of which the one at 3 has this value."""
    rows = make_rows(5)
    *parents, last = field.split(".")
    if field == "reward_model.ground_truth" and value == []:
        for row in rows:
            row["reward_model"]["ground_truth"] = ["1"]
    node = rows[3]
    for key in parents:
        node = node[key][0] if isinstance(node[key], list) else node[key]
    node[last] = value
    return rows


MISSING = ": it is missing or empty"
OFFENCES = [
    ("prompt", [], MISSING),
    ("prompt", None, MISSING),
    ("prompt.content", " \n", MISSING),
    ("prompt.role", None, MISSING),
    ("prompt.role", "human", ": .*'human' is none of system"),
    ("extra_info.prompt_id", None, MISSING),
    ("extra_info.prompt_id", "", MISSING),
    ("extra_info", None, r"\.prompt_id" + MISSING),
    ("reward_model.ground_truth", None, MISSING),
    ("reward_model.ground_truth", " ", MISSING),
    ("reward_model.ground_truth", [], MISSING),
    ("data_source", None, MISSING),
]


@pytest.mark.parametrize(("field", "value", "message"), OFFENCES)
def test_offence_is_named_with_file_row_and_field(field, value, message, tmp_path):
    path = write(tmp_path / "train.parquet", spoiled(field, value))
    with pytest.raises(DataError, match=rf"train\.parquet: row 3 .*field {field}{message}.*python -m data_prep"):
        validate_files([path])


def changed(number, **changes):
    """Rows that all have these changes; a dictionary changes a column's fields."""

    def merged(row, name, value):
        return {**row[name], **value} if isinstance(value, dict) and isinstance(row[name], dict) else value

    rows = make_rows(number)
    return [row | {name: merged(row, name, value) for name, value in changes.items()} for row in rows]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(2, extra_info={"prompt_id": 40}), r"row 0 .*prompt_id: it is 40 \(int64\), but must be text"),
        (changed(2, prompt="text"), "field prompt: it is string, but must be chat messages"),
        ([*make_rows(4), make_row(1)], r"f: rows 1 and 4 .*'d/1'"),
    ],
)
def test_columns_of_another_type_and_duplicate_ids_are_refused(rows, message):
    with pytest.raises(DataError, match=message):
        validate_rows(pa.Table.from_pylist(rows), name="f")


@pytest.mark.parametrize("column", ["data_source", "prompt", "reward_model"])
def test_missing_column_is_named(column, tmp_path):
    path = tmp_path / "f.parquet"
    pq.write_table(pa.Table.from_pylist(make_rows(2)).drop_columns([column]), path)
    with pytest.raises(DataError, match=f"column {column} is missing"):
        validate_files([path])


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("without", ["prompt_id", "extra_info"])
def test_files_without_ids_pass_under_any_prompt_key_and_beside_files_with_ids(without, suffix, tmp_path):
    rows = make_rows(3)
    for row in rows:
        row["chat"] = row.pop("prompt")
    given = write(tmp_path / "given.parquet", rows)
    for row in rows:
        row["extra_info"].pop("prompt_id") if without == "prompt_id" else row.pop("extra_info")
    path = tmp_path / f"none{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        write(path, rows)
    facts = validate_files([path], prompt_key="chat")
    assert (facts.num_rows, facts.num_without_id, facts.data_sources) == (3, 3, {"d"})
    assert read_prompts([path], prompt_key="chat") == [row["chat"] for row in rows]
    if without == "extra_info":
        assert validate_files([given, path], prompt_key="chat").num_without_id == 3
    with pytest.raises(DataError, match=r"column prompt is missing \(data\.prompt_key"):
        validate_files([path])


def test_content_ids_follow_the_content_and_number_its_repeats():
    rows = make_rows(3)
    rows += [copy.deepcopy(rows[1])]
    rows[3]["prompt"][0]["tool_calls"] = None  # as pyarrow reads rows where only others have the field
    ids = content_ids([row["prompt"] for row in rows], [row["reward_model"]["ground_truth"] for row in rows])
    assert ids[3] == f"{ids[1]}-2" and len(set(ids)) == 4
    assert content_ids([rows[2]["prompt"]], ["3"]) == [ids[2]]
    assert content_ids([rows[2]["prompt"]], ["4"]) != [ids[2]]


def test_files_that_verl_cannot_join_are_refused_with_the_difference(tmp_path):
    paths = [write(tmp_path / "first.parquet", make_rows(2))]
    for name, extra in (("text", {"index": "7"}), ("more", {"level": "hard"})):
        rows = make_rows(2, prefix=name)
        for row in rows:
            row["extra_info"] |= extra
        paths.append(write(tmp_path / f"{name}.parquet", rows))
    with pytest.raises(DataError, match=r"columns: extra_info\.index is int64 in the first, string in the second"):
        validate_files(paths)
    assert validate_files([paths[0], paths[2]]).num_rows == 4


@pytest.mark.parametrize(
    ("value", "is_ungradable"),
    [("7", False), (7.5, False), (["7", "8"], False), ({"a": "7"}, True), ([{"a": "7"}], True), ('{"a": 7}', True)],
)
def test_golds_that_the_default_reward_never_matches_are_found(value, is_ungradable, tmp_path):
    facts = validate_files([write(tmp_path / "f.parquet", changed(2, reward_model={"ground_truth": value}))])
    assert facts.ungradable.startswith(f"{tmp_path}/f.parquet: row 0") == is_ungradable


def test_media_and_agent_loops_are_found(tmp_path):
    rows = [row | {"pictures": [], "agent_name": "tool_agent"} for row in make_rows(3)]
    rows[2]["pictures"] = [{"bytes": b"PNG"}]
    facts = validate_files([write(tmp_path / "f.parquet", rows)], media_keys=["pictures"])
    assert facts.media == f"{tmp_path}/f.parquet: row 2 (counted from 0), column pictures"
    assert facts.agent_loops == {"tool_agent"}
    assert not validate_files([tmp_path / "f.parquet"]).media


def test_a_template_that_no_prompt_fits_is_one_clear_error():
    class NoTemplate:
        def apply_chat_template(self, *_, **__):
            raise ValueError("no template")

    with pytest.raises(DataError, match="fails for every prompt: ValueError: no template"):
        rows_within_limit([[]], NoTemplate(), {}, 9)


def test_files_count_together_and_share_no_id(tmp_path):
    paths = [write(tmp_path / f"{p}.parquet", make_rows(n, prefix=p)) for p, n in (("a", 3), ("b", 4))]
    paths.append(write(tmp_path / "c.parquet", [*make_rows(2, prefix="c"), make_row(2, prefix="a")]))
    assert validate_files(paths[:2]).num_rows == 7
    with pytest.raises(DataError, match="listed twice"):
        validate_files([paths[0], paths[0]])
    with pytest.raises(DataError, match=r"a\.parquet: row 2 and .*c\.parquet row 2 .*'a/2'"):
        validate_files(paths)


def test_row_numbers_count_on_over_batches(tmp_path):
    table = pa.Table.from_pylist([make_row(0)] * 70_000)
    prompt_ids = pa.array([f"d/{i}" if i != 69_000 else " " for i in range(70_000)])
    extra_info = pa.StructArray.from_arrays([prompt_ids], ["prompt_id"])
    path = tmp_path / "long.parquet"
    pq.write_table(table.set_column(table.schema.get_field_index("extra_info"), "extra_info", extra_info), path)
    with pytest.raises(DataError, match="row 69000 "):
        validate_files([path])


def test_unusable_files_say_how_to_make_one(tmp_path):
    (tmp_path / "text.parquet").write_text("no parquet")
    pq.write_table(pa.Table.from_pylist(make_rows(1)).slice(0, 0), tmp_path / "none.parquet")
    for name, message in (
        ("absent.parquet", "does not exist"),
        ("text.parquet", "cannot be read as parquet"),
        ("", "is no file"),
        ("none.parquet", "no rows"),
    ):
        with pytest.raises(DataError, match=f"{message}.*python -m data_prep"):
            validate_files([tmp_path / name])
