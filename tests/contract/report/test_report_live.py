"""The live report: drawn while a run goes on, whole at every moment, and never in the way of the training."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from report_pages import make_run

from recipe.prepo.run import console
from recipe.prepo.tools.report import write_report
from recipe.prepo.tools.summary import closing_summary, live_report

PATIENCE_S = 120.0
REFRESH = 'http-equiv="refresh"'


@pytest.fixture(autouse=True)
def fast_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "POLL_INTERVAL_S", 0.02)


def wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.1)


def begin(run_dir: Path) -> None:
    """Log the steps of `make_run` in a new file, as a run does that has just begun."""
    metrics = run_dir / "metrics.jsonl"
    (run_dir / "new").write_bytes(metrics.read_bytes())
    os.replace(run_dir / "new", metrics)


def add_step(run_dir: Path, step: int) -> None:
    with (run_dir / "metrics.jsonl").open("a") as metrics:
        metrics.write(json.dumps({"step": step, "data": {"critic/score/mean": 0.5}}) + "\n")


def test_page_is_drawn_while_the_run_goes_on_and_refreshes_until_the_end(tmp_path: Path) -> None:
    run_dir, steps = make_run(tmp_path / "run", steps=2, planned=5000), itertools.count(3)
    index = run_dir / "report" / "index.html"

    def is_drawn_again() -> bool:
        add_step(run_dir, next(steps))
        return "2 of 5000" not in index.read_text(encoding="utf-8")

    with live_report(run_dir, 2):
        begin(run_dir)
        wait_for(index.exists, "the first page")
        html = index.read_text(encoding="utf-8")
        assert REFRESH in html and "2 of 5000" in html
        wait_for(is_drawn_again, "a later page")
    add_step(run_dir, 5000)
    closing_summary(run_dir)
    html = index.read_text(encoding="utf-8")
    assert REFRESH not in html and html.endswith("</body></html>")
    assert {path.suffix for path in index.parent.iterdir()} == {".html", ".png"}, "something half-written is left"


def replace_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *commands: str) -> Path:
    """Run a shell script in place of Python; each start adds a line to the returned file."""
    script, starts = tmp_path / "python", tmp_path / "starts"
    script.write_text("\n".join(["#!/bin/sh", f'echo "$$ $*" >> {starts}', *commands, ""]))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return starts


def test_drawings_never_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = replace_python(tmp_path, monkeypatch, "exec sleep 1")
    run_dir = make_run(tmp_path / "run", steps=1, planned=99)
    started = time.monotonic()
    with live_report(run_dir, 1):
        begin(run_dir)
        for step in range(2, 60):
            add_step(run_dir, step)
            time.sleep(0.05)
    lasted = time.monotonic() - started
    lines = starts.read_text().splitlines()
    assert 2 <= len(lines) <= lasted + 1, "one a second at most"
    assert all(line.endswith(f"-m recipe.prepo.report {run_dir} --live") for line in lines)
    for line in lines:
        assert not Path(f"/proc/{line.split()[0]}").exists(), "a drawing outlived the run"


def test_failing_drawing_shows_its_error_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    starts = replace_python(tmp_path, monkeypatch, 'echo "no room left" >&2', "exit 3")
    run_dir = make_run(tmp_path / "run", steps=1, planned=9)
    with live_report(run_dir, 1):
        begin(run_dir)
        wait_for(starts.exists, "the first drawing")
        for step in (2, 3, 4):
            add_step(run_dir, step)
            time.sleep(0.2)
    assert capfd.readouterr().err.count("no room left") == 1
    num_starts = len(starts.read_text().splitlines())
    with live_report(run_dir, 0):
        begin(run_dir)
        time.sleep(0.2)
    assert len(starts.read_text().splitlines()) == num_starts, "0 draws nothing"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    with pytest.raises(RuntimeError, match="out of memory"), live_report(run_dir, 1):
        begin(run_dir)
        raise RuntimeError("out of memory")
    assert "the live report could not be drawn" in capfd.readouterr().err


def test_drawing_process_has_the_lowest_priority_and_a_reader_sees_whole_pages(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", steps=2, planned=12)
    index = write_report([run_dir])
    assert REFRESH not in index.read_text(encoding="utf-8"), "only if asked to"
    process = subprocess.Popen(
        [sys.executable, "-m", "recipe.prepo.report", str(run_dir), "--live"], stdout=subprocess.DEVNULL
    )
    priorities = set()
    while process.poll() is None:
        html = index.read_text(encoding="utf-8")
        assert html.strip().startswith("<!DOCTYPE html>") and html.endswith("</body></html>")
        stat = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        priorities.add(int(stat[16]))
        time.sleep(0.02)
    assert process.returncode == 0
    assert 19 in priorities
    assert REFRESH in index.read_text(encoding="utf-8")
