"""Golden values and brute force for the formulas of arXiv 2511.00794."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipe.prepo.maths.entropy import relative_entropy_weights, sequence_entropy_nats
from recipe.prepo.maths.groups import GroupOutcomes, group_outcomes
from recipe.prepo.maths.perplexity import mean_nll_nats, perplexity
from recipe.prepo.maths.rng import generator_state, make_generator, rollout_seed, set_generator_state
from recipe.prepo.maths.window import ascending_order, training_progress, window_indices, window_start


def test_progress_runs_from_zero_to_one() -> None:
    for total in (2, 3, 7, 50, 1000):
        rho = [training_progress(step, total) for step in range(1, total + 1)]
        assert rho[0] == 0.0
        assert rho[-1] == 1.0
        assert all(low < high for low, high in itertools.pairwise(rho))
        assert rho[total // 2] == pytest.approx((total // 2) / (total - 1))


def test_progress_of_one_step_and_beyond_the_last() -> None:
    assert training_progress(1, 1) == 0.0
    assert training_progress(12, 10) == 1.0


@pytest.mark.parametrize("total", [2, 3, 11, 50, 51, 99, 101, 148, 197, 1000])
@pytest.mark.parametrize("slack", [0, 1, 4, 49, 98, 100, 128, 512])
def test_window_start_is_the_floor_of_the_audited_progress(total: int, slack: int) -> None:
    """l = floor(rho (|B| - K)), with the rho that the audit line shows: an outside script can recompute it exactly."""
    for step in range(1, total + 1):
        rho = training_progress(step, total)
        start = window_start(rho, slack + 8, 8)
        assert start == math.floor(rho * slack)
        assert start - math.floor(Fraction(step - 1, total - 1) * slack) in (0, -1)
    assert window_start(0.0, slack + 8, 8) == 0
    assert window_start(1.0, slack + 8, 8) == slack


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0]), min_size=1, max_size=12), st.data())
def test_window_is_a_slice_of_the_brute_force_order(ppl: list[float], data: st.DataObject) -> None:
    size = len(ppl)
    ids = data.draw(st.lists(st.text("aZé𝔷0", min_size=1, max_size=3), min_size=size, max_size=size, unique=True))
    k = data.draw(st.integers(1, size))
    start = data.draw(st.integers(0, size - k))
    brute = sorted(range(size), key=lambda i: (ppl[i], ids[i]))
    assert window_indices(np.array(ppl), ids, k, start).tolist() == brute[start : start + k]


def test_ties_go_by_code_point_whatever_the_order_of_the_data() -> None:
    ids = ["\u00e9", "z", "Z", "\uff5a", "\U0001d537", "e\u0301", "a10", "a9", "", "a"]
    expected = ["", "Z", "a", "a10", "a9", "e\u0301", "z", "\u00e9", "\uff5a", "\U0001d537"]
    assert [ids[i] for i in ascending_order(np.ones(len(ids)), ids)] == expected
    assert [ids[::-1][i] for i in ascending_order(np.ones(len(ids)), ids[::-1])] == expected


def test_equal_ids_and_perplexities_keep_the_order_of_the_data() -> None:
    assert ascending_order(np.array([2.0, 1.0, 1.0, 1.0]), ["a", "b", "b", "a"]).tolist() == [3, 1, 2, 0]


def test_one_last_bit_decides_before_the_id() -> None:
    assert ascending_order(np.array([np.nextafter(1.0, 2.0), 1.0]), ["a", "b"]).tolist() == [1, 0]


def test_whole_batch_and_ends_of_the_schedule() -> None:
    ppl, ids = np.array([3.0, 1.0, 2.0]), ["a", "b", "c"]
    assert window_start(0.7, 3, 3) == 0
    assert window_indices(ppl, ids, 3, 0).tolist() == [1, 2, 0]
    assert window_indices(ppl, ids, 1, window_start(0.0, 3, 1)).tolist() == [1]
    assert window_indices(ppl, ids, 1, window_start(1.0, 3, 1)).tolist() == [0]


@pytest.mark.parametrize("progress", [-0.1, 1.0000001, math.nan])
def test_progress_out_of_range_is_our_bug(progress: float) -> None:
    with pytest.raises(AssertionError):
        window_start(progress, 10, 2)


def test_perplexity_golden_values() -> None:
    log_probs = np.log([0.5, 0.25, 0.125])
    assert mean_nll_nats(log_probs) == pytest.approx(math.log(4.0))
    assert perplexity(mean_nll_nats(log_probs)) == pytest.approx(4.0)
    assert mean_nll_nats(np.float32([-1.5])) == 1.5
    assert math.isnan(mean_nll_nats([]))
    assert perplexity(1000.0) == math.inf


def test_mean_nll_of_single_precision_is_taken_in_double_precision() -> None:
    assert mean_nll_nats(np.full(1_000_003, np.float32(-0.1))) == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_sequence_entropy_counts_own_tokens_only() -> None:
    entropy = [np.array([1.0, 99.0, 3.0]), np.array([5.0]), np.array([])]
    mask = [np.array([1, 0, 1]), np.array([0]), np.array([])]
    assert sequence_entropy_nats(entropy, mask).tolist() == [2.0, 0.0, 0.0]


def test_sequence_entropy_refuses_a_missing_mask() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        sequence_entropy_nats([[1.0], [2.0]], [[1]])
    with pytest.raises(IndexError):
        sequence_entropy_nats([[1.0, 2.0]], [[1]])


def test_rounding_never_makes_an_entropy_negative() -> None:
    """verl computes logsumexp - sum(p * logit) in single precision: near-certain tokens come out as about -1e-5."""
    entropy = sequence_entropy_nats([[-7.6e-6, -3.1e-5], [0.5, 1.5]], [[1, 1], [1, 1]])
    assert entropy.tolist() == [0.0, 1.0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 20.0), min_size=1, max_size=20), st.floats(0.125, 8.0))
def test_weights_have_mean_one_and_no_scale(entropy: list[float], scale: float) -> None:
    weights = relative_entropy_weights(np.array(entropy))
    assert np.isfinite(weights).all()
    assert (weights >= 0.0).all()
    assert weights.mean() == pytest.approx(1.0)
    if min(entropy) > 1e-300:
        assert relative_entropy_weights(np.array(entropy) * scale) == pytest.approx(weights)


def test_weights_golden_values() -> None:
    assert relative_entropy_weights(np.array([0.2, 0.4, 0.6])).tolist() == pytest.approx([0.5, 1.0, 1.5])
    assert relative_entropy_weights(np.zeros(4)).tolist() == [1.0] * 4
    assert relative_entropy_weights(np.zeros(0)).shape == (0,)
    assert relative_entropy_weights(np.array([0.0, 2.0])).tolist() == [0.0, 2.0]


def test_weights_of_almost_no_entropy_are_finite() -> None:
    assert relative_entropy_weights(np.array([5e-324, 0.0])).tolist() in ([1.0, 1.0], [2.0, 0.0])


def no_advantage(rewards: list[float]) -> bool:
    """verl's GRPO gives a lone rollout its reward as advantage."""
    return len(set(rewards)) == 1 if len(rewards) > 1 else rewards == [0.0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=20))
