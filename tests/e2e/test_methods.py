"""GRESO, E3 and their combinations with PREPO on the real stack."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from real_stack import ROOT, Run, check_resumed, launch

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NUM_STEPS = 24
TEMPERATURES = (0.7, 1.4)  # of tests/helpers/mixed_temperatures.py, which must not be imported here
QUIET = ["trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=-1"]
# Few prompts, so that each of them comes up several times.
PAIRED = [
    "experiment=comparison",
    "method=random",
    "data.train_max_samples=48",
    "data.train_batch_size=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=8",
    f"trainer.total_training_steps={NUM_STEPS}",
    *QUIET,
]


@pytest.fixture(scope="module")
def uniform_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Uniform choice, constant temperature: the partner of the two runs below, with the same seed."""
    return launch(tmp_path_factory.mktemp("uniform"), PAIRED)


@pytest.fixture(scope="module")
def entropy_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Uniform choice with the temperature that holds the entropy, its target not annealed."""
    overrides = [*PAIRED, "prepo/temperature=entropy_target", "prepo.temperature.annealing_share=0"]
    return launch(tmp_path_factory.mktemp("entropy"), overrides)


@pytest.fixture(scope="module")
def greso_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """GRESO on the same prompts."""
    overrides = [*PAIRED, "prepo/selection=greso", "prepo.selection.min_round=2"]
    return launch(tmp_path_factory.mktemp("greso"), overrides)


COMBINED = [
    "experiment=comparison",
    "method=prepo_e3",
    "data.train_batch_size=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=8",
    "prepo.candidate_ratio=all",
    "prepo.budget.epoch_steps=1",
    "prepo/shaping=length_bias",
    "prepo.shaping.epoch_steps=1",
    "prepo.shaping.easiest_share=0.5",
    "prepo.shaping.mu=0.1",
    "trainer.total_training_steps=6",
    *QUIET,
    "trainer.save_freq=3",
]


@pytest.fixture(scope="module")
def combined_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """PREPO over all prompts with kept scores, E3's budget, temperature and length bias, ranked after each step."""
    return launch(tmp_path_factory.mktemp("combined"), COMBINED)


def by_step(run: Run) -> Mapping[int, list[dict[str, Any]]]:
    steps = defaultdict(list)
    for line in run.lines("audit/rollouts.jsonl"):
        steps[line["step"]].append(line)
    return steps


def token_entropy_nats(run: Run, first: int, last: int) -> float:
    """Mean over the steps of the entropy of a token."""
    steps = by_step(run)
    return mean(
        sum(line["entropy_nats"] * line["num_tokens"] for line in steps[step])
        / sum(line["num_tokens"] for line in steps[step])
        for step in range(first, last + 1)
    )


def test_entropy_stays_at_its_target_and_without_the_rule_it_does_not(entropy_run: Run, uniform_run: Run) -> None:
    target = entropy_run.steps[NUM_STEPS]["prepo/entropy_target_nats/mean"]
    assert target == pytest.approx(token_entropy_nats(entropy_run, 1, 1), rel=1e-6)
    assert token_entropy_nats(uniform_run, 1, 1) == pytest.approx(target, rel=1e-3)  # the same seed, the same start
    # Means of seven steps: eight prompts a step differ by more than 15% from step to step.
    for first in (11, NUM_STEPS - 6):
        assert abs(token_entropy_nats(entropy_run, first, first + 6) / target - 1) < 0.15
    assert token_entropy_nats(uniform_run, NUM_STEPS - 6, NUM_STEPS) < 0.85 * target


def test_temperature_of_the_choice_is_that_of_its_rollouts(entropy_run: Run) -> None:
    chosen = {line["step"]: line["temperature"] for line in entropy_run.lines("audit/selection.jsonl")}
    assert chosen[1] == chosen[2] == 1.0
    assert len(set(chosen.values())) == NUM_STEPS - 1
    for line in entropy_run.lines("audit/rollouts.jsonl"):
        assert line["temperature"] == pytest.approx(chosen[line["step"]], rel=1e-6)


def test_greso_skips_more_and_wastes_less_than_uniform(greso_run: Run, uniform_run: Run) -> None:
    steps = list(greso_run.steps.values())
    skipped = [data["prepo/skipped_frac/mean"] for data in steps]
    assert skipped[0] == 0
    assert mean(skipped[-8:]) > mean(skipped[:8])
    assert mean(skipped[-8:]) > 0.1

    def late_waste(run: Run) -> float:
        return mean(data["prepo/zero_advantage_frac/mean"] for step, data in run.steps.items() if step > 12)

    assert late_waste(greso_run) < late_waste(uniform_run)


def test_greso_trains_on_groups_with_a_signal_and_counts_the_others(greso_run: Run) -> None:
    chosen = defaultdict(int)
    for line in greso_run.lines("audit/selection.jsonl"):
        chosen[line["step"]] += sum(line["rollout_n"].values())
    for step, lines in by_step(greso_run).items():
        groups = Counter(line["prompt_id"] for line in lines)
        assert len(lines) == 64
        assert set(groups.values()) <= {8, 16}
        for prompt_id in groups:
            assert len({line["reward"] for line in lines if line["prompt_id"] == prompt_id}) == 2
        data = greso_run.steps[step]
        assert data["prepo/rollouts/sum"] == chosen[step]
        assert data["prepo/discarded_rollouts/sum"] == chosen[step] - 64
    totals = [data["prepo/response_tokens_total/max"] for data in greso_run.steps.values()]
    trained = [sum(line["num_tokens"] for line in lines) for _, lines in sorted(by_step(greso_run).items())]
    spent = [after - before for before, after in zip([0, *totals], totals, strict=False)]
    assert all(all_of_it > part for all_of_it, part in zip(spent, trained, strict=True))


