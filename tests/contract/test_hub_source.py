"""Reading from the Hugging Face hub with the real library: a folder laid out as a hub repository; no connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from data_prep.sources import hub_splits, read_hub


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
    assert result.returncode == 2
    last_line = result.stderr.strip().splitlines()[-1]
    assert last_line.startswith("error: cannot load HuggingFaceH4/aime_2024, split train, from the Hugging Face hub")
    assert "--source path/to/file.parquet" in last_line
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
