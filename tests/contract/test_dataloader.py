"""What a step draws from the data: stock verl's batches under neutral rules, |B| candidates under the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from trainers import OVERRIDES, make_trainer
from verl.trainer.ppo.v1 import PPOTrainerSync

from recipe.prepo.config import read_config
from recipe.prepo.doctor import compose_config
from recipe.prepo.errors import ConfigError
from recipe.prepo.modes import PrepoTrainerColocateAsync, PrepoTrainerSeparateAsync, PrepoTrainerSync
from recipe.prepo.preflight import TRAINER_MODES
from recipe.prepo.trainer import columns
from recipe.prepo.trainer.columns import messages_of


def candidates_of(run_dir: Path) -> list[list[str]]:
    """Prompt ids of each choice's candidates."""
    lines = (run_dir / "audit" / "selection.jsonl").read_text().splitlines()
    return [[candidate["prompt_id"] for candidate in json.loads(line)["candidates"]] for line in lines]


def test_neutral_rules_draw_the_batches_of_stock_verl(tmp_path: Path) -> None:
    stock = make_trainer(PPOTrainerSync, tmp_path / "stock", "trainer.v1.trainer_mode=sync")
    neutral = make_trainer(PrepoTrainerSync, tmp_path / "neutral", "prepo/selection=all", "prepo/weighting=none")
    for _ in range(5):
        ours, theirs = neutral._next_train_batch(), stock._next_train_batch()
        assert set(ours.keys()) == set(theirs.keys())
        assert messages_of(ours) == messages_of(theirs)
        assert len(ours) == 8
        neutral.controller._decisions.clear()  # as the end of a step does
    assert neutral.total_training_steps == stock.total_training_steps
    assert neutral.steps_per_epoch == stock.steps_per_epoch


@pytest.mark.parametrize("selection", ["uniform", "ppl_schedule"])
def test_steps_epochs_and_horizon_follow_from_the_candidates(tmp_path: Path, selection: str) -> None:
    overrides = [f"prepo/selection={selection}", "trainer.total_training_steps=null", "trainer.total_epochs=3"]
    trainer = make_trainer(PrepoTrainerSync, tmp_path, *overrides)
    # 3,000 prompts, |B| = 5 * 8 = 40 a step.
    assert trainer.steps_per_epoch == 75
    assert trainer.total_training_steps == 225
    assert trainer.config.actor_rollout_ref.actor.optim.total_training_steps == 225
    assert trainer.config.data.train_batch_size == 8
    assert trainer.trainer_mode == "sync"


def test_the_schedule_ends_with_the_last_epoch(tmp_path: Path) -> None:
    overrides = ["trainer.total_training_steps=1000", "trainer.total_epochs=2"]
    trainer = make_trainer(PrepoTrainerSync, tmp_path, *overrides)
    assert trainer.total_training_steps == 150
    assert trainer.config.actor_rollout_ref.actor.optim.total_training_steps == 150


def test_an_epoch_of_uniform_steps_draws_every_candidate_once(tmp_path: Path) -> None:
    trainer = make_trainer(PrepoTrainerSync, tmp_path, "prepo/selection=uniform")
    for _ in range(75):
        assert len(trainer._next_train_batch()) == 8
    steps = candidates_of(tmp_path)
    drawn = [prompt_id for step in steps for prompt_id in step]
    assert len(steps) == 75
    assert len(drawn) == len(set(drawn)) == 3000


def test_a_data_set_that_filtering_makes_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has 30 prompts.*\|B\| = 40"):
        make_trainer(PrepoTrainerSync, tmp_path, "data.train_max_samples=30")


def test_filtering_groups_refills_single_prompts_in_the_same_ratio(tmp_path: Path) -> None:
    overrides = ["prepo/selection=uniform", "algorithm.filter_groups.enable=true"]
    trainer = make_trainer(PrepoTrainerSync, tmp_path, *overrides)
    assert trainer.config.data.gen_batch_size == 1
    assert len(trainer._next_train_batch(3)) == 3
    assert [len(drawn) for drawn in candidates_of(tmp_path)] == [15]


@pytest.mark.parametrize("trainer_class", [PrepoTrainerSync, PrepoTrainerColocateAsync, PrepoTrainerSeparateAsync])
def test_a_pool_loads_the_chosen_rows_alone_as_verl_would(trainer_class: Any, tmp_path: Path) -> None:
    """Steps, epochs and horizon are stock verl's; nothing comes twice while it is in flight."""
    mode = next(name for name in TRAINER_MODES if name.endswith(trainer_class.verl_mode))
    overrides = [
        f"trainer.v1.trainer_mode={mode}",
        "prepo.seed_rollouts=false",
        "trainer.total_training_steps=null",
        "trainer.total_epochs=2",
    ]
    if mode == "prepo_separate_async":
        overrides += ["cluster=separate", "actor_rollout_ref.rollout.checkpoint_engine.backend=gloo"]
    pooled = [*overrides, "prepo/selection=mopps", "prepo.candidate_ratio=all"]
    trainer = make_trainer(trainer_class, tmp_path / "pool", *pooled)
    assert (trainer.steps_per_epoch, trainer.total_training_steps) == (375, 750)  # 3,000 prompts, K = 8
    assert trainer.config.actor_rollout_ref.actor.optim.total_training_steps == 750 * trainer.parameter_sync_step
    loaded: list[int] = []
    stock_load = trainer.train_dataloader.load
    trainer.train_dataloader.load = lambda rows: [loaded.extend(rows.tolist()), stock_load(rows)][1]
    batches = [trainer._next_train_batch(number) for number in (None, 3, 1)]
    assert [len(batch) for batch in batches] == [8, 3, 1] and len(loaded) == len(set(loaded)) == 12
    stock = make_trainer(PPOTrainerSync, tmp_path / "stock", "trainer.v1.trainer_mode=sync")
    assert set(batches[0].keys()) == set(stock._next_train_batch(8).keys())
    rows = [stock.train_dataset[row] for row in loaded]
    messages = [columns.messages_of(batch) for batch in batches]
    assert [row["raw_prompt"] for row in rows] == [message for part in messages for message in part]
    assert [row["extra_info"]["prompt_id"] for row in rows] == [i for b in batches for i in columns.prompt_ids_of(b)]
    assert [len(drawn) for drawn in candidates_of(tmp_path / "pool")] == [40, 15, 5]  # recorded ones
    assert trainer.train_dataloader.state_dict() == {}


def test_the_paper_ratio_gives_the_candidates_of_a_step() -> None:
    config = read_config(OmegaConf.to_container(compose_config(OVERRIDES), resolve=True))
    assert (config.num_selected, config.num_candidates, config.rollouts_per_prompt) == (8, 40, 8)
