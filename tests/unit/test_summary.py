"""The closing summary, read back from a run directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recipe.prepo.run.jsonl import read_lines
from recipe.prepo.tools.summary import closing_summary

ACC = "val-core/mini_math/acc/mean@2"
LINES: list[dict[str, Any]] = [
    {"step": 0, "data": {ACC: 0.25}},
    {
        "step": 1,
        "data": {"prepo/rollouts_total/max": 256.0, "prepo/response_tokens_total/max": 1e3, "timing_s/step": 2},
    },
    {
        "step": 2,
        "data": {
            "prepo/rollouts_total/max": 1512.0,
            "prepo/response_tokens_total/max": 12345.0,
            "timing_s/step": 3,
            ACC: 0.5,
            "val-core/mini_math/acc/best@2/mean": 0.9,
        },
    },
]


def write(run_dir: Path, text: str) -> None:
    (run_dir / "metrics.jsonl").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("torn", ["", '{"step": 3, "da', '{"step": 3}'])
def test_torn_last_line_is_left_out(tmp_path: Path, torn: str) -> None:
    write(tmp_path, "".join(json.dumps(line) + "\n" for line in LINES) + torn)
    assert list(read_lines(tmp_path / "metrics.jsonl")) == LINES


def test_line_torn_inside_a_letter_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "data": {}}\n{"step": 2, "data": {"val-core/\xc3')
    assert list(read_lines(tmp_path / "metrics.jsonl")) == [{"step": 1, "data": {}}]


def test_a_stopped_run_draws_nothing_and_names_the_command(tmp_path: Path) -> None:
    write(tmp_path, "".join(json.dumps(line) + "\n" for line in LINES))
    assert closing_summary(tmp_path, draws=False).endswith(f"python -m recipe.prepo.report {tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_summary_names_steps_cost_gain_and_report(tmp_path: Path) -> None:
    lines = [*LINES, {"step": 3, "data": {ACC: None}}]
    write(tmp_path, "".join(json.dumps(line) + "\n" for line in lines))
    text = closing_summary(tmp_path)
    assert f"run directory  {tmp_path}" in text
    assert "2 (5 s in steps), 1,512 rollouts, 12,345 response tokens" in text
    assert f"{ACC}: 0.250 (step 0) -> 0.500 (step 2), +0.250" in text
    report = text.splitlines()[-1].removeprefix("report").strip()
    assert "<html" in Path(report).read_text(encoding="utf-8")