def test_budget_makes_ragged_groups_that_add_up(combined_run: Run) -> None:
    sizes = {line["step"]: line["rollout_n"] for line in combined_run.lines("audit/selection.jsonl")}
    assert set(sizes[1].values()) == {8}
    assert all(sum(size.values()) == 64 for size in sizes.values())
    assert all(4 <= n <= 12 for size in sizes.values() for n in size.values())
    assert all(len(set(sizes[step].values())) > 1 for step in range(2, 7))
    for step, lines in by_step(combined_run).items():
        assert Counter(line["prompt_id"] for line in lines) == sizes[step]


def test_length_bias_acts_on_the_advantages_only(combined_run: Run) -> None:
    lines = combined_run.lines("audit/rollouts.jsonl")
    biased = [line for line in lines if line["reward_shaped"] != line["reward"]]
    assert len(biased) > 10
    assert all(line["step"] > 1 for line in biased)
    for line in biased:
        assert line["reward"] == 1.0
        assert line["reward_shaped"] == pytest.approx(1 / (1 + 0.1 * line["num_tokens"]))
    for step, data in combined_run.steps.items():
        assert data["critic/score/mean"] == pytest.approx(mean(line["reward"] for line in by_step(combined_run)[step]))
    groups = defaultdict(list)
    for line in biased:
        groups[line["step"], line["prompt_id"]].append(line)
    longest_first = [sorted(group, key=lambda line: -line["num_tokens"]) for group in groups.values()]
    unequal = [group for group in longest_first if group[0]["num_tokens"] > group[-1]["num_tokens"]]
    assert unequal
    assert all(group[0]["advantage"] < group[-1]["advantage"] for group in unequal)


def test_resumed_combination_makes_the_same_choices(combined_run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(combined_run.directory, directory)
    shutil.rmtree(directory / "global_step_6")
    (directory / "latest_checkpointed_iteration.txt").write_text("3")
    resumed = launch(directory, COMBINED)
    check_resumed(directory, resumed.output, after=3, total=6)

    def decisions(run: Run) -> list[tuple]:
        lines = run.lines("audit/selection.jsonl")
        return [(line["step"], line["selected"], line["rollout_n"], line["temperature"]) for line in lines]

    assert [step for step, *_ in decisions(resumed)] == [1, 2, 3, 4, 5, 6]
    for (step, *mine), (_, *straight) in zip(decisions(resumed), decisions(combined_run), strict=True):
        assert mine[:2] == straight[:2], step
        assert mine[2] == pytest.approx(straight[2], rel=1e-4), step

    def outcomes(run: Run) -> list[tuple]:
        keys = ("step", "prompt_id", "rollout", "reward", "num_tokens")
        return sorted(tuple(line[key] for key in keys) for line in run.lines("audit/rollouts.jsonl"))

    assert outcomes(resumed) == outcomes(combined_run)


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One step whose prompts are sampled at two temperatures in turn."""
    overrides = [
        "experiment=comparison",
        "method=random",
        "data.train_batch_size=8",
        "actor_rollout_ref.actor.ppo_mini_batch_size=8",
        "prepo/temperature=entropy_target",
        "actor_rollout_ref.rollout.calculate_log_probs=true",
        "trainer.total_training_steps=1",
        *QUIET,
    ]
    helpers = str(ROOT / "tests" / "helpers")
    environment = {"VERL_USE_EXTERNAL_MODULES": "mixed_temperatures", "PYTHONPATH": helpers}
    return launch(tmp_path_factory.mktemp("mixed"), overrides, extra_environment=environment)


def test_batch_of_two_temperatures_has_one_each_for_sampling_old_and_new_log_probs(mixed_run: Run) -> None:
    lines = mixed_run.lines("audit/rollouts.jsonl")
    low, high = ([line for line in lines if line["temperature"] == pytest.approx(t)] for t in TEMPERATURES)
    assert len(low) == len(high) == 32
    # The actor's entropies are at the rollout's own temperature …
    assert mean(line["entropy_nats"] for line in high) > 1.5 * mean(line["entropy_nats"] for line in low)
    data = mixed_run.steps[1]
    # … its old log-probs agree with the server's, which sampled at that temperature …
    assert data["training/rollout_probs_diff_max"] < 1e-3
    # … and the update's log-probs are the old ones before the first update.
    assert abs(data["actor/ppo_kl"]) < 1e-5
    assert data["actor/pg_clipfrac"] == 0


def test_sweep_over_rows_and_seeds(tmp_path: Path) -> None:
    """Hydra's multirun in one process: a directory for each row and seed, and verl's filter accounted for."""
    small = ["data.train_batch_size=8", "actor_rollout_ref.actor.ppo_mini_batch_size=8", *QUIET]
    command = [sys.executable, "-m", "recipe.prepo.main", "--multirun", "experiment=comparison", "method=dapo"]
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "VERL_PLATFORM")}
    done = subprocess.run(
        [*command, "prepo.seed=0,1", *small, "trainer.total_training_steps=2"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        text=True,
        timeout=900,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    runs = [Run(tmp_path / "outputs" / f"dapo-seed{seed}", done.stdout) for seed in (0, 1)]
    chosen = [json.dumps([line["selected"] for line in run.lines("audit/selection.jsonl")]) for run in runs]
    assert chosen[0] != chosen[1]
    for run in runs:
        assert set(run.steps) == {1, 2}
        for step, lines in by_step(run).items():
            data = run.steps[step]
            assert len(lines) == 64
            assert data["prepo/rollouts/sum"] == 64 + data["prepo/discarded_rollouts/sum"]
    assert any(data["prepo/discarded_rollouts/sum"] > 0 for run in runs for data in run.steps.values())
