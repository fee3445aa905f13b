"""A checkpoint of another run: one clear error, if possible before Ray starts, and nothing overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from real_stack import SMALL, Run, launch

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("override", "named", "starts_ray"),
    [
        ("prepo.seed=1", "run.seed=0, this run has 1", False),
        # Which prompts there are is known only once the workers have read and filtered the data.
        pytest.param("data.train_max_samples=2000", "run.data_sha256=", True, marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_left_unchanged(
    override: str, named: str, starts_ray: bool, straight_run: Run, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(straight_run.directory, directory)
    before = {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()}
    refused = launch(directory, [*SMALL, "trainer.total_training_steps=6", override], expect=2)
    errors = [line for line in refused.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert named in errors[0]
    assert "Traceback" not in refused.output
    assert ("starting Ray" in refused.output) == starts_ray
    assert {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()} == before
