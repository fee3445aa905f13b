"""Golden values and brute force for the shared formulas, and the index of prompts."""

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
from recipe.prepo.maths.prompt_index import PromptIndex
from recipe.prepo.maths.rng import make_generator, rollout_seed


def test_progress_runs_from_zero_to_one():
    for total in (2, 3, 7, 50, 1000):
        assert [training_progress(s, total) for s in (1, total, total + 2)] == [0.0, 1.0, 1.0]
        assert training_progress(total // 2 + 1, total) == pytest.approx((total // 2) / (total - 1))
    assert training_progress(1, 1) == 0.0


def test_perplexity_at_its_edges():
    assert perplexity(mean_nll_nats(np.log([0.5, 0.25, 0.125]))) == pytest.approx(4.0)
    assert math.isnan(mean_nll_nats([])) and perplexity(1000.0) == math.inf
    many = np.full(1_000_003, np.float32(-0.1))  # summed in double precision
    assert mean_nll_nats(many) == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_sequence_entropy_counts_own_tokens_only_and_is_never_negative():
    entropy = [np.array([1.0, 99.0, 3.0]), np.array([5.0]), np.array([])]
    mask = [np.array([1, 0, 1]), np.array([0]), np.array([])]
    assert sequence_entropy_nats(entropy, mask).tolist() == [2.0, 0.0, 0.0]
    # verl computes logsumexp - sum(p * logit) in single precision: near-certain tokens come out as about -1e-5.
    assert sequence_entropy_nats([[-7.6e-6, -3.1e-5], [0.5, 1.5]], [[1, 1], [1, 1]]).tolist() == [0.0, 1.0]
    for wrong in ([[1.0], [2.0]], [[1.0, 2.0]]):
        with pytest.raises((ValueError, IndexError)):
            sequence_entropy_nats(wrong, [[1]])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0.0, 0.5, 1.0])), max_size=20))
def test_ragged_groups_match_brute_force(rollouts):
    groups = {}
    for group, reward in rollouts:
        groups.setdefault(group, []).append(reward)
    reward_R = np.array([r for _, r in rollouts])
    found = group_statistics(reward_R, np.array([g for g, _ in rollouts], dtype=int), correctness(reward_R))
    for i, group in enumerate(sorted(groups)):
        rewards = groups[group]
        # verl's GRPO gives a lone rollout its reward as advantage.
        assert found.is_flat_G[i] == (len(set(rewards)) == 1 if len(rewards) > 1 else rewards == [0.0])
        assert (found.size_G[i], found.num_correct_G[i]) == (len(rewards), rewards.count(1.0))
        assert rollouts[found.first_G[i]][0] == group
    assert len(found.size_G) == len(groups)


def test_generators_and_rollout_seeds_differ_in_every_argument():
    draws = {tuple(make_generator(s, p).integers(2**60, size=2)) for s in (0, 1) for p in ("a", "b")}
    assert len(draws) == 4
    variants = [(0, 1, "p", 0), (1, 1, "p", 0), (0, 2, "p", 0), (0, 1, "q", 0), (0, 1, "p", 1), (0, 1, "é", 0)]
    seeds = {rollout_seed(*variant) for variant in variants}
    assert len(seeds) == len(variants) and all(0 <= seed < 2**31 for seed in seeds)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), unique=True, max_size=30), st.randoms())
@settings(max_examples=40, deadline=None)
def test_any_different_ids_are_found(ids, random):
    asked = random.sample(ids, len(ids))
    assert PromptIndex(ids).rows(asked).tolist() == [ids.index(prompt_id) for prompt_id in asked]


def test_ids_are_compared_as_they_stand():
    # Composed and decomposed, upper and lower case, spaces, leading zeros, the empty id, characters beyond 16 bits.
    ids = ["é", "e\u0301", "É", "a", "a ", " a", "A", "1", "01", "", "𝔸", "日本語", "a\x00", "a\nb"]
    assert PromptIndex(ids).rows([*reversed(ids), "a"]).tolist() == [*reversed(range(len(ids))), 3]
    with pytest.raises(ValueError, match=r"rows 0 and 14 .*same prompt_id"):
        PromptIndex([*ids, ids[0]])


@pytest.mark.parametrize("size", [0, 1, 50])
def test_unknown_id_is_a_bug_that_names_it_wherever_its_hash_lies(size):
    index = PromptIndex([f"p{i}" for i in range(size)])
    for i in range(100):
        with pytest.raises(AssertionError, match=f"'unknown{i}'"):
            index.rows([f"unknown{i}"])
