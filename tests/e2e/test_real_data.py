"""PREPO on real data files (GSM8K and DAPO-Math) with the tiny model, and both scorers on the same real batch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from real_stack import ROOT, SMALL, Run, check_audit, launch

from recipe.prepo.tools.stats import spearman

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.real_data]


QUIET = ("trainer.test_freq=-1", "trainer.save_freq=-1", "trainer.val_before_train=false")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Three steps with candidates scored by the rollout servers, and one with the actor as scorer."""
    source, folder = os.environ.get("PREPO_DATA_DIR"), tmp_path_factory.mktemp("data")
    if not source:
        pytest.skip("PREPO_DATA_DIR is not set: NOT TESTED on real data (GSM8K, DAPO-Math)")
    for dataset, file in (("gsm8k", "gsm8k/train.jsonl"), ("dapo_math", "dapo_math_greso/train.parquet")):
        command = [sys.executable, "-m", "data_prep", dataset, "--source", str(Path(source) / file), "--out", folder]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    files = ",".join(str(path) for path in sorted(folder.glob("*.parquet")))
    overrides = [*SMALL, *QUIET, f"data.train_files=[{files}]"]
    overrides += ["data.max_prompt_length=512", "data.train_max_samples=2000"]
    steps = "trainer.total_training_steps="
    return (
        launch(tmp_path_factory.mktemp("real"), [*overrides, f"{steps}3"]),
        launch(tmp_path_factory.mktemp("actor"), [*overrides, f"{steps}1", "prepo.scorer=actor"]),
    )


def test_three_steps_on_real_data_select_weight_and_audit_correctly(runs: tuple[Run, Run]) -> None:
    rollout_scored, _ = runs
    assert check_audit(rollout_scored).startswith("ok: 3 choices and 96 rollouts")
    sources = {
        candidate["prompt_id"].split("/")[0].split("-")[0]
        for line in rollout_scored.lines("audit/selection.jsonl")
        for candidate in line["candidates"]
    }
    assert len(sources) == 2, sources
    assert sorted(rollout_scored.steps) == [1, 2, 3]
    assert all(0 <= data["actor/grad_norm"] < np.inf for data in rollout_scored.steps.values())


def test_rollout_and_actor_scorers_agree_on_a_real_batch(runs: tuple[Run, Run]) -> None:
    a, b = (run.lines("audit/selection.jsonl")[0]["candidates"] for run in runs)
    assert [c["prompt_id"] for c in a] == [c["prompt_id"] for c in b]
    assert [c["num_tokens"] for c in a] == [c["num_tokens"] for c in b]
    nll = [np.array([c["nll_nats"] for c in candidates]) for candidates in (a, b)]
    assert spearman(*nll) >= 0.99
    assert np.abs(nll[0] - nll[1]).max() < 0.02
