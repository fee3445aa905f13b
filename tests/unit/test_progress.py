"""What a run prints: the parts that start, each step as its metrics are written, and the closing summary."""

from pathlib import Path

import pytest

from recipe.prepo.run.console import describe_step, progress_bar
from recipe.prepo.run.jsonl import StepLog
from recipe.prepo.supervise.start_lines import StartLines
from recipe.prepo.tools.summary import closing_summary


def write(run_dir, *lines, resume_step=0):
    log = StepLog(run_dir / "metrics.jsonl", resume_step=resume_step)
    log.append({"step": step, "data": data} for step, data in lines)
    log.close()


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({}, ""),
        ({"prepo/selected/sum": None, "prepo/candidates/sum": 9.0, "critic/score/mean": 0.5}, "reward 0.500"),
        ({"prepo/rollouts_total/max": 1234567.0, "prepo/failed_rollouts/sum": 0}, "1,234,567 rollouts so far"),
        ({"prepo/rollouts_total/max": 32.0, "prepo/failed_rollouts/sum": 2}, "32 rollouts so far, 2 failed"),
        ({"val-core/s/acc/mean@2": 0.25, "val-core/s/acc/best@2/mean": 0.75}, "held-out 0.250"),
    ],
)
def test_step_in_words(numbers, text):
    assert describe_step(numbers) == text


def test_lines_have_the_seconds_of_the_step_and_the_time_left(tmp_path, capsys):
    """The time left counts validations and checkpoints, which are outside of a step's own time."""
    second = {"timing_s/step": 20.0, "timing_s/testing": 60.0, "timing_s/save_checkpoint": 10}
    first = {"critic/score/mean": 0.5, "timing_s/step": 30.0}
    with progress_bar(tmp_path, 100):
        write(tmp_path, (0, {"val-core/s/acc/mean@1": 0.5}), (1, first), (2, second))
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
def test_each_step_of_this_run_is_shown_once_also_of_one_that_fails(tmp_path, capsys, earlier, resume_step, steps):
    if earlier is not None:
        write(tmp_path, *((step, {"critic/score/mean": 0.0}) for step in earlier))
    with pytest.raises(RuntimeError, match="out of memory"), progress_bar(tmp_path, 5, first_step=resume_step):
        write(tmp_path, *((step, {"critic/score/mean": 0.2}) for step in steps), resume_step=resume_step)
        raise RuntimeError("out of memory")
    assert capsys.readouterr().out.splitlines() == [f"step {step}/5: reward 0.200" for step in steps]


@pytest.mark.parametrize("rest", ['{"step": 2, "da', "not json\n", '{"no": "step"}\n'])
def test_an_odd_line_is_not_shown_and_never_takes_the_run_down(tmp_path, rest, capsys):
    with progress_bar(tmp_path, 3), progress_bar(tmp_path / "nowhere", 3):
        (tmp_path / "metrics.jsonl").write_text('{"step": 1, "data": {}}\n' + rest, encoding="utf-8")
    assert capsys.readouterr().out.splitlines() == ["step 1/3: "]


def test_one_line_a_part_with_the_seconds_of_the_part_before(capsys):
    with StartLines() as lines:
        lines.now("Ray")
        lines.now("the trainer")
    assert capsys.readouterr().out.splitlines() == ["starting Ray", "starting the trainer (Ray: 0 s)"]


ACC = "val-core/mini_math/acc/mean@2"
COST = {"prepo/rollouts_total/max": 1512.0, "prepo/response_tokens_total/max": 12345.0, "timing_s/step": 3}
LINES = [
    (0, {ACC: 0.25}),
    (1, {"prepo/rollouts_total/max": 256.0, "timing_s/step": 2}),
    (2, {**COST, ACC: 0.5, "val-core/mini_math/acc/best@2/mean": 0.9}),
]


def test_summary_names_steps_cost_gain_and_report(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(tmp_path, *LINES, (3, {ACC: None}))
    path.write_bytes(path.read_bytes() + b'{"step": 4, "data": {"val-core/\xc3')  # torn
    assert closing_summary(tmp_path, draws=False).endswith(f"python -m recipe.prepo.report {tmp_path}")
    assert list(tmp_path.iterdir()) == [path]
    text = closing_summary(tmp_path, next_method="forecast")
    assert f"run directory  {tmp_path}" in text
    assert "2 (5 s in steps), 1,512 rollouts, 12,345 response tokens" in text
    assert f"{ACC}: 0.250 (step 0) -> 0.500 (step 2), +0.250" in text
    *_, report, following = text.splitlines()
    assert "method=forecast" in following
    report = report.removeprefix("report").strip()
    assert "<html" in Path(report).read_text(encoding="utf-8")
