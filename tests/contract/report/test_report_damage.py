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

METRIC_FIGURES = {
    "accuracy_rollouts", "accuracy_tokens", "accuracy_seconds", "zero_advantage", "entropy", "step_time", "temperature",
}  # fmt: skip
SINGLE = METRIC_FIGURES | {"window", "perplexity_pass_rate", "weights", "choices"}
MakeRun = Callable[..., Path]
ReadPage = Callable[[str], Any]


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pixels: these tests ask which pictures are drawn, not what is on them."""
    monkeypatch.setattr(style, "DPI", 40)


def page_of(run: Run, drawings: Sequence[charts.Drawing] = ()) -> str:
    return make_page([Method(run.name, (run,))], drawings, [(run, "", [])], None)


@pytest.fixture
def run_dir(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run to damage."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.mark.parametrize(
    ("missing", "not_drawn"),
    [
        ("audit/selection.jsonl", {"window", "perplexity_pass_rate", "choices"}),
        ("audit/rollouts.jsonl", {"weights", "perplexity_pass_rate"}),
        ("metrics.jsonl", METRIC_FIGURES),
    ],
)
def test_missing_file_is_named_and_the_rest_drawn(
    run_dir: Path, read_page: ReadPage, missing: str, not_drawn: set[str]
) -> None:
    (run_dir / missing).unlink()
    (run_dir / "report").mkdir()
    for name in SINGLE:
        (run_dir / "report" / f"{name}.png").write_bytes(b"an earlier picture")
    page = read_page(write_report([run_dir]).read_text(encoding="utf-8"))
    assert f"{missing} is missing" in page.text
    assert set(page.images) == SINGLE - not_drawn
    assert not_drawn <= set(page.figures), "named in the list of figures without data"
    left = {path.stem: path.read_bytes() for path in (run_dir / "report").glob("*.png")}
    assert left == page.images, "an earlier picture stayed"


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
    assert "critic/score/mean (2 times)" in page.text
    assert "prepo/entropy_nats/mean not logged" in page.figures["entropy"]
    assert "drawn against steps instead" in page.figures["accuracy_rollouts"]
    assert set(page.images) == METRIC_FIGURES - {"entropy", "step_time"}
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
    assert "metrics.jsonl: the last line is incomplete" in page.text


@pytest.mark.parametrize("name", ["metrics.jsonl", "audit/selection.jsonl", "audit/rollouts.jsonl"])
def test_damaged_lines_are_counted_and_left_out(run_dir: Path, name: str) -> None:
    whole = load_run(run_dir)
    lines = (run_dir / name).read_text().splitlines()
    damaged = ["not json", "[1, 2]", '{"data": {}}', '{"step": true, "data": {}}', "[" * 100_000, '{"step": 1e400}']
    (run_dir / name).write_text("\n".join([lines[0], *damaged, *lines[1:]]) + "\n")
    run = load_run(run_dir)
    assert run.warnings == [f"{name}: 6 damaged lines were skipped, the first is line 2"]
    for frame in ("metrics", "candidates", "chosen", "rollouts"):
        assert getattr(run, frame).equals(getattr(whole, frame))


def test_a_validation_logged_again_on_resume_joins_its_step(run_dir: Path) -> None:
    with (run_dir / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 4, "data": {"val-core/math500/acc/mean@2": 0.75}}\n')
    run = load_run(run_dir)
    assert run.metrics.index.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert run.metrics.loc[4, "val-core/math500/acc/mean@2"] == 0.75
    assert run.metrics.loc[4, "prepo/rollouts_total/max"] == 64
    assert run.warnings == ["metrics.jsonl: 1 steps were logged twice with different values; the last counts"]


def test_config_is_never_executed(run_dir: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    (run_dir / "config.yaml").write_text(f'a: !!python/object/apply:pathlib.Path.touch ["{trace}"]\n')
    assert "config.yaml is not valid YAML" in load_run(run_dir).warnings[0]
    assert not trace.exists()


def test_text_that_a_plot_could_misread_is_drawn_as_text(
    tmp_path: Path, make_run: MakeRun, read_page: ReadPage
) -> None:
    sets = ("$\\frac{$", "_hidden", "a\nb", "<b>&amp;", "lone \ud800 surrogate", "x" * 500)
    page = read_page(write_report([make_run(tmp_path / "run", steps=0, sets=sets)]).read_text(encoding="utf-8"))
    assert "accuracy_rollouts" in page.images
    assert "<b>&amp;/acc/mean@2" in page.text


def test_a_run_without_scores_draws_no_perplexity(tmp_path: Path, make_run: MakeRun) -> None:
    run = load_run(make_run(tmp_path / "u", rule="uniform", scored=False))
    with pytest.raises(charts.NoData, match="contains no scored candidate"):
        charts.window(run)
    with pytest.raises(charts.NoData, match="No trained prompt has a perplexity"):
        charts.perplexity_pass_rate(run)


def test_equal_weights_are_reported_instead_of_drawn(run_dir: Path, write_lines: Callable[..., None]) -> None:
    path = run_dir / "audit" / "rollouts.jsonl"
    write_lines(path, [line | {"weight": 1.0} for line in read_lines(path)])
    with pytest.raises(charts.NoData, match="All 96 weights are 1"):
        charts.weights(load_run(run_dir))


def test_rewards_other_than_0_and_1_are_not_called_a_pass_rate(run_dir: Path, write_lines: Callable[..., None]) -> None:
    path = run_dir / "audit" / "rollouts.jsonl"
    assert "mean reward" not in charts.perplexity_pass_rate(load_run(run_dir))[1]
    write_lines(path, [line | {"reward": line["reward"] - 0.5} for line in read_lines(path)])
    assert "the mean reward is shown" in charts.perplexity_pass_rate(load_run(run_dir))[1]


def test_a_run_of_a_single_step_is_drawn_whole(tmp_path: Path, make_run: MakeRun) -> None:
    index = write_report([make_run(tmp_path / "single", steps=1, planned=1)])
    assert {path.stem for path in index.parent.glob("*.png")} == SINGLE - {"temperature"}  # nothing can have changed


def test_a_run_with_only_the_first_validation_shows_it(tmp_path: Path, make_run: MakeRun, read_page: ReadPage) -> None:
    page = read_page(write_report([make_run(tmp_path / "only", steps=0)]).read_text(encoding="utf-8"))
    assert set(page.images) == {"accuracy_rollouts"}
    rows = page.cells("summary")
    assert (rows["final held-out score"], rows["gain"]) == (["0.2500"], ["+0.0000"])


def test_a_long_run_has_running_means_and_a_caption_for_them(tmp_path: Path, make_run: MakeRun) -> None:
    run = load_run(make_run(tmp_path / "long", steps=80, planned=80, candidates=5, chosen=1))
    assert (
        "running mean over up to 5 steps" in charts.over_steps("", charts.PANELS["entropy"], [Method("l", (run,))])[1]
    )
    assert style.smoothing_width(30) == 1


def test_comparison_of_damaged_runs_reports_what_is_missing_and_draws_the_rest(
    tmp_path: Path, make_run: MakeRun, write_lines: Callable[..., None], read_page: ReadPage
) -> None:
    name = "val-core/openai/gsm8k/acc/mean@2"
    whole = make_run(tmp_path / "whole-seed0", rule="uniform")
    short = make_run(tmp_path / "whole-seed1", rule="uniform", seed=1, steps=3)
    bare = make_run(tmp_path / "bare", rule="low_ppl")
    odd = make_run(tmp_path / "odd", rule="high_ppl")
    empty = make_run(tmp_path / "empty", rule="greso")
    shutil.rmtree(bare / "audit")
    lines = read_lines(odd / "metrics.jsonl")
    lines[-1]["data"] |= {name: math.nan, "prepo/rollouts_total/max": math.nan, "timing_s/step": None}
    write_lines(odd / "metrics.jsonl", lines)
    (empty / "metrics.jsonl").write_text("")
    runs = [whole, short, bare, odd]
    page = read_page(write_report(runs, tmp_path / "four", target=0.4).read_text(encoding="utf-8"))
    assert "whole-seed1: 3 of 6 steps are logged" in page.text
    assert "bare: audit/selection.jsonl is missing" in page.text
    assert "odd: metrics.jsonl: values that are not finite numbers were skipped" in page.text
    assert f"{name} (1 times)" in page.text
    assert {"accuracy_rollouts", "zero_advantage", "weights_1", "weights_3", "step_time_2"} <= set(page.images)
    assert "weights_2" in page.figures
    target = page.cells("target")
    assert target["method"] == ["whole", "bare", "odd"]
    assert target["reached at step"] == ["3", "3", "3"], "the steps that both seeds have"
    assert "The methods were not evaluated at the same steps." in page.text
    page = read_page(write_report([*runs, empty], tmp_path / "five").read_text(encoding="utf-8"))
    assert "No validation is logged in empty." in page.text
    assert page.cells("target")["reached at step"][-1] == "not evaluated"
    assert {"accuracy_rollouts", "accuracy_tokens", "entropy", "weights_4"} <= set(page.images)
    assert "drawn against steps" not in page.figures["accuracy_rollouts"]
    page = read_page(write_report([*runs, empty], tmp_path / "six", baseline="empty").read_text(encoding="utf-8"))
    assert "the baseline has no held-out score" in page.text
