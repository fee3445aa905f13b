"""The report of a prepo run and a uniform run on the real stack."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from real_stack import ROOT, SMALL, Run, launch

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


def test_the_page_has_the_figures_the_numbers_and_the_generations_of_both(
    straight_run: Run, uniform_run: Run, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "recipe.prepo.report", straight_run.directory, uniform_run.directory]
    subprocess.run([*command, "--out", tmp_path], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert {path.stem for path in tmp_path.glob("*.png")} >= PICTURES
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Training rollouts" in html and "Validation generations" in html
    assert html.count("<article") >= 8 and "Step 4, " in html
    (body,) = re.findall(r'<table id="summary".*?</table>', html, re.DOTALL)
    rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]
    columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
    assert columns["selection"] == ("ppl_schedule", "uniform") and columns["rollouts"] == ("128", "128")
