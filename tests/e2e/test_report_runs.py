"""The report of a prepo run and a uniform run on the real stack."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from real_stack import ROOT, SMALL, Run, launch

from recipe.prepo.run.console import describe_step

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

OVERLAID = {
    "accuracy_rollouts",
    "accuracy_tokens",
    "accuracy_seconds",
    "zero_advantage",
    "entropy",
    "window",
    "weights",
}

OWN = {"perplexity_pass_rate_1", "step_time_1", "step_time_2"}


@pytest.fixture(scope="module")
def uniform_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A uniform run beside `straight_run`, evaluated after each step, with its generations kept."""
    directory = tmp_path_factory.mktemp("uniform")
    overrides = [
        *SMALL, "prepo/selection=uniform", "prepo/weighting=none", "trainer.total_training_steps=4",
        "trainer.test_freq=1", "trainer.save_freq=-1", f"trainer.rollout_data_dir={directory / 'rollouts'}",
        f"trainer.validation_data_dir={directory / 'validation'}",
    ]  # fmt: skip
    return launch(directory, overrides)


@pytest.fixture(scope="module")
def html(straight_run: Run, uniform_run: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("report")
    command = [sys.executable, "-m", "recipe.prepo.report", straight_run.directory, uniform_run.directory]
    subprocess.run([*command, "--out", out], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    pictures = {path.stem for path in out.glob("*.png")}
    assert pictures >= OVERLAID | OWN
    text = (out / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'<figure id="(\w+)"><h3>[^<]*</h3><img ', text)) == pictures
    return text


def cells(html: str, table: str) -> dict[str, list[str]]:
    """Rows of a table by their first cell."""
    (body,) = re.findall(rf'<table id="{table}".*?</table>', html, re.DOTALL)
    rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]
    return {row[0]: row[1:] for row in rows}


def score(data: dict[str, float]) -> float | None:
    return next((value for name, value in data.items() if re.fullmatch(r"val-core/.*/acc/mean@1", name)), None)


def by_hand(run: Run, target: float) -> int | None:
    """Rollouts at the first evaluation at or above the target, from the lines of `metrics.jsonl` alone."""
    for line in run.lines("metrics.jsonl"):
        found = score(line["data"])
        if found is not None and found >= target - 1e-9:
            return int(line["data"].get("prepo/rollouts_total/max", 0))
    return None


def test_rollouts_to_the_baselines_score_agree_with_a_computation_by_hand(
    html: str, straight_run: Run, uniform_run: Run
) -> None:
    final = [score(line["data"]) for line in uniform_run.lines("metrics.jsonl") if score(line["data"]) is not None][-1]
    assert final is not None
    rows = cells(html, "target")
    names = [straight_run.directory.name, uniform_run.directory.name]
    assert rows["method"] == names
    expected = [by_hand(run, final) for run in (straight_run, uniform_run)]
    assert expected[1] is not None
    assert rows["rollouts"] == ["never" if spent is None else f"{spent:,}" for spent in expected]
    assert rows["rollouts, baseline / method"][1] == "baseline"
    if expected[0] and expected[1]:
        assert float(rows["rollouts, baseline / method"][0]) == pytest.approx(expected[1] / expected[0], abs=5e-3)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 1.0, 1.1])
def test_rollouts_to_a_stated_score_agree_with_a_computation_by_hand(
    uniform_run: Run, tmp_path: Path, share: float
) -> None:
    scores = [found for line in uniform_run.lines("metrics.jsonl") if (found := score(line["data"])) is not None]
    assert len(scores) == 5
    target = min(scores) + share * (max(scores) - min(scores))
    command = [sys.executable, "-m", "recipe.prepo.report", uniform_run.directory, "--target", str(target)]
    subprocess.run([*command, "--out", tmp_path], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    rows = cells((tmp_path / "index.html").read_text(encoding="utf-8"), "target")
    spent = by_hand(uniform_run, target)
    assert rows["rollouts"] == ["never" if spent is None else f"{spent:,}"]


def test_generations_that_verl_keeps_are_shown(html: str, uniform_run: Run) -> None:
    assert "Training rollouts" in html
    assert "Validation generations" in html
    assert html.count("<article") >= 8
    dumped = (uniform_run.directory / "rollouts" / "4.jsonl").read_text(encoding="utf-8")
    assert dumped.count("\n") == 32
    assert "Step 4, " in html


def test_page_names_the_rules_and_what_was_measured(html: str, straight_run: Run) -> None:
    rows = cells(html, "summary")
    assert rows["selection"] == ["ppl_schedule", "uniform"]
    assert rows["steps"] == ["4 of 4", "4 of 4"]
    assert "rollouts 128" in describe_step(straight_run.steps[4])
    assert rows["rollouts"] == ["128", "128"]
