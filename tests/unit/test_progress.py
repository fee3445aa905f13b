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
        "prepo/selected/sum": None,
        "prepo/candidates/sum": 9.0,
        "prepo/zero_advantage_frac/mean": 0.0,
        "prepo/rollouts_total/max": 1234567.0,
        "val-core/mini_math/acc/mean@2": 0.25,
        "val-core/mini_math/acc/best@2/mean": 0.75,
    }
    assert describe_step(numbers) == "reward 0.500, no signal in 0% of groups, 1,234,567 rollouts so far, held-out 0.250"
    assert describe_step({}) == ""
    assert describe_step({"prepo/rollouts_total/max": 32.0, "prepo/failed_rollouts/sum": 0}) == "32 rollouts so far"
    failed = {"prepo/rollouts_total/max": 32.0, "prepo/failed_rollouts/sum": 2}
    assert describe_step(failed) == "32 rollouts so far, 2 failed"
    assert describe_step({"prepo/selected/sum": 8.0, "prepo/candidates/sum": 8.0}) == ""


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


@pytest.mark.parametrize(
    ("earlier", "resume_step", "steps"),
    [
        (None, 0, [0, 1, 2, 3]),
        ([], 0, [1, 2]),  # the empty file of a run that died
        ([0, 1, 2, 3], 2, [3, 4]),
        ([0, 1, 2, 3], 0, [0, 1]),  # a run that starts over
    ],
)
def test_each_step_of_this_run_is_shown_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], earlier: list[int] | None, resume_step: int, steps: list[int]
) -> None:
    if earlier is not None:
        log = StepLog(tmp_path / "metrics.jsonl", resume_step=0)
        write(log, *earlier)
        log.close()
    with progress_bar(tmp_path, 5, first_step=resume_step):
        log = StepLog(tmp_path / "metrics.jsonl", resume_step=resume_step)
        write(log, *steps, scale=0.2)
        log.close()
    out = capsys.readouterr().out
    assert shown(out) == [f"step {step}/5" for step in steps]
    assert f"step {steps[-1]}/5: reward {0.2 * steps[-1]:.3f}\n" in out


def test_run_without_a_file_shows_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(tmp_path / "nowhere", 3):
        pass
    assert capsys.readouterr().out == ""


def test_line_that_is_still_being_written_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(tmp_path, 3):
        (tmp_path / "metrics.jsonl").write_text('{"step": 1, "data": {}}\n{"step": 2, "da', encoding="utf-8")
    assert shown(capsys.readouterr().out) == ["step 1/3"]


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
