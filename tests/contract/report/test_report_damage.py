"""The report of unfinished, damaged and odd run directories: it warns of what is missing and draws the rest."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from recipe.prepo.tools.report import charts, style, write_report
from recipe.prepo.tools.report.compare import Method
from recipe.prepo.tools.report.load import Run, load_run
from recipe.prepo.tools.report.page import make_page
from recipe.prepo.tools.report.targets import Verdict

FIGURES = {
    "accuracy_rollouts", "accuracy_tokens", "accuracy_seconds", "zero_advantage", "entropy", "step_time", "temperature",
    "window", "weights",
}  # fmt: skip
MakeRun = Callable[..., Path]
ReadPage = Callable[[str], Any]


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pixels: these tests ask which pictures are drawn, not what is on them."""
    monkeypatch.setitem(style.SETTINGS, "figure.dpi", 40)


def page_of(run: Run, drawings: Sequence[charts.Drawing] = ()) -> str:
    return make_page([Method(run.name, (run,))], drawings, [(run, "", [])], None, Verdict("", ""))


@pytest.fixture
def run_dir(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run to damage."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_missing_metrics_are_named_and_earlier_pictures_removed(run_dir: Path, read_page: ReadPage) -> None:
    (run_dir / "metrics.jsonl").unlink()
    (run_dir / "report").mkdir()
    for name in FIGURES:
        (run_dir / "report" / f"{name}.png").write_bytes(b"an earlier picture")
    page = read_page(write_report([run_dir]).read_text(encoding="utf-8"))
    assert "metrics.jsonl is missing" in page.text
    assert not page.images
    assert set(page.figures) >= FIGURES, "named in the list of figures without data"
    assert not list((run_dir / "report").glob("*.png"))


def test_missing_config_leaves_the_numbers(run_dir: Path, read_page: ReadPage) -> None:
    (run_dir / "config.yaml").unlink()
    page = read_page(page_of(load_run(run_dir)))
    assert "config.yaml is missing" in page.text
    rows = page.cells("summary")
    assert (rows["steps"], rows["selection"], rows["rollouts"]) == (["6 of ?"], ["n/a"], ["96"])


def test_metrics_that_are_nan_null_or_absent_are_reported(
    run_dir: Path, read_page: ReadPage, write_lines: Callable[..., None]
) -> None:
    lines = read_lines(run_dir / "metrics.jsonl")
    for line in lines:
        line["data"].pop("prepo/entropy_nats/mean", None)
        line["data"].pop("prepo/rollouts_total/max", None)
    lines[3]["data"]["critic/score/mean"] = math.nan
    lines[4]["data"]["critic/score/mean"] = None
    write_lines(run_dir / "metrics.jsonl", lines)
    run = load_run(run_dir)
    page = read_page(page_of(run, charts.shared_drawings([Method(run.name, (run,))], None)))
    assert "2 values that are not finite numbers were skipped, the first is critic/score/mean at step 3" in page.text
    assert "prepo/entropy_nats/mean not logged" in page.figures["entropy"]
    assert "prepo/rollouts_total/max is not logged" in page.figures["accuracy_rollouts"]
    assert set(page.images) == FIGURES - {"entropy", "accuracy_rollouts", "step_time"}
    assert page.cells("summary")["rollouts"] == ["n/a"]
    assert run.series("critic/score/mean").index.tolist() == [1, 2, 5, 6]


def test_a_run_still_going_is_reported_up_to_its_cut_line(
    tmp_path: Path, make_run: MakeRun, read_page: ReadPage
) -> None:
    run_dir = make_run(tmp_path / "run", planned=12)
    with (run_dir / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 7, "data": {"critic/sco')
    page = read_page(page_of(load_run(run_dir)))
    assert page.cells("summary")["steps"] == ["6 of 12"]
    assert "6 of 12 steps are logged" in page.text
    assert "metrics.jsonl: 1 damaged or incomplete lines were skipped, the first is line 8" in page.text


def test_damaged_lines_are_counted_and_left_out(run_dir: Path) -> None:
    whole = load_run(run_dir)
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    damaged = ["not json", "[1, 2]", '{"data": {}}', '{"step": 1, "data": []}', "[" * 100_000, '{"step": 1e400}']
    (run_dir / "metrics.jsonl").write_text("\n".join([lines[0], *damaged, *lines[1:]]) + "\n")
    run = load_run(run_dir)
    assert run.warnings == ["metrics.jsonl: 6 damaged or incomplete lines were skipped, the first is line 2"]
    assert run.metrics.equals(whole.metrics)


def test_a_validation_logged_again_on_resume_joins_its_step(run_dir: Path) -> None:
    with (run_dir / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 4, "data": {"val-core/math500/acc/mean@2": 0.75}}\n')
    run = load_run(run_dir)
    assert run.metrics.index.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert run.metrics.loc[4, "val-core/math500/acc/mean@2"] == 0.75
    assert run.metrics.loc[4, "prepo/rollouts_total/max"] == 64
    assert run.warnings == [
        "metrics.jsonl: 1 values were logged twice and differ (the last counts), "
        "the first is val-core/math500/acc/mean@2 at step 4"
    ]


def test_config_is_never_executed(run_dir: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    (run_dir / "config.yaml").write_text(f'a: !!python/object/apply:pathlib.Path.touch ["{trace}"]\n')
    assert "config.yaml is not valid YAML" in load_run(run_dir).warnings[0]
    assert not trace.exists()


def test_text_that_a_plot_could_misread_is_drawn_as_text(
    tmp_path: Path, make_run: MakeRun, read_page: ReadPage
) -> None:
    sets = ("$\\frac{$", "_hidden", "a\nb", "<b>&amp;", "x" * 500)
    page = read_page(write_report([make_run(tmp_path / "run", steps=1, sets=sets)]).read_text(encoding="utf-8"))
    assert "accuracy_rollouts" in page.images
    assert "<b>&amp;/acc/mean@2" in page.text


def test_a_run_of_a_single_step_is_drawn_whole(tmp_path: Path, make_run: MakeRun) -> None:
    index = write_report([make_run(tmp_path / "single", steps=1, planned=1)])
    drawn = {path.stem for path in index.parent.glob("*.png")}
    assert drawn == FIGURES - {"temperature", "weights"}, "nothing can have changed"


def test_a_run_with_only_the_first_validation_shows_it(tmp_path: Path, make_run: MakeRun, read_page: ReadPage) -> None:
    page = read_page(write_report([make_run(tmp_path / "only", steps=0)]).read_text(encoding="utf-8"))
    assert not page.images
    rows = page.cells("summary")
    assert (rows["final held-out score"], rows["gain"]) == (["0.2500"], ["+0.0000"])


def test_a_long_run_has_running_means(tmp_path: Path, make_run: MakeRun) -> None:
    run = load_run(make_run(tmp_path / "long", steps=80, planned=80))
    drawn = style.paint(charts.over_steps("", charts.PANELS["entropy"], [Method("l", (run,))]))
    raw, mean = (line.get_ydata() for line in drawn.axes[0].lines)
    assert raw.tolist() == run.series("prepo/entropy_nats/mean").tolist()
    assert mean[40] == pytest.approx(raw[38:43].mean())
    assert style.smoothing_width(30) == 1


def test_comparison_of_damaged_runs_reports_what_is_missing_and_draws_the_rest(
    tmp_path: Path, make_run: MakeRun, write_lines: Callable[..., None], read_page: ReadPage
) -> None:
    name = "val-core/openai/gsm8k/acc/mean@2"
    whole = make_run(tmp_path / "whole-seed0", rule="uniform")
    short = make_run(tmp_path / "whole-seed1", rule="uniform", seed=1, steps=3)
    bare = make_run(tmp_path / "bare", rule="mopps")
    odd = make_run(tmp_path / "odd", rule="dapo")
    empty = make_run(tmp_path / "empty", rule="greso")
    (bare / "config.yaml").unlink()
    lines = read_lines(odd / "metrics.jsonl")
    lines[-1]["data"] |= {name: math.nan, "prepo/rollouts_total/max": math.nan, "timing_s/step": None}
    write_lines(odd / "metrics.jsonl", lines)
    (empty / "metrics.jsonl").write_text("")
    runs = [whole, short, bare, odd]
    page = read_page(write_report(runs, tmp_path / "four", target=0.4).read_text(encoding="utf-8"))
    assert "whole-seed1: 3 of 6 steps are logged" in page.text
    assert "bare: config.yaml is missing" in page.text
    assert "odd: metrics.jsonl: 3 values that are not finite numbers were skipped" in page.text
    assert {"accuracy_rollouts", "zero_advantage", "weights", "step_time_2"} <= set(page.images)
    target = page.cells("target")
    assert target["method"] == ["whole", "bare", "odd"]
    assert target["reached at step"] == ["3", "3", "3"], "the steps that both seeds have"
    page = read_page(write_report([*runs, empty], tmp_path / "five").read_text(encoding="utf-8"))
    assert "No validation is logged in empty." in page.text
    assert page.cells("target")["reached at step"][-1] == "not evaluated"
    assert {"accuracy_rollouts", "accuracy_tokens", "entropy", "weights"} <= set(page.images)
    page = read_page(write_report([*runs, empty], tmp_path / "six", baseline="empty").read_text(encoding="utf-8"))
    assert "the baseline has no held-out score" in page.text
