"""Two data-parallel actor ranks and two rollout replicas, with every rule that is not a default."""

from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean

import pytest
from real_stack import SMALL, Run, check_audit, launch

pytestmark = pytest.mark.e2e

TWO_RANKS = [
    *SMALL,
    "trainer.n_gpus_per_node=2",
    "ray_kwargs.ray_init.num_gpus=2",
    "trainer.val_before_train=false",
    "trainer.test_freq=-1",
    "trainer.total_training_steps=3",
]
RAGGED = ["prepo.budget.lowest=2", "prepo.budget.highest=6", "prepo.budget.epoch_steps=1"]


@pytest.fixture(scope="module")
def all_rules_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """PREPO with E3's budget, temperature and length bias, scored by the actor, ranked after each step."""
    # |B| = 41 is not a multiple of the two ranks.
    overrides = [*TWO_RANKS, "method=prepo_e3", "prepo.scorer=actor", "prepo.candidate_ratio=5.125"]
    overrides += ["prepo.score_ratio=5.125", *RAGGED, "prepo/shaping=length_bias", "prepo.shaping.epoch_steps=1"]
    overrides += ["prepo.shaping.easiest_share=1.0", "prepo.shaping.mu=0.1", "trainer.save_freq=3"]
    overrides += ["actor_rollout_ref.rollout.calculate_log_probs=true"]
    return launch(tmp_path_factory.mktemp("all_rules"), overrides)


def trained_groups(run: Run) -> dict[int, Counter[str]]:
    """Step -> prompt -> number of its rollouts that were trained on."""
    trained: dict[int, Counter[str]] = defaultdict(Counter)
    for line in run.lines("audit/rollouts.jsonl"):
        trained[line["step"]][line["prompt_id"]] += 1
    return trained


def test_choices_and_weights_hold_over_two_ranks(all_rules_run: Run) -> None:
    checked = check_audit(all_rules_run)
    assert checked.startswith("ok: 3 choices and 96 rollouts"), checked
    for choice in all_rules_run.lines("audit/selection.jsonl"):
        assert len(choice["candidates"]) == 41
        assert all(1.0 < candidate["ppl"] < 10.0 for candidate in choice["candidates"])
    assert (all_rules_run.directory / "global_step_3" / "actor" / "model_world_size_2_rank_1.pt").exists()


def test_group_sizes_are_those_of_the_budget(all_rules_run: Run) -> None:
    sizes = {line["step"]: line["rollout_n"] for line in all_rules_run.lines("audit/selection.jsonl")}
    assert trained_groups(all_rules_run) == sizes
    assert set(sizes[1].values()) == {4}
    assert all(len(set(sizes[step].values())) > 1 for step in (2, 3))


def test_temperature_changes_and_reaches_server_and_actor(all_rules_run: Run) -> None:
    chosen = {line["step"]: line["temperature"] for line in all_rules_run.lines("audit/selection.jsonl")}
    assert chosen[1] == 1.0 and len(set(chosen.values())) > 1
    for line in all_rules_run.lines("audit/rollouts.jsonl"):
        assert line["temperature"] == pytest.approx(chosen[line["step"]], rel=1e-6)
    for data in all_rules_run.steps.values():
        # The actor's log-probs agree with the server's, which sampled at that temperature, before the first update.
        assert data["training/rollout_probs_diff_max"] < 1e-3
        assert abs(data["actor/ppo_kl"]) < 1e-5


def test_shaped_rewards_reach_the_advantages_only(all_rules_run: Run) -> None:
    lines = all_rules_run.lines("audit/rollouts.jsonl")
    biased = [line for line in lines if line["reward_shaped"] != line["reward"]]
    assert biased and all(line["step"] > 1 and line["reward"] == 1.0 for line in biased)
    for line in biased:
        assert line["reward_shaped"] == pytest.approx(1 / (1 + 0.1 * line["num_tokens"]))
    for step, data in all_rules_run.steps.items():
        raw = [line["reward"] for line in lines if line["step"] == step]
        assert data["critic/score/mean"] == pytest.approx(mean(raw))
    groups = defaultdict(list)
    for line in biased:
        groups[line["step"], line["prompt_id"]].append(line)
    for group in groups.values():
        shortest, longest = (edge(group, key=lambda line: line["num_tokens"]) for edge in (min, max))
        if shortest["num_tokens"] < longest["num_tokens"]:
            assert shortest["advantage"] > longest["advantage"]


@pytest.mark.slow
def test_ragged_groups_that_do_not_fill_the_batch_hold_over_two_ranks(tmp_path: Path) -> None:
    """GRESO's kept groups with E3's sizes do not add up to K x M: verl pads, and no padding row is counted."""
    overrides = [*TWO_RANKS, "trainer.save_freq=-1", "data.train_max_samples=24", "prepo/selection=greso"]
    overrides += ["prepo.selection.min_round=2", "prepo/budget=difficulty", *RAGGED, "prepo/temperature=entropy_target"]
    run = launch(tmp_path, overrides)
    assert check_audit(run).startswith("ok: ")
    sizes: dict[int, Counter[str]] = defaultdict(Counter)
    for line in run.lines("audit/selection.jsonl"):
        sizes[line["step"]].update(line["rollout_n"])
    trained, rewards = trained_groups(run), defaultdict(set)
    for line in run.lines("audit/rollouts.jsonl"):
        rewards[line["step"], line["prompt_id"]].add(line["reward"])
    assert all(each == {0.0, 1.0} for each in rewards.values())  # groups with a signal only
    assert set(trained) == {1, 2, 3}
    for step, groups in trained.items():
        data = run.steps[step]
        assert sum(groups.values()) <= 32 and len(groups) <= 8
        assert data["prepo/rollouts/sum"] == sum(sizes[step].values())
        assert data["prepo/discarded_rollouts/sum"] == sum(sizes[step].values()) - sum(groups.values())
        assert data["prepo/weight/mean"] == pytest.approx(1, abs=1e-6)
    assert any(len(set(groups.values())) > 1 for groups in trained.values())
    assert any(sum(groups.values()) < 32 for groups in trained.values())