def test_ragged_groups_match_brute_force(rollouts: list[tuple[int, float]]) -> None:
    groups: dict[int, list[float]] = {}
    for group, reward in rollouts:
        groups.setdefault(group, []).append(reward)
    found = group_outcomes(np.array([r for _, r in rollouts]), np.array([g for g, _ in rollouts]))
    size = len(groups)
    assert found == GroupOutcomes(
        zero_advantage_frac=pytest.approx(sum(no_advantage(r) for r in groups.values()) / size),
        all_correct_frac=pytest.approx(sum(set(r) == {1.0} for r in groups.values()) / size),
        all_wrong_frac=pytest.approx(sum(max(r) < 1.0 for r in groups.values()) / size),
    )


def test_interleaved_groups_are_not_reshaped() -> None:
    """Six rollouts of three groups in sizes 1, 2, 3: a reshape by 2 would find no group without a signal."""
    found = group_outcomes(np.array([0.0, 0.0, 1.0, 0.0, 1.0, 1.0]), np.array([7, 5, 5, 9, 9, 9]))
    assert found == GroupOutcomes(pytest.approx(1 / 3), 0.0, pytest.approx(1 / 3))


def test_partial_rewards_are_wrong_answers() -> None:
    """Only a reward of 1 is a right answer: a reward for the format alone is none."""
    assert group_outcomes(np.array([0.5, 0.5]), np.array([0, 0])) == GroupOutcomes(1.0, 0.0, 1.0)
    assert group_outcomes(np.array([0.1, 0.0]), np.array([0, 0])) == GroupOutcomes(0.0, 0.0, 1.0)


def test_no_rollouts_have_no_outcomes() -> None:
    assert group_outcomes(np.zeros(0), np.zeros(0, dtype=np.int64)) == GroupOutcomes(0.0, 0.0, 0.0)


def test_generators_differ_by_seed_and_by_purpose() -> None:
    draws = {tuple(make_generator(s, p).integers(2**60, size=2)) for s in (0, 1) for p in ("a", "b")}
    assert len(draws) == 4


def test_generator_goes_on_from_its_saved_state_and_leaves_it_alone() -> None:
    generator = make_generator(3, "x")
    generator.integers(10, size=5, dtype=np.int32)
    state = generator_state(generator)
    expected = generator.integers(2**60, size=10).tolist()
    other = make_generator(4, "y")
    set_generator_state(other, state)
    assert other.integers(2**60, size=10).tolist() == expected


def test_rollout_seeds_differ_in_every_argument() -> None:
    variants = [(0, 1, "p", 0), (1, 1, "p", 0), (0, 2, "p", 0), (0, 1, "q", 0), (0, 1, "p", 1), (0, 1, "é", 0)]
    seeds = [rollout_seed(*variant) for variant in variants]
    assert len(set(seeds)) == len(variants)
    assert all(0 <= seed < 2**31 for seed in seeds)
