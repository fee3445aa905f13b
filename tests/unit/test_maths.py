"""Golden values and brute force for the shared formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.prepo.controller import training_progress
from recipe.prepo.maths.correctness import correctness
from recipe.prepo.maths.entropy import sequence_entropy_nats
from recipe.prepo.maths.groups import group_statistics
from recipe.prepo.maths.perplexity import mean_nll_nats, perplexity
from recipe.prepo.maths.rng import make_generator, rollout_seed


def test_progress_runs_from_zero_to_one() -> None:
    for total in (2, 3, 7, 50, 1000):
        assert [training_progress(s, total) for s in (1, total, total + 2)] == [0.0, 1.0, 1.0]
        assert training_progress(total // 2 + 1, total) == pytest.approx((total // 2) / (total - 1))
    assert training_progress(1, 1) == 0.0


def test_perplexity_at_its_edges() -> None:
    assert perplexity(mean_nll_nats(np.log([0.5, 0.25, 0.125]))) == pytest.approx(4.0)
    assert math.isnan(mean_nll_nats([])) and perplexity(1000.0) == math.inf
    many = np.full(1_000_003, np.float32(-0.1))  # summed in double precision
    assert mean_nll_nats(many) == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_sequence_entropy_counts_own_tokens_only_and_is_never_negative() -> None:
    entropy = [np.array([1.0, 99.0, 3.0]), np.array([5.0]), np.array([])]
    mask = [np.array([1, 0, 1]), np.array([0]), np.array([])]
    assert sequence_entropy_nats(entropy, mask).tolist() == [2.0, 0.0, 0.0]
    # verl computes logsumexp - sum(p * logit) in single precision: near-certain tokens come out as about -1e-5.
    assert sequence_entropy_nats([[-7.6e-6, -3.1e-5], [0.5, 1.5]], [[1, 1], [1, 1]]).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match=r"shorter|longer"):
        sequence_entropy_nats([[1.0], [2.0]], [[1]])
    with pytest.raises(IndexError):
        sequence_entropy_nats([[1.0, 2.0]], [[1]])


def no_advantage(rewards: list[float]) -> bool:
    """verl's GRPO gives a lone rollout its reward as advantage."""
    return len(set(rewards)) == 1 if len(rewards) > 1 else rewards == [0.0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=20))
def test_ragged_groups_match_brute_force(rollouts: list[tuple[int, float]]) -> None:
    groups: dict[int, list[float]] = {}
    for group, reward in rollouts:
        groups.setdefault(group, []).append(reward)
    reward_R = np.array([r for _, r in rollouts])
    found = group_statistics(reward_R, np.array([g for g, _ in rollouts]), correctness(reward_R))
    sorted_groups = [groups[group] for group in sorted(groups)]
    assert found.is_flat_G.tolist() == [no_advantage(rewards) for rewards in sorted_groups]
    assert found.size_G.tolist() == [len(rewards) for rewards in sorted_groups]
    assert found.num_correct_G.tolist() == [rewards.count(1.0) for rewards in sorted_groups]
    assert [rollouts[i][0] for i in found.first_G] == sorted(groups)


def test_interleaved_groups_are_not_reshaped() -> None:
    """Six rollouts of three groups in sizes 1, 2, 3: a reshape by 2 would find no group without a signal."""
    reward_R = np.array([0.0, 0.0, 1.0, 0.0, 1.0, 1.0])
    found = group_statistics(reward_R, np.array([7, 5, 5, 9, 9, 9]), reward_R)
    assert found.size_G.tolist() == [2, 1, 3] and found.is_flat_G.tolist() == [False, True, False]


def test_no_rollouts_make_no_group() -> None:
    assert len(group_statistics(np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0)).size_G) == 0


def test_generators_differ_by_seed_and_by_purpose() -> None:
    draws = {tuple(make_generator(s, p).integers(2**60, size=2)) for s in (0, 1) for p in ("a", "b")}
    assert len(draws) == 4


def test_rollout_seeds_differ_in_every_argument() -> None:
    variants = [(0, 1, "p", 0), (1, 1, "p", 0), (0, 2, "p", 0), (0, 1, "q", 0), (0, 1, "p", 1), (0, 1, "é", 0)]
    seeds = [rollout_seed(*variant) for variant in variants]
    assert len(set(seeds)) == len(variants)
    assert all(0 <= seed < 2**31 for seed in seeds)
