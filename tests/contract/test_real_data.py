"""Public data: the files that PREPO_DATA_DIR names, with nothing lost and nothing bad kept; and the hub, offline."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from data_prep.sources import hub_splits, read_hub
from recipe.prepo.rows import validate_files

SOURCES = ("gsm8k", "math", "dapo_math", "math500", "aime24", "aime25", "amc23", "olympiadbench")
# rows read, rows kept, dropped by reason; counted from the files apart from this code
COUNTS: dict[str, tuple[int, int, dict[str, int]]] = {
    "gsm8k_train": (7473, 7473, {}),
    "gsm8k_test": (1319, 1319, {}),
    "math_train": (7500, 7498, {"empty_gold": 2}),
    "dapo_math_train": (17917, 17243, {
        "exact_duplicate": 512,  # 519 repeated rows, of which 7 have another gold
        "conflicting_gold": 14,
        "duplicate_but_for_outer_spaces": 138,
        "conflicting_gold_but_for_outer_spaces": 10,
    }),
    "math500_test": (500, 500, {}),
    "aime24_test": (30, 30, {}),
    "aime25_test": (30, 30, {}),
    "amc23_test": (40, 40, {}),
    "olympiadbench_test": (675, 674, {"prose_gold": 1}),
}  # fmt: skip


@pytest.fixture(scope="module")
def out_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = os.environ.get("PREPO_DATA_DIR")
    if not data_dir:
        pytest.skip("PREPO_DATA_DIR IS NOT SET: the public data files were NOT tested; set it to their folder")
    out = tmp_path_factory.mktemp("prepared")
    for dataset in SOURCES:
        folder = Path(data_dir) / dataset.replace("dapo_math", "dapo_math_greso")
        assert main([dataset, "--source", str(folder), "--out", str(out)]) == 0
    return out


def read(out_dir: Path, name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    rows = pq.read_table(out_dir / f"{name}.parquet").to_pylist()
    return rows, json.loads((out_dir / f"{name}.summary.json").read_text())


@pytest.mark.parametrize("name", COUNTS)
def test_counts_and_each_question_once_with_an_id(name: str, out_dir: Path) -> None:
    rows, summary = read(out_dir, name)
    num_read, num_kept, dropped = COUNTS[name]
    assert (summary["rows_read"], summary["rows_kept"], len(rows)) == (num_read, num_kept, num_kept)
    assert {reason: listing["count"] for reason, listing in summary["dropped"].items()} == dropped
    ids = {row["extra_info"]["prompt_id"] for row in rows}
    assert len({row["prompt"][0]["content"] for row in rows}) == len(ids) == len(rows)


def test_rows_ids_golds_and_reasons_are_the_known_ones(out_dir: Path) -> None:
    assert read(out_dir, "math_train")[1]["dropped"]["empty_gold"]["first"] == ["line 5342", "line 5344"]
    assert "\\mho(a)=0" in read(out_dir, "olympiadbench_test")[1]["dropped"]["prose_gold"]["first"][0]
    dapo, _ = read(out_dir, "dapo_math_train")
    assert [row["extra_info"]["prompt_id"] for row in dapo[:3]] == ["dapo_math/0", "dapo_math/1", "dapo_math/2"]
    assert not any("step by step and then provides" in row["prompt"][0]["content"] for row in dapo)
    aime = read(out_dir, "aime24_test")[0]
    assert [row["extra_info"]["prompt_id"] for row in aime] == [f"aime24/{i}" for i in range(60, 90)]
    golds = {name: [r["reward_model"]["ground_truth"] for r in read(out_dir, name)[0]] for name in COUNTS}
    assert {"025", "073", "023", "045", "033", "080", "055"} <= set(golds["aime24_test"])
    assert golds["amc23_test"][0] == "27"
    assert not any("," in gold for gold in golds["gsm8k_train"])
    assert all(gold.lstrip("-").isdigit() for gold in golds["dapo_math_train"])


def test_training_files_are_valid_together_and_all_can_be_concatenated(out_dir: Path) -> None:
    train = sorted(out_dir.glob("*_train.parquet"))
    assert validate_files(train).num_rows == 7473 + 7498 + 17243
    paths, cache = [str(path) for path in out_dir.glob("*.parquet")], str(out_dir / "cache")
    files = [datasets.Dataset.from_parquet(path, cache_dir=cache) for path in paths]
    assert len(datasets.concatenate_datasets(files)) == sum(kept for _, kept, _ in COUNTS.values())


def test_rows_of_a_hub_layout_come_in_order(tmp_path: Path) -> None:
    rows = [{"question": f"Q{i}", "answer": f"#### {i}"} for i in range(3)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert hub_splits(str(tmp_path), None) == ["test"]
    assert list(read_hub(str(tmp_path), None, "test")) == [(f"row {i}", row) for i, row in enumerate(rows)]


def test_unreachable_hub_is_one_clear_error(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "data_prep", "aime24", "--out", str(tmp_path / "out")],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2 and not (tmp_path / "out").exists()
    last_line = result.stderr.strip().splitlines()[-1]
    assert last_line.startswith("error: cannot load HuggingFaceH4/aime_2024, split train, from the Hugging Face hub")
    assert "--source path/to/file.parquet" in last_line and "Traceback" not in result.stderr
