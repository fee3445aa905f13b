"""Two temperatures in one batch, and a sweep, on the real stack."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pytest
from real_stack import ROOT, Run, launch

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TEMPERATURES = (0.7, 1.4)  # of tests/helpers/mixed_temperatures.py, which must not be imported here
SMALL = ["data.train_batch_size=8", "actor_rollout_ref.actor.ppo_mini_batch_size=8"]
SMALL += ["trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=-1"]


def test_batch_of_two_temperatures_has_one_each_for_sampling_old_and_new_log_probs(tmp_path: Path) -> None:
    overrides = ["experiment=comparison", "method=random", "prepo/temperature=entropy_target", *SMALL]
    overrides += ["actor_rollout_ref.rollout.calculate_log_probs=true", "trainer.total_training_steps=1"]
    helpers = str(ROOT / "tests" / "helpers")
    environment = {"VERL_USE_EXTERNAL_MODULES": "mixed_temperatures", "PYTHONPATH": helpers}
    run = launch(tmp_path, overrides, extra_environment=environment)
    lines = run.lines("audit/rollouts.jsonl")
    low, high = ([line for line in lines if line["temperature"] == pytest.approx(t)] for t in TEMPERATURES)
    assert len(low) == len(high) == 32
    # The actor's entropies are at the rollout's own temperature …
    assert mean(line["entropy_nats"] for line in high) > 1.5 * mean(line["entropy_nats"] for line in low)
    # … its old log-probs agree with the server's, which sampled at that temperature …
    assert run.steps[1]["training/rollout_probs_diff_max"] < 1e-3
    # … and the update's log-probs are the old ones before the first update.
    assert abs(run.steps[1]["actor/ppo_kl"]) < 1e-5
    assert run.steps[1]["actor/pg_clipfrac"] == 0


def test_sweep_over_seeds(tmp_path: Path) -> None:
    """Hydra's multirun in one process: a directory for each seed, and verl's filter accounted for."""
    command = [sys.executable, "-m", "recipe.prepo.main", "--multirun", "experiment=comparison", "method=dapo"]
    command += ["prepo.seed=0,1", *SMALL, "trainer.total_training_steps=2"]
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "VERL_PLATFORM")}
    done = subprocess.run(
        command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(ROOT)}, text=True, timeout=900,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    runs = [Run(tmp_path / "outputs" / f"dapo-seed{seed}", done.stdout) for seed in (0, 1)]
    chosen = [json.dumps([line["selected"] for line in run.lines("audit/selection.jsonl")]) for run in runs]
    assert chosen[0] != chosen[1]
    for run in runs:
        trained = [line["step"] for line in run.lines("audit/rollouts.jsonl")]
        assert {step: trained.count(step) for step in trained} == {1: 64, 2: 64} and set(run.steps) == {1, 2}
        for data in run.steps.values():
            assert data["prepo/rollouts/sum"] == 64 + data["prepo/discarded_rollouts/sum"]
    assert any(data["prepo/discarded_rollouts/sum"] > 0 for run in runs for data in run.steps.values())
