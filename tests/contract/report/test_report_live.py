"""The live report: drawn while a run goes on, whole at every moment, and never in the way of the training."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe.prepo.tools.report import live, write_report
from recipe.prepo.tools.report.live import last_step, live_report

MakeRun = Callable[..., Path]
PATIENCE_S = 120.0
REFRESH = 'http-equiv="refresh"'


@pytest.fixture(autouse=True)
def fast_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "POLL_INTERVAL_S", 0.02)


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.02)


def add_step(run_dir: Path, step: int) -> None:
    with (run_dir / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": step, "data": {"critic/score/mean": 0.5}}) + "\n")


def children() -> list[int]:
    """Drawing processes of this process that still live."""
    found = []
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        for child in (task / "children").read_text().split():
            with contextlib.suppress(OSError):  # it has just ended
                if b"recipe.prepo.tools.report" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


def test_page_is_drawn_while_the_run_goes_on_and_refreshes_until_the_end(tmp_path: Path, make_run: MakeRun) -> None:
    run_dir = make_run(tmp_path / "run", steps=2, planned=12)
    index = run_dir / "report" / "index.html"
    with live_report(run_dir, 2):
        wait_for(index.exists, "the first page")
        html = index.read_text(encoding="utf-8")
        assert REFRESH in html
        assert "2 of 12" in html
        for step in (3, 4):
            add_step(run_dir, step)
        wait_for(lambda: "4 of 12" in index.read_text(encoding="utf-8"), "a page of step 4")
        wait_for(lambda: not children(), "the end of the drawing")
        add_step(run_dir, 5)
        time.sleep(0.5)
        assert not children(), "a page is due every second step"
    html = index.read_text(encoding="utf-8")
    assert REFRESH not in html
    assert html.startswith("<!DOCTYPE html>")
    assert html.endswith("</body></html>\n")
    assert {path.suffix for path in index.parent.iterdir()} == {".html", ".png"}, "something half-written is left"


def test_finished_run_and_command_by_hand_do_not_refresh(tmp_path: Path, make_run: MakeRun) -> None:
    done, going = make_run(tmp_path / "done", steps=1, planned=1), make_run(tmp_path / "going", steps=1, planned=9)
    assert REFRESH not in write_report([done], refresh_s=5).read_text(encoding="utf-8")
    assert REFRESH not in write_report([going]).read_text(encoding="utf-8")
    assert f'{REFRESH} content="5"' in write_report([going], refresh_s=5).read_text(encoding="utf-8")


def test_zero_draws_nothing(tmp_path: Path, make_run: MakeRun) -> None:
    run_dir = make_run(tmp_path / "run")
    with live_report(run_dir, 0):
        time.sleep(0.2)
        assert not children()
    assert not (run_dir / "report").exists()


@pytest.fixture
def slow_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of Python, a command that notes each start and its priority and then takes a second."""
    command, starts = tmp_path / "slow", tmp_path / "starts"
    command.write_text(f'#!/bin/sh\necho "$$ $*" >> {starts}\nsleep 1\n')
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(command))
    return starts


def test_drawings_never_overlap(tmp_path: Path, make_run: MakeRun, slow_drawing: Path) -> None:
    run_dir = make_run(tmp_path / "run", steps=1, planned=99)
    begin = time.monotonic()
    with live_report(run_dir, 1):
        for step in range(2, 60):
            add_step(run_dir, step)
            time.sleep(0.05)
    lasted = time.monotonic() - begin
    starts = slow_drawing.read_text().splitlines()
    assert 2 <= len(starts) <= lasted + 1, "one a second at most"
    assert all(line.endswith(f"-m recipe.prepo.report {run_dir} --live") for line in starts)
    for line in starts:
        assert not Path(f"/proc/{line.split()[0]}").exists(), "a drawing outlived the run"


def test_failing_drawing_is_told_once_and_stops_nothing(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run(tmp_path / "run", steps=1, planned=9)
    command, starts = tmp_path / "failing", tmp_path / "starts"
    command.write_text(f'#!/bin/sh\necho start >> {starts}\necho "no room left" >&2\nexit 3\n')
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(command))
    done = False
    with live_report(run_dir, 1):
        for step in (2, 3):
            wait_for(lambda: starts.exists() and len(starts.read_text().splitlines()) >= step - 1, "a failure")  # noqa: B023
            add_step(run_dir, step)
        wait_for(lambda: len(starts.read_text().splitlines()) >= 3, "a third failure")
        time.sleep(0.2)
        done = True
    assert done
    told = capfd.readouterr().err
    assert told.count("the live report could not be drawn (no room left)") == 1
    assert "training goes on" in told


def test_command_that_cannot_start_is_told_once(
    tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run(tmp_path / "run", steps=1, planned=9)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    with live_report(run_dir, 1):
        for step in range(2, 5):
            add_step(run_dir, step)
            time.sleep(0.1)
    assert capfd.readouterr().err.count("the live report could not be drawn") == 1


def test_error_of_the_body_goes_through_and_the_page_stops_refreshing(tmp_path: Path, make_run: MakeRun) -> None:
    run_dir = make_run(tmp_path / "run", steps=2, planned=12)
    index = write_report([run_dir], refresh_s=5)
    with pytest.raises(RuntimeError, match="out of memory"), live_report(run_dir, 100):
        raise RuntimeError("out of memory")
    assert REFRESH not in index.read_text(encoding="utf-8")


def test_drawing_process_has_the_lowest_priority_and_a_reader_sees_whole_pages(
    tmp_path: Path, make_run: MakeRun
) -> None:
    run_dir = make_run(tmp_path / "run", steps=2, planned=12)
    index = write_report([run_dir])
    process = subprocess.Popen(
        [sys.executable, "-m", "recipe.prepo.report", str(run_dir), "--live"], stdout=subprocess.DEVNULL
    )
    priorities = set()
    while process.poll() is None:
        html = index.read_text(encoding="utf-8")
        assert html.startswith("<!DOCTYPE html>") and html.endswith("</body></html>\n")
        stat = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        priorities.add(int(stat[16]))
    assert process.returncode == 0
    assert 19 in priorities
    assert REFRESH in index.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("", -1),
        ('{"step": 3, "data": {}}\n', 3),
        ('{"step": 3, "data": {}}\n{"step": 4, "da', 3),
        ('{"step": 3, "data": {}}\nnot json\n[1]\n{"data": {}}\n{"step": "x"}\n', 3),
        ('{"step": 1}' + " " * 600_000 + "\n" + '{"step": 2}\n', 2),
    ],
)
def test_last_step_is_that_of_the_last_whole_line(tmp_path: Path, text: str, step: int) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_step(path) == -1
    path.write_text(text)
    assert last_step(path) == step
