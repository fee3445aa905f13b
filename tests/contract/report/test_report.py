"""The report of one finished run and of several: numbers on the page, pictures, the command's answers."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipe.prepo.errors import DataError
from recipe.prepo.report import main
from recipe.prepo.rules.registry import SELECTION
from recipe.prepo.tools.report import write_report
from recipe.prepo.tools.report.charts import (
    PANELS,
    NoData,
    over_steps,
    pass_rate,
    perplexities_and_rewards,
    phase_seconds,
)
from recipe.prepo.tools.report.compare import Method, group_methods
from recipe.prepo.tools.report.load import SECONDS, load_run
from recipe.prepo.tools.report.page import make_page
from recipe.prepo.tools.report.targets import Verdict
from recipe.prepo.types import Panel

SHARED = {
    "accuracy_rollouts", "accuracy_tokens", "accuracy_seconds", "zero_advantage", "entropy", "temperature", "window",
    "weights",
}  # fmt: skip
OWN = {"step_time"}
EMPTY = {"staleness", "skipped", "rollouts", "perplexity_pass_rate"}
MakeRun = Callable[..., Path]
ReadPage = Callable[[str], Any]


@pytest.fixture(scope="module")
def report_dir(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([finished_run], tmp_path_factory.mktemp("report")).parent


@pytest.fixture(scope="module")
def page(report_dir: Path, read_page: ReadPage) -> Any:
    return read_page((report_dir / "index.html").read_text(encoding="utf-8"))


def test_page_holds_every_figure_inside_and_beside(report_dir: Path, page: Any) -> None:
    assert set(page.figures) - set(page.images) == EMPTY, "named in the list of figures without data"
    assert set(page.images) == SHARED | OWN
    for name, data in page.images.items():
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert data == (report_dir / f"{name}.png").read_bytes()
        width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
        assert width > 500
        assert height > 300
        assert data.endswith(b"IEND\xaeB`\x82")
        assert len(page.alts[name]) > 20


def test_page_fetches_nothing_and_runs_one_script(page: Any) -> None:
    assert not page.tags & {"link", "iframe", "object", "a", "form"}
    (script,) = re.findall(r"<script>(.*?)</script>", page.html, flags=re.S)
    named = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{named}'" in page.html
    assert "https://" not in page.html
    assert re.findall('http://[^ "]+', page.html) == ["http://www.w3.org/2000/svg"], "a name space"
    assert "default-src 'none'" in page.html


def test_summary_and_settings_hold_the_numbers_of_the_run(page: Any) -> None:
    rows = page.cells("summary")
    expected = {
        "selection": "ppl_schedule", "weighting": "relative_entropy", "shaping": "none", "steps": "6 of 6",
        "final held-out score": "0.5500", "gain": "+0.3000", "rollouts": "96", "response tokens": "1,920",
        "seconds in steps": "54.0", "seconds in validation": "18.0", "zero-advantage share": "0.4930",
    }  # fmt: skip
    assert {name: rows[name] for name in expected} == {name: [value] for name, value in expected.items()}
    settings = page.cells("settings")
    assert settings["model"] == ["some/model"]
    assert settings["training data"] == ["['train.parquet']"]


def test_summary_holds_the_score_of_each_set_and_their_mean(page: Any) -> None:
    rows = page.cells("summary")
    assert rows["final math500/acc/mean@2"] == rows["final openai/gsm8k/acc/mean@2"] == ["0.5500"]
    assert "plain mean over math500/acc/mean@2, openai/gsm8k/acc/mean@2." in page.text


def test_last_values_list_every_metric(finished_run: Path, page: Any) -> None:
    logged = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    rows = page.cells("metrics")
    assert set(rows) == {"metric", SECONDS} | {name for line in logged for name in line["data"]}
    assert rows["prepo/rollouts_total/max"] == ["96", "6"]


def test_phase_seconds_add_up_to_the_step_the_checkpoint_and_the_validation(finished_run: Path) -> None:
    run = load_run(finished_run)
    seconds = phase_seconds(run)
    assert seconds.iloc[0].sum() == pytest.approx(9.0 + 0.7 + 3.0)
    assert seconds["rest"].iloc[0] == pytest.approx(9.0 - 8.0)
    run.metrics.loc[2, "timing_s/gen"] = 40.0
    assert phase_seconds(run)["rest"].min() == 0, "phases that overlap"


def test_scoring_beside_the_update_counts_as_the_wait_for_it(finished_run: Path) -> None:
    run = load_run(finished_run)
    trained = run.metrics["timing_s/step"].notna()
    run.metrics.loc[trained, ["timing_s/prompt_scoring", "timing_s/dispatch_wait"]] = (20.0, 0.5)
    seconds = phase_seconds(run)
    assert "prompt_scoring" not in seconds
    assert seconds["dispatch_wait"].tolist() == [0.5] * 6


def test_comparison_lays_runs_side_by_side(tmp_path: Path, make_run: MakeRun, read_page: ReadPage) -> None:
    first = make_run(tmp_path / "first", sets=("gsm8k", "math500"))
    second = make_run(tmp_path / "second", steps=4, rule="uniform", sets=("math500",), lift=0.01, seed=1)
    index = write_report([first, second], tmp_path / "out")
    assert index == tmp_path / "out" / "index.html"
    page = read_page(index.read_text(encoding="utf-8"))
    assert set(page.images) == SHARED | {f"{name}_{index}" for name in OWN for index in (1, 2)}
    rows = page.cells("summary")
    assert rows["method"] == ["first", "second"]
    assert rows["selection"] == ["ppl_schedule", "uniform"]
    assert rows["final held-out score"] == ["0.5500", "0.2900"]
    assert rows["gain"] == ["+0.3000", "+0.0400"]
    assert rows["rollouts"] == ["96", "64"]
    assert rows["response tokens"] == ["1,920", "1,280"]
    assert rows["seconds in steps"] == ["54.0", "36.0"]
    assert rows["zero-advantage share"] == ["0.4930", "0.4950"]
    assert "plain mean over math500/acc/mean@2." in page.text, "only the sets that both runs have are compared"
    assert "second: 4 of 6 steps are logged" in page.text
    assert not (first / "report").exists()
    assert page.text.index("first needed 4.0x fewer rollouts than second, 1 seed each.") < page.text.index("Warnings")


def test_comparison_of_runs_without_a_shared_score_says_so(
    tmp_path: Path, make_run: MakeRun, read_page: ReadPage
) -> None:
    runs = [load_run(make_run(tmp_path / name, sets=(name,), rule=name)) for name in ("a", "b")]
    page = read_page(make_page(group_methods(runs), [], [], None, Verdict("", "")))
    assert page.cells("summary")["gain"] == ["n/a", "n/a"]
    assert "The runs share no held-out score" in page.text


def test_comparison_goes_to_outputs_and_tells_runs_of_one_name_apart(
    tmp_path: Path, make_run: MakeRun, read_page: ReadPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [make_run(tmp_path / folder / "run", steps=0, rule=f"rule_{folder}") for folder in ("a", "b")]
    monkeypatch.chdir(tmp_path)
    index = write_report(runs)
    assert index.resolve() == (tmp_path / "outputs" / "report" / "index.html").resolve()
    assert read_page(index.read_text(encoding="utf-8")).cells("summary")["method"] == ["a/run", "b/run"]


def test_no_run_directory_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(DataError, match="is not a run directory"):
            write_report([path])
        assert main([str(path)]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"error: {path} is not a run directory")
        assert message.count("\n") == 1
        assert not (path / "report").exists()
    with pytest.raises(DataError, match="no run directory: pass one or more"):
        write_report([])


def test_command_prints_the_path_of_the_page(
    tmp_path: Path, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run(tmp_path / "run", steps=1)
    assert main([str(run_dir)]) == 0
    assert capsys.readouterr().out.strip() == str(run_dir / "report" / "index.html")
    assert main([str(run_dir), "--out", str(tmp_path / "here")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "here" / "index.html")
    assert (tmp_path / "here" / "accuracy_rollouts.png").stat().st_size > 1000


def test_details_are_closed_until_opened(finished_run: Path) -> None:
    run = load_run(finished_run)
    html = make_page([Method("run", (run,))], [], [(run, "", [])], None, Verdict("", ""))
    assert html.count("<details>") == 2
    assert "<details open" not in html


def test_importing_the_summary_loads_neither_matplotlib_nor_the_trainer() -> None:
    heavy = "{'matplotlib', 'verl', 'ray', 'torch'}"
    code = f"import sys, recipe.prepo.tools.summary; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_metric_that_never_changes_takes_no_room(finished_run: Path) -> None:
    run = load_run(finished_run)
    methods = [Method("one", (run,)), Method("two", (run, run))]
    assert over_steps("temperature", PANELS["temperature"], methods[:1])
    run.metrics["prepo/temperature/mean"] = 1.0
    with pytest.raises(NoData, match="The same at every step"):
        over_steps("temperature", PANELS["temperature"], methods)


def test_a_rule_adds_its_own_panels_and_unknown_rules_none(
    tmp_path: Path, make_run: MakeRun, read_page: ReadPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Toy(SELECTION["uniform"]):  # type: ignore[misc,name-defined]
        panels = (Panel("Toy share", "What the toy did.", {"prepo/toy/mean": "toy", "absent": "absent"}, "share"),)

    monkeypatch.setitem(SELECTION, "toy", Toy)
    runs = [make_run(tmp_path / name, steps=2, rule=name) for name in ("toy", "of_another_release")]
    for run_dir in runs:
        with (run_dir / "metrics.jsonl").open("a") as metrics:
            metrics.write('{"step": 1, "data": {"prepo/toy/mean": 0.5}}\n')
    page = read_page(write_report(runs[:1], tmp_path / "one").read_text(encoding="utf-8"))
    assert "What the toy did." in page.figures["rule_toy_share"]
    assert "rule_toy_share" in page.images
    page = read_page(write_report(runs[1:], tmp_path / "two").read_text(encoding="utf-8"))
    assert "rule_toy_share" not in page.figures


def test_staleness_is_drawn_only_where_rollouts_lag(finished_run: Path) -> None:
    run, panel = load_run(finished_run), PANELS["staleness"]
    methods = [Method("run", (run,))]
    with pytest.raises(NoData, match="not logged"):
        over_steps("staleness", panel, methods)
    run.metrics[list(panel.series)] = 0.0
    with pytest.raises(NoData):
        over_steps("staleness", panel, methods)
    run.metrics[next(iter(panel.series))] = run.metrics.index + 0.5
    assert "0 is on-policy" in over_steps("staleness", panel, methods).caption


def test_groups_are_paired_with_the_perplexity_of_their_latest_choice(make_run: MakeRun, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "audited")
    (run_dir / "audit").mkdir()
    choices = {1: [("a", 2.0), ("b", 4.0)], 2: [("a", 3.0), ("c", None)]}
    rewards = [(1, "a", 1.0), (1, "a", 0.0), (2, "b", 1.0), (2, "a", 1.0), (2, "c", 0.0)]  # b trains a step late
    with open(run_dir / "audit" / "selection.jsonl", "w", encoding="utf-8") as file:
        for step, prompts in choices.items():
            candidates = [{"prompt_id": prompt, "ppl": ppl} for prompt, ppl in prompts]
            file.write(json.dumps({"step": step, "candidates": candidates}) + "\n")
    with open(run_dir / "audit" / "rollouts.jsonl", "w", encoding="utf-8") as file:
        for step, prompt, reward in rewards:
            file.write(json.dumps({"step": step, "prompt_id": prompt, "reward": reward}) + "\n")
    run = load_run(run_dir)
    found = perplexities_and_rewards(run).sort_values(["step", "prompt"])
    assert found.values.tolist() == [[1, "a", 0.5, 2.0], [2, "a", 1.0, 3.0], [2, "b", 1.0, 4.0]]
    assert "3 groups of 2 prompts" in pass_rate(run).caption
    (run_dir / "audit" / "rollouts.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(NoData, match="damaged"):
        pass_rate(run)
