"""The progress display, as it follows the metrics that a run writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipe.prepo.run.console import describe_step, progress_bar
from recipe.prepo.run.jsonl import StepLog


def write(log: StepLog, *steps: int, scale: float = 0.1) -> None:
    for step in steps:
        log.append([{"step": step, "data": {"critic/score/mean": step * scale}}])


def shown(text: str) -> list[str]:
    return [line.split(":")[0] for line in text.splitlines() if line.startswith("step ")]


def test_step_in_words() -> None:
    numbers = {
        "critic/score/mean": 0.5,
        "prepo/progress/mean": None,
        "prepo/zero_advantage_frac/mean": 0.0,
        "prepo/rollouts_total/max": 1234567.0,
        "val-core/mini_math/acc/mean@2": 0.25,
        "val-core/mini_math/acc/best@2/mean": 0.75,
    }
    assert describe_step(numbers) == "reward 0.500, zero-advantage 0%, rollouts 1,234,567, held-out 0.250"
    assert describe_step({}) == ""
    assert describe_step({"prepo/rollouts_total/max": 32.0, "prepo/failed_rollouts/sum": 0}) == "rollouts 32"
    failed = {"prepo/rollouts_total/max": 32.0, "prepo/failed_rollouts/sum": 2}
    assert describe_step(failed) == "rollouts 32, 2 of them failed"


def test_lines_have_the_seconds_of_the_step_and_the_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The time left counts validations and checkpoints, which are outside of a step's own time."""
    with progress_bar(tmp_path, 100):
        log = StepLog(tmp_path / "metrics.jsonl", resume_step=0)
        log.append([{"step": 0, "data": {"val-core/s/acc/mean@1": 0.5}}])
        log.append([{"step": 1, "data": {"critic/score/mean": 0.5, "timing_s/step": 30.0}}])
        log.append(
            [{"step": 2, "data": {"timing_s/step": 20.0, "timing_s/testing": 60.0, "timing_s/save_checkpoint": 10}}]
        )
        log.close()
    assert capsys.readouterr().out.splitlines() == [
        "step 0/100: held-out 0.500",
        "step 1/100: reward 0.500, 30.0 s/step, 49:30 left",
        "step 2/100: 20.0 s/step, 1:38:00 left",
    ]


def test_every_step_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(tmp_path, 3):
        log = StepLog(tmp_path / "metrics.jsonl", resume_step=0)
        write(log, 0, 1, 2, 3)
        log.close()
    out = capsys.readouterr().out
    assert shown(out) == ["step 0/3", "step 1/3", "step 2/3", "step 3/3"]
    assert "step 2/3: reward 0.200\n" in out


def test_a_run_goes_on_with_the_empty_file_of_one_that_died(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    StepLog(tmp_path / "metrics.jsonl", resume_step=0).close()
    with progress_bar(tmp_path, 2):
        log = StepLog(tmp_path / "metrics.jsonl", resume_step=0)
        write(log, 1, 2)
        log.close()
    assert shown(capsys.readouterr().out) == ["step 1/2", "step 2/2"]


def test_run_without_a_file_shows_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(tmp_path / "nowhere", 3):
        pass
    assert capsys.readouterr().out == ""


def test_line_that_is_still_being_written_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(tmp_path, 3):
        (tmp_path / "metrics.jsonl").write_text('{"step": 1, "data": {}}\n{"step": 2, "da', encoding="utf-8")
    assert shown(capsys.readouterr().out) == ["step 1/3"]


def test_resumed_run_shows_only_the_steps_that_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = StepLog(tmp_path / "metrics.jsonl", resume_step=0)
    write(first, 0, 1, 2, 3)
    first.close()
    with progress_bar(tmp_path, 5, first_step=2):
        resumed = StepLog(tmp_path / "metrics.jsonl", resume_step=2)
        write(resumed, 3, 4, scale=0.2)
        resumed.close()
    assert shown(capsys.readouterr().out) == ["step 3/5", "step 4/5"]


def test_run_that_starts_over_shows_its_first_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = StepLog(tmp_path / "metrics.jsonl", resume_step=0)
    write(first, 0, 1, 2, 3)
    first.close()
    with progress_bar(tmp_path, 5):
        again = StepLog(tmp_path / "metrics.jsonl", resume_step=0)
        write(again, 0, 1)
        again.close()
    assert shown(capsys.readouterr().out) == ["step 0/5", "step 1/5"]


@pytest.mark.parametrize("line", ["not json\n", '{"no": "step"}\n'])
def test_strange_line_never_takes_the_run_down(tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(tmp_path, 5):
        (tmp_path / "metrics.jsonl").write_text('{"step": 1, "data": {}}\n' + line, encoding="utf-8")
    assert shown(capsys.readouterr().out) == ["step 1/5"]


def test_failing_run_shows_its_steps_and_its_own_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="out of memory"), progress_bar(tmp_path, 5):
        log = StepLog(tmp_path / "metrics.jsonl", resume_step=0)
        write(log, 1)
        log.close()
        raise RuntimeError("out of memory")
    assert shown(capsys.readouterr().out) == ["step 1/5"]
