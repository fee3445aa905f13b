"""E3's budget and length bias (arXiv 2505.18573) by hand-computed examples and by what holds for every batch."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_run import batch_of, make_rule, run_facts, step_outcome

from recipe.prepo.rules.budget.difficulty import allocate_rollouts
from recipe.prepo.rules.prompt_difficulty import UNRANKED, PromptDifficulty, RankOptions, difficulty_ranks

IDS = tuple("abcdefgh")
TEN = tuple(f"p{i}" for i in range(10))
EIGHTHS = [i / 8 for i in range(8)]


def answers(num_correct, size):
    return [1.0] * num_correct + [0.0] * (size - num_correct)


def falling(ids=IDS):
    """Accuracies 8/8, 7/8, … 1/8: the first prompt is the easiest."""
    return [(prompt_id, answers(len(ids) - i, len(ids))) for i, prompt_id in enumerate(ids)]


def observe(rule, trained, *discarded, step=1):
    return rule.observe(step_outcome(trained, *discarded, step=step))


def budget(*, steps_per_epoch=1, **options):
    facts = {"rollouts_per_prompt": 8, "steps_per_epoch": steps_per_epoch}
    paper = {"lowest": 4, "highest": 12, "widen_step": 2, "epoch_steps": 1}
    return make_rule("budget", "difficulty", IDS, facts=facts, **paper | options)


def sizes(rule, ids=IDS):
    return rule.allocate(ids, rollouts_per_prompt=8).tolist()


@pytest.mark.parametrize(
    ("ranks", "bounds", "published", "clipped"),
    [
        ([0.1, 0.2, 0.5, 0.9], (6, 10), [6, 6, 10, 10], None),
        # Clipped, 17 is cut to 12, and the 7 that are left fill the next hardest.
        ([0.05, 0.05, 0.1, 0.95], (4, 12), [4, 4, 7, 17], [4, 4, 12, 12]),
        (EIGHTHS, (6, 10), [6, 6, 7, 7, 8, 10, 10, 10], None),
        (EIGHTHS, (4, 12), [4, 5, 6, 7, 8, 10, 12, 12], None),
        ([UNRANKED, UNRANKED, 0.5, 0.25], (6, 10), [6, 6, 11, 9], [6, 6, 10, 10]),
        # One prompt takes everything but the lower bound; clipped, its surplus fills the others in row order.
        ([0.0, 0.9, 0.0, 0.0], (2, 12), [3, 25, 2, 2], [12, 12, 6, 2]),
        ([0.0, 0.0, 0.0, 0.0], (6, 10), [10, 10, 6, 6], None),
    ],
)
def test_allocation_as_published_and_clipped(ranks, bounds, published, clipped):
    for clip, expected in ((False, published), (True, clipped or published)):
        found = allocate_rollouts(np.array(ranks), rollouts_per_prompt=8, low=bounds[0], high=bounds[1], clip=clip)
        assert found.tolist() == expected


def test_two_thousand_batches_keep_the_sum_the_bounds_and_the_order():
    rng = np.random.default_rng(11)
    for i in range(2_000):
        nominal, size, clip = int(rng.integers(1, 17)), int(rng.integers(1, 24)), i % 2 == 0
        low, high = int(rng.integers(1, nominal + 1)), int(rng.integers(nominal, 3 * nominal + 1))
        # Spread, crowded at one end, tied, or not ranked yet.
        rank_P = np.floor(1000 * rng.random(size) ** rng.choice([0.05, 1.0, 30.0])) / 1000
        rank_P[rng.random(size) < rng.choice([0.0, 0.2, 1.0], p=[0.5, 0.4, 0.1])] = UNRANKED
        size_P = allocate_rollouts(rank_P, rollouts_per_prompt=nominal, low=low, high=high, clip=clip)
        assert size_P.sum() == nominal * size
        assert size_P.min() >= low and (size_P.max() <= high or not clip)
        weight_P = np.maximum(rank_P, 0.0)
        assert (np.diff(size_P[np.lexsort((size_P, weight_P))]) >= 0).all(), "a harder prompt never gets less"
        # The remainder fills each prompt up before the next: at most one prompt got a part of what would fill it.
        floor_P = np.floor(low + size * (nominal - low) * weight_P / (weight_P.sum() + 1e-8))
        assert ((size_P > floor_P) & (size_P < high)).sum() <= 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, [(6, 10), (4, 12), (4, 12)]), ({"widen_step": 3, "lowest": 1, "highest": 8}, [(5, 8), (2, 8), (1, 8)])],
)
def test_bounds_widen_to_their_limits_and_stay_there(options, expected):
    rule, seen = budget(**options), []
    for step in (1, 2, 3):
        observe(rule, falling(), step=step)
        seen.append((rule.state_dict()["low"], rule.state_dict()["high"]))
    assert seen == expected


@given(st.lists(st.sampled_from([0.0, 0.125, 1 / 3, 0.5, 1.0]), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_ranks_count_the_easier_prompts(accuracies):
    size = len(accuracies)
    published, averaged = (difficulty_ranks(np.array(accuracies), average_ties=ties) for ties in (False, True))
    for i, accuracy in enumerate(accuracies):
        easier = sum(other > accuracy for other in accuracies)
        assert published[i] == pytest.approx((easier + accuracies[:i].count(accuracy)) / size)
        assert averaged[i] == pytest.approx(float(Fraction(2 * easier + accuracies.count(accuracy) - 1, 2 * size)))


def test_accuracy_is_pooled_over_rollouts_and_not_over_groups():
    tracked = PromptDifficulty(RankOptions(ties="row_order", epoch_steps=1))
    tracked.bind(run_facts("abcd"))
    # a: 1 of 2 and 0 of 6 (discarded) = 1/8, though its groups' mean is 1/4; b: 1 of 5; c: 3 of 4 and 1 of 4.
    trained = [("a", answers(1, 2)), ("c", answers(3, 4)), ("b", answers(1, 5)), ("c", answers(1, 4))]
    assert observe(tracked, trained, [("a", answers(0, 6))])
    # c 1/2, b 1/5, a 1/8, d (never rolled out) 0.
    assert tracked.ranks(("a", "b", "c", "d", "a")).tolist() == [0.5, 0.25, 0.0, 0.75, 0.5]


def test_sizes_belong_to_prompts_and_not_to_places():
    rule, published = budget(), budget(allocation="published")
    for each in (rule, published):
        observe(each, falling())
    assert sizes(rule, tuple(reversed(IDS))) == [10, 10, 10, 8, 7, 7, 6, 6]
    # Ranks 7/8, 0, 6/8, 1/8: 6 + 8 * k / 1.75 = 10 - epsilon, 6, 9.4, 6.6; two are left, hardest first.
    assert sizes(rule, ("h", "a", "g", "b")) == [10, 6, 10, 6]
    assert sizes(rule, ("a", "a", "a", "h")) == [10, 6, 6, 10]
    assert sizes(published, ("a", "a", "a", "h")) == [7, 6, 6, 13]


@pytest.mark.parametrize("options", [{"epoch_steps": 2}, {"epoch_steps": None, "steps_per_epoch": 2}])
def test_bounds_and_ranks_wait_for_the_end_of_the_epoch(options):
    rule, seen = budget(**options), []
    # Three groups the other way round turn the order, but only at the end.
    for step, groups in enumerate((falling(), falling(), *[falling(IDS[::-1]) * 3] * 2), start=1):
        observe(rule, groups, step=step)
        seen.append(sizes(rule))
    assert seen == [[8] * 8, *[[6, 6, 7, 7, 8, 10, 10, 10]] * 2, [12, 12, 10, 8, 7, 6, 5, 4]]


def test_averaged_ties_get_equal_shares():
    rule = budget(ties="average")
    observe(rule, [(prompt_id, answers(0, 4)) for prompt_id in IDS])
    # Equal weights of just below 1/8 give 7 each; the 8 that are left fill the first three in row order.
    assert sizes(rule) == [10, 10, 9, 7, 7, 7, 7, 7]


def test_budget_metrics_cover_the_choices_of_one_step():
    rule = budget()
    assert rule.metrics() == {}
    observe(rule, falling())
    # (6, 10): a, h get 6, 10; d, e, f (ranks 3/8, 4/8, 5/8): 6 + 6 * k / 1.5 = 7.5, 8 - eps, 8.5 and three left.
    for ids in (("a", "h"), ("d", "e", "f")):
        sizes(rule, ids)
    expected = {"mean": 8.0, "min": 6.0, "max": 10.0}
    assert rule.metrics() == {f"prepo/rollouts_per_prompt/{name}": value for name, value in expected.items()}
    assert rule.metrics() == {}


def ranked_bias(ids=TEN, **options):
    """After an epoch over ten prompts: p0 has rank 0, p1 .1, … p9 .9."""
    paper = {"epoch_steps": 1, "easiest_share": 0.1, "mu": 0.001}
    rule = make_rule("shaping", "length_bias", ids, **paper | options)
    observe(rule, falling(ids))
    return rule


def test_shorter_correct_answers_to_the_easiest_prompts_earn_more():
    lengths = [0, 100, 500, 1000, 2000, 4000, 6144]
    shaped_R = ranked_bias().shape(batch_of(["p0"] * 7, [1.0] * 7, tokens=lengths))
    assert shaped_R.tolist() == pytest.approx([1.0, 0.909, 0.667, 0.5, 0.333, 0.2, 0.14], abs=5e-4)


@pytest.mark.parametrize(("share", "num_easy"), [(0.05, 1), (0.1, 2), (0.5, 6), (1.0, 10)])
def test_only_ranks_up_to_the_share_are_biased(share, num_easy):
    rule = ranked_bias(easiest_share=share)
    shaped_R = rule.shape(batch_of(TEN, [1.0] * 10, tokens=1000))
    assert shaped_R.tolist() == [0.5] * num_easy + [1.0] * (10 - num_easy)
    assert rule.metrics() == {"prepo/length_biased_frac/mean": pytest.approx(num_easy / 10)}


def test_no_reward_is_changed_before_the_first_ranking():
    rule = ranked_bias(("p0", "p1"), easiest_share=1.0, epoch_steps=2)
    batch = batch_of(["p0", "p1"], [1.0, 1.0], tokens=[1000, 9000])
    assert rule.shape(batch).tolist() == [1.0, 1.0]
    assert rule.metrics() == {"prepo/length_biased_frac/mean": 0.0}
    observe(rule, falling(("p0", "p1")), step=2)
    assert rule.shape(batch).tolist() == pytest.approx([0.5, 0.1])


@pytest.mark.parametrize("wrong", [0.0, 0.1, -1.0])
def test_incorrect_answers_and_the_raw_rewards_are_unchanged(wrong):
    """Rewards below 1 are incorrect everywhere; a penalty must not shrink with the length of the answer either."""
    rule, batch = ranked_bias(), batch_of(["p0"] * 3, [wrong, 1.0, wrong], tokens=[1000, 1000, 50])
    assert rule.shape(batch).tolist() == [wrong, 0.5, wrong]
    assert batch.reward_R.tolist() == [wrong, 1.0, wrong]
    assert rule.metrics() == {"prepo/length_biased_frac/mean": pytest.approx(1 / 3)}
