"""The report of unfinished, damaged and odd run directories: it warns of what is missing and draws the rest."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_pages import Page, make_run, write_lines

from recipe.prepo.tools.report import style, write_report
from recipe.prepo.tools.report.load import load_run

FIGURES = {
    "accuracy_rollouts", "accuracy_tokens", "accuracy_seconds", "zero_advantage", "entropy", "step_time", "temperature",
    "window", "weights",
}  # fmt: skip
PageOf = Callable[..., Any]
SCORE = "val-core/openai/gsm8k/acc/mean@2"


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def page_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PageOf:
    """The page of runs, in few pixels: these tests ask which pictures are drawn, not what is on them."""
    monkeypatch.setitem(style.SETTINGS, "figure.dpi", 40)
    return lambda *runs, **options: Page(write_report(runs, tmp_path / "out", **options).read_text("utf-8"))


@pytest.fixture
def run_dir(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run to damage."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_missing_files_are_named_and_earlier_pictures_removed(run_dir: Path, tmp_path: Path, page_of: PageOf) -> None:
    assert set(page_of(run_dir).images) == FIGURES
    (run_dir / "metrics.jsonl").rename(tmp_path / "metrics.jsonl")
    page = page_of(run_dir)
    assert "metrics.jsonl is missing" in page.text and not page.images
    assert set(page.figures) >= FIGURES, "named in the list of figures without data"
    assert not list((tmp_path / "out").glob("*.png"))
    (tmp_path / "metrics.jsonl").rename(run_dir / "metrics.jsonl")
    (run_dir / "config.yaml").unlink()
    page = page_of(run_dir)
    assert "config.yaml is missing" in page.text
    rows = page.cells("summary")
    assert (rows["steps"], rows["selection"], rows["rollouts"]) == (["6 of ?"], ["n/a"], ["96"])


def test_metrics_that_are_nan_null_or_absent_are_reported(run_dir: Path, page_of: PageOf) -> None:
    lines = read_lines(run_dir / "metrics.jsonl")
    for line in lines:
        line["data"].pop("prepo/entropy_nats/mean", None)
        line["data"].pop("prepo/rollouts_total/max", None)
    lines[3]["data"]["critic/score/mean"] = math.nan
    lines[4]["data"]["critic/score/mean"] = None
    write_lines(run_dir / "metrics.jsonl", lines)
    page = page_of(run_dir)
    assert "2 values that are not finite numbers were skipped, the first is critic/score/mean at step 3" in page.text
    assert "prepo/entropy_nats/mean not logged" in page.figures["entropy"]
    assert "prepo/rollouts_total/max is not logged" in page.figures["accuracy_rollouts"]
    assert set(page.images) == FIGURES - {"entropy", "accuracy_rollouts"}
    assert page.cells("summary")["rollouts"] == ["n/a"]
    assert load_run(run_dir).series("critic/score/mean").index.tolist() == [1, 2, 5, 6]


def test_damaged_lines_are_counted_and_left_out(run_dir: Path) -> None:
    whole = load_run(run_dir)
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    damaged = ["not json", "[1, 2]", '{"data": {}}', '{"step": 1, "data": []}', "[" * 100_000, '{"step": 1e400}']
    (run_dir / "metrics.jsonl").write_text("\n".join([lines[0], *damaged, *lines[1:], '{"step": 7, "data": {"crit']))
    run = load_run(run_dir)
    assert run.warnings == ["metrics.jsonl: 7 damaged or incomplete lines were skipped, the first is line 2"]
    assert run.metrics.equals(whole.metrics)


def test_a_validation_logged_again_on_resume_joins_its_step(run_dir: Path) -> None:
    with (run_dir / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 4, "data": {"val-core/math500/acc/mean@2": 0.75}}\n')
    run = load_run(run_dir)
    assert run.metrics.index.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert run.metrics.loc[4, ["val-core/math500/acc/mean@2", "prepo/rollouts_total/max"]].tolist() == [0.75, 64]
    (warning,) = run.warnings
    assert "1 values were logged twice and differ (the last counts), the first is val-core/math500" in warning


def test_config_is_never_executed(run_dir: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    (run_dir / "config.yaml").write_text(f'a: !!python/object/apply:pathlib.Path.touch ["{trace}"]\n')
    assert "config.yaml is not valid YAML" in load_run(run_dir).warnings[0]
    assert not trace.exists()


def test_short_and_odd_runs_are_drawn(tmp_path: Path, page_of: PageOf) -> None:
    sets = ("$\\frac{$", "_hidden", "a\nb", "<b>&amp;", "x" * 500)
    page = page_of(make_run(tmp_path / "one step", steps=1, planned=1, sets=sets))
    assert set(page.images) == FIGURES - {"temperature", "weights"}, "nothing can have changed"
    assert "<b>&amp;/acc/mean@2" in page.text, "text that a plot could misread"
    page = page_of(make_run(tmp_path / "only validated", steps=0))
    rows = page.cells("summary")
    assert not page.images and (rows["final held-out score"], rows["gain"]) == (["0.2500"], ["+0.0000"])


def test_comparison_of_damaged_runs_reports_what_is_missing_and_draws_the_rest(tmp_path: Path, page_of: PageOf) -> None:
    whole = make_run(tmp_path / "whole-seed0", rule="uniform")
    short = make_run(tmp_path / "whole-seed1", rule="uniform", seed=1, steps=3)
    bare, odd, empty = (make_run(tmp_path / name, rule=name) for name in ("mopps", "dapo", "greso"))
    (bare / "config.yaml").unlink()
    lines = read_lines(odd / "metrics.jsonl")
    lines[-1]["data"] |= {SCORE: math.nan, "prepo/rollouts_total/max": math.nan, "timing_s/step": None}
    write_lines(odd / "metrics.jsonl", lines)
    (empty / "metrics.jsonl").write_text("")
    runs = [whole, short, bare, odd]
    page = page_of(*runs, target=0.4)
    assert "whole-seed1: 3 of 6 steps are logged" in page.text and "mopps: config.yaml is missing" in page.text
    assert "dapo: metrics.jsonl: 3 values that are not finite numbers were skipped" in page.text
    assert {"accuracy_rollouts", "zero_advantage", "weights", "step_time_2"} <= set(page.images)
    target = page.cells("target")
    assert target["method"] == ["whole", "mopps", "dapo"]
    assert target["reached at step"] == ["3", "3", "3"], "the steps that both seeds have"
    page = page_of(*runs, empty)
    assert "No validation is logged in greso." in page.text
    assert page.cells("target")["reached at step"][-1] == "not evaluated"
    assert "the baseline has no held-out score" in page_of(*runs, empty, baseline="greso").text
