"""PREPO on real data files (GSM8K and DAPO-Math) with the tiny model, and both scorers on the same real batch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from real_stack import ROOT, SMALL, Run, launch

from recipe.prepo.tools.stats import spearman

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.real_data]


def overrides(prepare_data: Callable[[str, str], Path]) -> list[str]:
    gsm8k = prepare_data("gsm8k", "gsm8k/train.jsonl")
    dapo = prepare_data("dapo_math", "dapo_math_greso/train.parquet")
    return [
        *SMALL,
        f"data.train_files=[{gsm8k},{dapo}]",
        "data.max_prompt_length=512",
        "data.train_max_samples=2000",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        "trainer.val_before_train=false",
    ]


@pytest.fixture(scope="module")
def rollout_scored(prepare_data: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    run_overrides = [*overrides(prepare_data), "trainer.total_training_steps=3"]
    return launch(tmp_path_factory.mktemp("real"), run_overrides)


@pytest.fixture(scope="module")
def actor_scored(prepare_data: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    run_overrides = [*overrides(prepare_data), "trainer.total_training_steps=1", "prepo.scorer=actor"]
    return launch(tmp_path_factory.mktemp("actor"), run_overrides)


def test_three_steps_on_real_data_select_weight_and_audit_correctly(rollout_scored: Run) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "check_audit.py"), str(rollout_scored.directory)]
    assert subprocess.run(command, capture_output=True, text=True).stdout.startswith("ok: 3 choices and 96 rollouts")
    sources = {
        candidate["prompt_id"].split("/")[0].split("-")[0]
        for line in rollout_scored.lines("audit/selection.jsonl")
        for candidate in line["candidates"]
    }
    assert len(sources) == 2, sources
    assert sorted(rollout_scored.steps) == [1, 2, 3]
    assert all(0 <= data["actor/grad_norm"] < np.inf for data in rollout_scored.steps.values())


def test_rollout_and_actor_scorers_agree_on_a_real_batch(rollout_scored: Run, actor_scored: Run) -> None:
    a, b = (run.lines("audit/selection.jsonl")[0]["candidates"] for run in (rollout_scored, actor_scored))
    assert [c["prompt_id"] for c in a] == [c["prompt_id"] for c in b]
    assert [c["num_tokens"] for c in a] == [c["num_tokens"] for c in b]
    nll = [np.array([c["nll_nats"] for c in candidates]) for candidates in (a, b)]
    assert spearman(*nll) >= 0.99
    assert np.abs(nll[0] - nll[1]).max() < 0.02
