"""Rollout beside training: on two pools of one logical device each, and interrupted on one pool."""

import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from real_stack import SMALL, Run, check_audit, check_resumed, launch

pytestmark = pytest.mark.e2e

# Two updates between two pushes of the weights; a checkpoint while prompts are in flight.
SEPARATE = [
    *SMALL,
    "cluster=cpu",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "trainer.v1.separate_async.parameter_sync_step=2",
    "trainer.total_training_steps=5",
    "trainer.test_freq=-1",
    "trainer.save_freq=3",
]
COLOCATE = [*SMALL, "trainer.v1.trainer_mode=prepo_colocate_async", "prepo.seed_rollouts=false"]
COLOCATE += ["prepo/budget=difficulty", "prepo.budget.lowest=2", "prepo.budget.highest=6", "prepo.budget.epoch_steps=1"]
COLOCATE += ["prepo/selection=greso", "data.train_max_samples=24", "trainer.total_training_steps=4"]
COLOCATE += ["trainer.test_freq=-1", "trainer.save_freq=-1"]


@pytest.fixture(scope="module")
def separate_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return launch(tmp_path_factory.mktemp("separate"), SEPARATE)


def choices_of(run: Run) -> dict[str, list[dict]]:
    """Prompt -> the choices that it stands in, in order."""
    chosen: dict[str, list[dict]] = defaultdict(list)
    for line in run.lines("audit/selection.jsonl"):
        for prompt_id in line["selected"]:
            chosen[prompt_id].append(line)
    return chosen


def test_separate_pools_train_every_step_and_every_choice_and_weight_is_right(separate_run: Run) -> None:
    assert sorted(separate_run.steps) == [1, 2, 3, 4, 5]
    # One batch ahead of the first step, then one a step; each from its own |B| candidates.
    assert check_audit(separate_run) == "ok: 6 choices and 160 rollouts agree within 1e-06\n"
    choices = separate_run.lines("audit/selection.jsonl")
    calls = [(line["step"], line["call"], line["policy_version"]) for line in choices]
    assert calls == [(1, 0, 0), (1, 1, 0), (2, 0, 1), (3, 0, 2), (4, 0, 3), (5, 0, 4)]
    for step, data in separate_run.steps.items():
        dispatched = 2 if step == 1 else 1
        assert data["prepo/candidates/sum"] == 40 * dispatched
        assert data["prepo/rollouts/sum"] == 32 * dispatched
        assert data["prepo/rollouts_total/max"] == 32 * (step + 1)
        assert data["prepo/weight/mean"] == pytest.approx(1, abs=1e-6)
        assert data["timing_s/prompt_scoring"] > 0
        assert data["timing_s/dispatch_wait"] >= 0


def test_rollouts_are_made_beside_the_update_and_their_staleness_is_bounded_and_told(separate_run: Run) -> None:
    chosen = choices_of(separate_run)
    lines = separate_run.lines("audit/rollouts.jsonl")
    for line in lines:
        first, last = line["policy_versions"]
        (choice,) = chosen[line["prompt_id"]]
        assert choice["policy_version"] <= first <= last < line["step"]
        assert line["step"] - choice["step"] < 4  # conf/cluster/separate.yaml: max_off_policy_threshold
    # A rollout that was trained on in a later step than the one in which its prompt was chosen.
    assert any(line["step"] > chosen[line["prompt_id"]][0]["step"] for line in lines)
    by_step = Counter(line["step"] for line in lines)
    for step, data in separate_run.steps.items():
        stale = [step - 1 - line["policy_versions"][1] for line in lines if line["step"] == step]
        assert by_step[step] == 32
        assert data["training/off_policy/trajectory_staleness/max"] == max(stale)
        assert data["training/off_policy/trajectory_staleness/mean"] == pytest.approx(sum(stale) / 32)


@pytest.mark.slow
def test_resumed_run_rolls_out_again_what_was_in_flight(separate_run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(separate_run.directory, directory)
    shutil.rmtree(directory / "global_step_5")
    (directory / "latest_checkpointed_iteration.txt").write_text("3")
    resumed = launch(directory, SEPARATE)
    check_resumed(directory, resumed.output, after=3, total=5)
    assert sorted(resumed.steps) == [1, 2, 3, 4, 5]
    choices, lines = resumed.lines("audit/selection.jsonl"), resumed.lines("audit/rollouts.jsonl")
    trained = Counter((line["prompt_id"], line["rollout"]) for line in lines)
    assert set(trained.values()) == {1} and len(trained) == 160
    before, after = ({line["prompt_id"] for line in lines if (line["step"] > 3) == late} for late in (False, True))
    waiting = {prompt_id for line in choices if line["step"] <= 3 for prompt_id in line["selected"]} - before
    assert len(waiting) == 8 and waiting <= after
    # Choices from the restored rules, data and in-flight prompts: no second batch ahead.
    assert [(line["step"], line["call"]) for line in choices][-2:] == [(4, 0), (5, 0)]


@pytest.mark.slow
def test_interrupted_rollouts_train_with_every_other_rule(tmp_path: Path) -> None:
    colocate_run = launch(tmp_path, COLOCATE)
    assert sorted(colocate_run.steps) == [1, 2, 3, 4]
    assert check_audit(colocate_run).startswith("ok: ")
    dispatched = Counter()
    for line in colocate_run.lines("audit/selection.jsonl"):
        assert line["policy_version"] == line["step"] - 1
        dispatched[line["step"]] += sum(line["rollout_n"].values())
    trained = Counter(line["step"] for line in colocate_run.lines("audit/rollouts.jsonl"))
    for step, data in colocate_run.steps.items():
        assert 0 < trained[step] <= 32
        assert data["prepo/rollouts/sum"] == dispatched[step]
    # GRESO throws groups without reward variance away, and verl's buffer asks for as many again.
    assert sum(data["prepo/discarded_rollouts/sum"] for data in colocate_run.steps.values()) > 0
    for line in colocate_run.lines("audit/rollouts.jsonl"):
        assert 0 <= line["policy_versions"][0] <= line["policy_versions"][1] < line["step"]
