"""A checkpoint of another run: one clear error from inside the workers, and nothing overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from real_stack import SMALL, Run, launch

pytestmark = pytest.mark.e2e


def test_a_checkpoint_of_another_seed_is_refused_and_left_whole(straight_run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(straight_run.directory, directory)
    before = {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()}
    overrides = [*SMALL, "trainer.total_training_steps=6", "prepo.seed=1"]
    refused = launch(directory, overrides, expect=2)
    errors = [line for line in refused.output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "run.seed=0, this run has 1" in errors[0]
    assert "Traceback" not in refused.output
    assert {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()} == before
