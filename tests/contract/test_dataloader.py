"""What a step draws from the data: stock verl's batches under neutral rules, |B| candidates under the others."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trainers import make_trainer
from verl.trainer.ppo.v1 import PPOTrainerSync

from recipe.prepo.errors import ConfigError
from recipe.prepo.modes import PrepoTrainerColocateAsync, PrepoTrainerSeparateAsync, PrepoTrainerSync
from recipe.prepo.preflight import TRAINER_MODES
from recipe.prepo.rows import content_ids, read_prompts, rows_within_limit
from recipe.prepo.trainer import columns
from recipe.prepo.trainer.columns import messages_of, prompt_ids_of

MORE = ["prepo/selection=uniform", "prepo.score_candidates=auto", "data.filter_overlong_prompts=true"]
MORE += ["data.max_prompt_length=64", "data.val_files=${data.train_files}"]


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


@pytest.mark.parametrize(("steps", "epochs", "total"), [("null", 3, 225), (1000, 2, 150)])
def test_steps_epochs_and_horizon_follow_from_the_candidates(
    tmp_path: Path, steps: str | int, epochs: int, total: int
) -> None:
    """3,000 prompts, |B| = 5 * 8 = 40 a step."""
    overrides = [f"trainer.total_training_steps={steps}", f"trainer.total_epochs={epochs}"]
    trainer = make_trainer(PrepoTrainerSync, tmp_path, *overrides)
    assert (trainer.steps_per_epoch, trainer.total_training_steps) == (75, total)
    assert trainer.config.actor_rollout_ref.actor.optim.total_training_steps == total
    assert (trainer.config.data.train_batch_size, trainer.trainer_mode) == (8, "sync")


def test_an_epoch_of_uniform_steps_draws_every_candidate_once(tmp_path: Path) -> None:
    trainer = make_trainer(PrepoTrainerSync, tmp_path, "prepo/selection=uniform")
    for _ in range(75):
        assert len(trainer._next_train_batch()) == 8
    steps = candidates_of(tmp_path)
    drawn = [prompt_id for step in steps for prompt_id in step]
    assert len(steps) == 75
    assert len(drawn) == len(set(drawn)) == 3000


def test_filtering_groups_refills_single_prompts_in_the_same_ratio(tmp_path: Path) -> None:
    overrides = ["prepo/selection=uniform", "algorithm.filter_groups.enable=true"]
    trainer = make_trainer(PrepoTrainerSync, tmp_path, *overrides)
    assert trainer.config.data.gen_batch_size == 1
    assert len(trainer._next_train_batch(3)) == 3
    assert [len(drawn) for drawn in candidates_of(tmp_path)] == [15]
    with pytest.raises(ConfigError, match=r"has 30 prompts.*\|B\| = 40"):
        make_trainer(PrepoTrainerSync, tmp_path, "data.train_max_samples=30")


@pytest.mark.parametrize("trainer_class", [PrepoTrainerSync, PrepoTrainerColocateAsync, PrepoTrainerSeparateAsync])
def test_a_pool_loads_the_chosen_rows_alone_as_verl_would(trainer_class: Any, tmp_path: Path) -> None:
    """Steps, epochs and horizon are stock verl's; nothing comes twice while it is in flight."""
    mode = next(name for name in TRAINER_MODES if name.endswith(trainer_class.verl_mode))
    overrides = [f"trainer.v1.trainer_mode={mode}", "prepo.seed_rollouts=false", "trainer.total_epochs=2"]
    overrides += ["trainer.total_training_steps=null"]
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


def test_rows_without_ids_get_those_of_their_content_and_are_drawn_as_rows_with_ids(tmp_path: Path) -> None:
    rows = pq.read_table("assets/mini-math/mini_math_train.parquet").slice(0, 400).to_pylist()
    for i, row in enumerate(rows):
        row["chat"] = row.pop("prompt")
        row["extra_info"] = {"split": "train", "index": i}  # as verl's own preprocessing leaves it
    without = tmp_path / "without.jsonl"
    without.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ids = content_ids([row["chat"] for row in rows], [row["reward_model"]["ground_truth"] for row in rows])
    for row, prompt_id in zip(rows, ids, strict=True):
        row["extra_info"]["prompt_id"] = prompt_id
    with_ids = tmp_path / "with.parquet"
    pq.write_table(pa.Table.from_pylist(rows), with_ids)
    derived, given = (
        make_trainer(PrepoTrainerSync, path.with_suffix(""), f"data.train_files={path}", "data.prompt_key=chat", *MORE)
        for path in (without, with_ids)
    )
    assert derived.controller.identity == given.controller.identity
    for _ in range(3):
        ours, theirs = derived._next_train_batch(), given._next_train_batch()
        assert prompt_ids_of(ours) == prompt_ids_of(theirs)
        assert messages_of(ours) == messages_of(theirs)
        assert [info["index"] for info in ours["extra_info"]] == [info["index"] for info in theirs["extra_info"]]
        for trainer in (derived, given):
            trainer.controller._decisions.clear()  # as the end of a step does


def test_rows_within_the_limit_are_those_that_verl_keeps(tmp_path: Path) -> None:
    limit, path = 40, "assets/mini-math/mini_math_train.parquet"
    overrides = [f"data.max_prompt_length={limit}", "data.filter_overlong_prompts=true", "data.train_max_samples=300"]
    dataset = make_trainer(PrepoTrainerSync, tmp_path, *overrides).train_dataset
    prompts = read_prompts([path], max_samples=300, shuffle=dataset.shuffle, seed=dataset.seed)
    assert 0 < rows_within_limit(prompts, dataset.tokenizer, {}, limit) == len(dataset) < 300
