"""Two data-parallel actor ranks and two rollout replicas: one mean over all ranks, uneven batches padded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from real_stack import SMALL, check_audit, launch, long

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
    checked = check_audit(run)
    assert checked.startswith("ok: 1 choices and 32 rollouts"), checked
    (choice,) = run.lines("audit/selection.jsonl")
    assert len(choice["candidates"]) == 41
    assert all(1.0 < candidate["ppl"] < 10.0 for candidate in choice["candidates"])
    assert (tmp_path / "global_step_1" / "actor" / "model_world_size_2_rank_1.pt").exists()


@long
def test_ragged_groups_that_do_not_fill_the_batch_hold_over_two_ranks(tmp_path: Path) -> None:
    """GRESO's kept groups with E3's sizes do not add up to K x M: verl pads, and no padding row is counted."""
    overrides = [
        *SMALL,
        "trainer.n_gpus_per_node=2",
        "ray_kwargs.ray_init.num_gpus=2",
        "trainer.total_training_steps=3",
        "trainer.val_before_train=false",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        "data.train_max_samples=24",
        "prepo/selection=greso",
        "prepo.selection.min_round=2",
        "prepo/budget=difficulty",
        "prepo.budget.lowest=2",
        "prepo.budget.highest=6",
        "prepo.budget.epoch_steps=1",
        "prepo/temperature=entropy_target",
    ]
    run = launch(tmp_path, overrides)
    assert check_audit(run).startswith("ok: ")
    sizes: dict[int, Counter[str]] = {}
    for line in run.lines("audit/selection.jsonl"):
        sizes.setdefault(line["step"], Counter()).update(line["rollout_n"])
    trained: dict[int, Counter[str]] = {}
    for line in run.lines("audit/rollouts.jsonl"):
        trained.setdefault(line["step"], Counter())[line["prompt_id"]] += 1
    assert set(trained) == {1, 2, 3}
    for step, groups in trained.items():
        data = run.steps[step]
        assert sum(groups.values()) <= 32
        assert len(groups) <= 8
        assert data["prepo/rollouts/sum"] == sum(sizes[step].values())
        assert data["prepo/discarded_rollouts/sum"] == sum(sizes[step].values()) - sum(groups.values())
        assert data["prepo/weight/mean"] == pytest.approx(1, abs=1e-6)
    assert any(len(set(groups.values())) > 1 for groups in trained.values())
    assert any(sum(groups.values()) < 32 for groups in trained.values())
