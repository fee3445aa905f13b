"""Two data-parallel actor ranks and two rollout replicas: one mean over all ranks, uneven candidates padded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from real_stack import ROOT, SMALL, launch

pytestmark = pytest.mark.e2e


def test_choices_and_weights_hold_over_two_ranks(tmp_path: Path) -> None:
    overrides = [
        *SMALL,
        "trainer.n_gpus_per_node=2",
        "ray_kwargs.ray_init.num_gpus=2",
        "trainer.total_training_steps=1",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.save_freq=1",
        "prepo.scorer=actor",
        "prepo.candidate_ratio=5.125",  # |B| = 41: not a multiple of the two ranks
    ]
    run = launch(tmp_path, overrides)
    command = [sys.executable, str(ROOT / "scripts" / "check_audit.py"), str(tmp_path)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert checked.startswith("ok: 1 choices and 32 rollouts"), checked
    (choice,) = run.lines("audit/selection.jsonl")
    assert len(choice["candidates"]) == 41
    assert all(1.0 < candidate["ppl"] < 10.0 for candidate in choice["candidates"])
    assert (tmp_path / "global_step_1" / "actor" / "model_world_size_2_rank_1.pt").exists()
