"""What a run prints: the parts that start, each step as its metrics are written, and the closing summary."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recipe.prepo.run.console import describe_step, progress_bar
from recipe.prepo.run.jsonl import StepLog, read_lines
from recipe.prepo.supervise import start_lines
from recipe.prepo.supervise.start_lines import StartLines
from recipe.prepo.tools.summary import closing_summary


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
    assert (
        describe_step(numbers) == "reward 0.500, no signal in 0% of groups, 1,234,567 rollouts so far, held-out 0.250"
    )
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


@pytest.mark.parametrize(
    "rest", ['{"step": 2, "da', "not json\n", '{"no": "step"}\n'], ids=["being written", "strange", "without a step"]
)
def test_an_odd_line_is_not_shown_and_never_takes_the_run_down(
    tmp_path: Path, rest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar(tmp_path, 3), progress_bar(tmp_path / "nowhere", 3):
        (tmp_path / "metrics.jsonl").write_text('{"step": 1, "data": {}}\n' + rest, encoding="utf-8")
    assert shown(capsys.readouterr().out) == ["step 1/3"]


def test_failing_run_shows_its_steps_and_its_own_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="out of memory"), progress_bar(tmp_path, 5):
        log = StepLog(tmp_path / "metrics.jsonl", resume_step=0)
        write(log, 1)
        log.close()
        raise RuntimeError("out of memory")
    assert shown(capsys.readouterr().out) == ["step 1/5"]


def test_one_line_a_part_with_the_seconds_of_the_part_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[str] = []
    monkeypatch.setattr(start_lines, "POLL_INTERVAL_S", 0.01)
    context = SimpleNamespace(get_job_id=lambda: "01")
    fake = SimpleNamespace(get_runtime_context=lambda: context, JobID=SimpleNamespace(from_hex=bytes.fromhex))
    monkeypatch.setitem(sys.modules, "ray", fake)
    table = SimpleNamespace(actors=lambda *_: {name: {"ActorClassName": name} for name in alive})
    monkeypatch.setitem(sys.modules, "ray._private", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ray._private.state", table)
    with StartLines() as lines:
        lines.now("Ray")
        lines.now("the trainer")
        lines.follow_actors()
        for name in ("TaskRunnerV1", "WorkerDict", "RewardLoopWorker"):
            alive.append(name)
            time.sleep(0.1)
    alive.append("PrepoAgentLoopWorker")
    time.sleep(0.1)
    assert capsys.readouterr().out.splitlines() == [
        "starting Ray",
        "starting the trainer (Ray: 0 s)",
        "starting the actor (the trainer: 0 s)",
        "starting vLLM (the actor: 0 s)",
    ]


ACC = "val-core/mini_math/acc/mean@2"
LINES: list[dict[str, Any]] = [
    {"step": 0, "data": {ACC: 0.25}},
    {"step": 1, "data": {"prepo/rollouts_total/max": 256.0, "timing_s/step": 2}},
    {
        "step": 2,
        "data": {
            **{"prepo/rollouts_total/max": 1512.0, "prepo/response_tokens_total/max": 12345.0, "timing_s/step": 3},
            **{ACC: 0.5, "val-core/mini_math/acc/best@2/mean": 0.9},
        },
    },
]


@pytest.mark.parametrize("torn", [b"", b'{"step": 3, "da', b'{"step": 3}', b'{"step": 3, "data": {"val-core/\xc3'])
def test_a_stopped_runs_torn_last_line_is_left_out_and_the_reports_command_named(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes("".join(json.dumps(line) + "\n" for line in LINES).encode() + torn)
    assert list(read_lines(path)) == LINES
    assert closing_summary(tmp_path, draws=False).endswith(f"python -m recipe.prepo.report {tmp_path}")
    assert list(tmp_path.iterdir()) == [path]


def test_summary_names_steps_cost_gain_and_report(tmp_path: Path) -> None:
    lines = [*LINES, {"step": 3, "data": {ACC: None}}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    text = closing_summary(tmp_path, next_method="forecast")
    assert f"run directory  {tmp_path}" in text
    assert "2 (5 s in steps), 1,512 rollouts, 12,345 response tokens" in text
    assert f"{ACC}: 0.250 (step 0) -> 0.500 (step 2), +0.250" in text
    *_, report, following = text.splitlines()
    assert "method=forecast" in following
    report = report.removeprefix("report").strip()
    assert "<html" in Path(report).read_text(encoding="utf-8")
