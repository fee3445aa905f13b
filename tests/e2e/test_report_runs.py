"""The report of a prepo run and a uniform run on the real stack."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from real_stack import ROOT, SMALL, Run, launch

from recipe.prepo.run.console import describe_step

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PICTURES = {"accuracy_rollouts", "accuracy_tokens", "accuracy_seconds", "zero_advantage", "entropy", "window"}
PICTURES |= {"weights", "perplexity_pass_rate_1", "step_time_1", "step_time_2"}


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
    assert pictures >= PICTURES
    text = (out / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'<figure id="(\w+)"><h3>[^<]*</h3><img ', text)) == pictures
    return text


def cells(html: str, table: str) -> dict[str, list[str]]:
    """Rows of a table by their first cell."""
    (body,) = re.findall(rf'<table id="{table}".*?</table>', html, re.DOTALL)
    rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]
    return {row[0]: row[1:] for row in rows}


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
