"""E3's budget and length bias (arXiv 2505.18573) by hand-computed examples and by what holds for every batch."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_run import Groups, make_rule, run_facts, step_outcome

from recipe.prepo.rules.budget.difficulty import allocate_rollouts
from recipe.prepo.rules.prompt_difficulty import UNRANKED, PromptDifficulty, RankOptions, difficulty_ranks
from recipe.prepo.types import RolloutBatch, StepOutcome

IDS = tuple("abcdefgh")
EIGHTHS = [i / 8 for i in range(8)]


def answers(num_correct: int, size: int) -> list[float]:
    return [1.0] * num_correct + [0.0] * (size - num_correct)


def outcome(step: int, trained: Groups, *discarded: Groups) -> StepOutcome:
    return step_outcome(trained, *discarded, step=step)


def falling(ids: tuple[str, ...] = IDS) -> Groups:
    """Accuracies 8/8, 7/8, … 1/8: the first prompt is the easiest."""
    return [(prompt_id, answers(8 - i, 8)) for i, prompt_id in enumerate(ids)]


def budget(*, epoch_steps: int | None = 1, steps_per_epoch: int = 1, **options: Any) -> Any:
    facts = {"rollouts_per_prompt": 8, "steps_per_epoch": steps_per_epoch}
    paper = {"lowest": 4, "highest": 12, "widen_step": 2, "epoch_steps": epoch_steps, **options}
    return make_rule("budget", "difficulty", IDS, facts=facts, **paper)


def sizes(rule: Any, ids: tuple[str, ...] = IDS) -> list[int]:
    return rule.allocate(ids, rollouts_per_prompt=8).tolist()


def length_bias(ids: tuple[str, ...], **options: Any) -> Any:
    return make_rule("shaping", "length_bias", ids, **{"epoch_steps": 1, "easiest_share": 0.1, "mu": 0.001, **options})


def difficulty(ids: tuple[str, ...], *, epoch_steps: int | None = 1) -> PromptDifficulty:
    tracked = PromptDifficulty(RankOptions(ties="row_order", epoch_steps=epoch_steps))
    tracked.bind(run_facts(ids, steps_per_epoch=3))
    return tracked


@pytest.mark.parametrize(
    ("ranks", "bounds", "published", "clipped"),
    [
        ([0.1, 0.2, 0.5, 0.9], (6, 10), [6, 6, 10, 10], None),
        ([0.1, 0.2, 0.5, 0.9], (4, 12), [4, 5, 11, 12], None),
        # Clipped, 17 is cut to 12, and the 7 that are left fill the next hardest.
        ([0.05, 0.05, 0.1, 0.95], (4, 12), [4, 4, 7, 17], [4, 4, 12, 12]),
        (EIGHTHS, (6, 10), [6, 6, 7, 7, 8, 10, 10, 10], None),
        (EIGHTHS, (4, 12), [4, 5, 6, 7, 8, 10, 12, 12], None),
        ([UNRANKED, UNRANKED, 0.5, 0.25], (6, 10), [6, 6, 11, 9], [6, 6, 10, 10]),
        # One prompt takes everything but the lower bound; clipped, its surplus fills the others in row order.
        ([0.0, 0.9, 0.0, 0.0], (2, 12), [3, 25, 2, 2], [12, 12, 6, 2]),
        ([0.0, 0.0, 0.0, 0.0], (6, 10), [10, 10, 6, 6], None),
        ([UNRANKED] * 3, (8, 8), [8] * 3, None),
    ],
)
def test_allocation_as_published_and_clipped(
    ranks: list[float], bounds: tuple[int, int], published: list[int], clipped: list[int] | None
) -> None:
    for clip, expected in ((False, published), (True, clipped or published)):
        found = allocate_rollouts(np.array(ranks), rollouts_per_prompt=8, low=bounds[0], high=bounds[1], clip=clip)
        assert found.tolist() == expected


def random_ranks(rng: np.random.Generator, size: int) -> np.ndarray:
    """Ranks of a batch: spread, crowded at one end, tied, or not ranked yet."""
    rank_P = np.floor(1000 * rng.random(size) ** rng.choice([0.05, 1.0, 30.0])) / 1000
    return np.where(rng.random(size) < rng.choice([0.0, 0.2, 1.0], p=[0.5, 0.4, 0.1]), UNRANKED, rank_P)


def test_ten_thousand_batches_keep_the_sum_the_bounds_and_the_order() -> None:
    rng = np.random.default_rng(11)
    for i in range(10_000):
        nominal, size, clip = int(rng.integers(1, 17)), int(rng.integers(1, 24)), i % 2 == 0
        low, high = int(rng.integers(1, nominal + 1)), int(rng.integers(nominal, 3 * nominal + 1))
        rank_P = random_ranks(rng, size)
        size_P = allocate_rollouts(rank_P, rollouts_per_prompt=nominal, low=low, high=high, clip=clip)
        assert size_P.sum() == nominal * size
        assert size_P.min() >= low
        if clip:
            assert size_P.max() <= high
        order = np.lexsort((size_P, np.maximum(rank_P, 0.0)))
        assert (np.diff(size_P[order]) >= 0).all(), "a harder prompt never gets less"
        # The remainder fills each prompt up before the next: at most one prompt got a part of what would fill it.
        total_rank = np.maximum(rank_P, 0.0).sum()
        share_P = np.maximum(rank_P, 0.0) / (total_rank + 1e-8) if total_rank else np.zeros(size)
        floor_P = np.floor(low + size * (nominal - low) * share_P)
        between_P = (size_P > floor_P) & (size_P < high)
        assert between_P.sum() <= 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(6, 10), (4, 12), (4, 12)]),
        ({"widen_step": 3, "lowest": 7, "highest": 9}, [(7, 9), (7, 9), (7, 9)]),
        ({"widen_step": 3, "lowest": 1, "highest": 8}, [(5, 8), (2, 8), (1, 8)]),
    ],
)
def test_bounds_widen_to_their_limits_and_stay_there(options: dict[str, int], expected: list[tuple[int, int]]) -> None:
    rule, seen = budget(**options), []
    for step in (1, 2, 3):
        rule.observe(outcome(step, falling()))
        seen.append((rule.state_dict()["low"], rule.state_dict()["high"]))
    assert seen == expected


@given(st.lists(st.sampled_from([0.0, 0.125, 1 / 3, 0.5, 1.0]), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_ranks_count_the_easier_prompts(accuracies: list[float]) -> None:
    size = len(accuracies)
    published = difficulty_ranks(np.array(accuracies), average_ties=False)
    averaged = difficulty_ranks(np.array(accuracies), average_ties=True)
    for i, accuracy in enumerate(accuracies):
        easier = sum(other > accuracy for other in accuracies)
        assert published[i] == pytest.approx((easier + accuracies[:i].count(accuracy)) / size)
        assert averaged[i] == pytest.approx(float(Fraction(2 * easier + accuracies.count(accuracy) - 1, 2 * size)))
        assert 0.0 <= published[i] < 1.0 and 0.0 <= averaged[i] < 1.0


def test_accuracy_is_pooled_over_rollouts_and_not_over_groups() -> None:
    tracked = difficulty(tuple("abcd"))
    # a: 1 of 2 and 0 of 6 (discarded) = 1/8, though its groups' mean is 1/4; b: 1 of 5; c: 3 of 4 and 1 of 4.
    trained = [("a", answers(1, 2)), ("c", answers(3, 4)), ("b", answers(1, 5)), ("c", answers(1, 4))]
    assert tracked.observe(outcome(1, trained, [("a", answers(0, 6))]))
    # c 1/2, b 1/5, a 1/8, d (never rolled out) 0.
    assert tracked.ranks(("a", "b", "c", "d", "a")).tolist() == [0.5, 0.25, 0.0, 0.75, 0.5]


def test_sizes_belong_to_prompts_and_not_to_places() -> None:
    rule = budget()
    rule.observe(outcome(1, falling()))
    assert sizes(rule, tuple(reversed(IDS))) == [10, 10, 10, 8, 7, 7, 6, 6]
    # Ranks 7/8, 0, 6/8, 1/8: 6 + 8 * k / 1.75 = 10 - epsilon, 6, 9.4, 6.6; two are left, hardest first.
    assert sizes(rule, ("h", "a", "g", "b")) == [10, 6, 10, 6]
    assert sizes(rule, ("a", "a", "a", "h")) == [10, 6, 6, 10]
    published = budget(allocation="published")
    published.observe(outcome(1, falling()))
    assert sizes(published, ("a", "a", "a", "h")) == [7, 6, 6, 13]


def test_bounds_and_ranks_wait_for_the_end_of_the_epoch() -> None:
    for options in ({"epoch_steps": 2}, {"epoch_steps": None, "steps_per_epoch": 2}):
        rule = budget(**options)
        rule.observe(outcome(1, falling()))
        assert sizes(rule) == [8] * 8
        rule.observe(outcome(2, falling()))
        first = sizes(rule)
        assert first == [6, 6, 7, 7, 8, 10, 10, 10]
        # Three groups the other way round will turn the order, but only at the end.
        turned = falling(tuple(reversed(IDS))) * 3
        rule.observe(outcome(3, turned))
        assert sizes(rule) == first
        rule.observe(outcome(4, turned))
        assert sizes(rule) == [12, 12, 10, 8, 7, 6, 5, 4]


def test_averaged_ties_get_equal_shares() -> None:
    rule = budget(ties="average")
    rule.observe(outcome(1, [(prompt_id, answers(0, 4)) for prompt_id in IDS]))
    # Equal weights of just below 1/8 give 7 each; the 8 that are left fill the first three in row order.
    assert sizes(rule) == [10, 10, 9, 7, 7, 7, 7, 7]


def test_budget_metrics_cover_the_choices_of_one_step() -> None:
    rule = budget()
    assert rule.metrics() == {}
    rule.observe(outcome(1, falling()))
    sizes(rule, ("a", "h"))
    sizes(rule, ("d", "e", "f"))
    # (6, 10): a, h get 6, 10; d, e, f (ranks 3/8, 4/8, 5/8): 6 + 6 * k / 1.5 = 7.5, 8 - eps, 8.5 and three left.
    assert rule.metrics() == {
        "prepo/rollouts_per_prompt/mean": 8.0,
        "prepo/rollouts_per_prompt/min": 6.0,
        "prepo/rollouts_per_prompt/max": 10.0,
    }
    assert rule.metrics() == {}


def test_nominal_size_must_lie_within_the_bounds() -> None:
    rule = budget()
    for nominal in (4, 8, 12):
        rule.check_sizes(num_selected=4, rollouts_per_prompt=nominal)
    for nominal in (3, 13):
        with pytest.raises(ValueError, match=rf"rollout\.n={nominal} must lie between"):
            rule.check_sizes(num_selected=4, rollouts_per_prompt=nominal)


def ranked_bias(**options: Any) -> Any:
    """After an epoch over ten prompts: p0 has rank 0, p1 .1, … p9 .9."""
    ids = tuple(f"p{i}" for i in range(10))
    rule = length_bias(ids, **options)
    rule.observe(outcome(1, [(prompt_id, answers(10 - i, 10)) for i, prompt_id in enumerate(ids)]))
    return rule


def rollouts(ids: list[str], rewards: list[float], lengths: list[int]) -> RolloutBatch:
    return RolloutBatch(
        prompt_ids=ids,
        group_R=np.zeros(len(ids), dtype=np.int64),
        reward_R=np.array(rewards),
        num_tokens_R=np.array(lengths, dtype=np.int64),
    )


def test_shorter_correct_answers_to_the_easiest_prompts_earn_more() -> None:
    lengths = [0, 100, 500, 1000, 2000, 4000, 6144]
    shaped_R = ranked_bias().shape(rollouts(["p0"] * 7, [1.0] * 7, lengths))
    assert shaped_R.tolist() == pytest.approx([1.0, 0.909, 0.667, 0.5, 0.333, 0.2, 0.14], abs=5e-4)


@pytest.mark.parametrize(("share", "num_easy"), [(0.05, 1), (0.1, 2), (0.5, 6), (1.0, 10)])
def test_only_ranks_up_to_the_share_are_biased(share: float, num_easy: int) -> None:
    rule = ranked_bias(easiest_share=share)
    shaped_R = rule.shape(rollouts([f"p{i}" for i in range(10)], [1.0] * 10, [1000] * 10))
    assert shaped_R.tolist() == [0.5] * num_easy + [1.0] * (10 - num_easy)
    assert rule.metrics() == {"prepo/length_biased_frac/mean": pytest.approx(num_easy / 10)}


def test_no_reward_is_changed_before_the_first_ranking() -> None:
    rule = length_bias(("p0", "p1"), easiest_share=1.0, epoch_steps=2)
    batch = rollouts(["p0", "p1"], [1.0, 1.0], [1000, 9000])
    assert rule.shape(batch).tolist() == [1.0, 1.0]
    rule.observe(outcome(1, [("p0", answers(4, 4))]))
    assert rule.shape(batch).tolist() == [1.0, 1.0]
    assert rule.metrics() == {"prepo/length_biased_frac/mean": 0.0}
    rule.observe(outcome(2, [("p0", answers(4, 4))]))
    assert rule.shape(batch).tolist() == pytest.approx([0.5, 0.1])


@pytest.mark.parametrize("wrong", [0.0, 0.1, -1.0])
def test_incorrect_answers_are_unchanged(wrong: float) -> None:
    """Rewards below 1 are incorrect everywhere; a penalty must not shrink with the length of the answer either."""
    rule = ranked_bias()
    shaped_R = rule.shape(rollouts(["p0"] * 3, [wrong, 1.0, wrong], [1000, 1000, 50]))
    assert shaped_R.tolist() == [wrong, 0.5, wrong]
    assert rule.metrics() == {"prepo/length_biased_frac/mean": pytest.approx(1 / 3)}


def test_raw_rewards_and_statistics_stay_as_they_are() -> None:
    ids = tuple(f"p{i}" for i in range(4))
    rule = length_bias(ids, easiest_share=1.0)
    for step in range(1, 5):
        seen = outcome(step, [(prompt_id, answers(4 - i, 4)) for i, prompt_id in enumerate(ids)])
        before = seen.trained.reward_R.copy()
        rule.shape(seen.trained)
        assert (seen.trained.reward_R == before).all()
        rule.observe(seen)
    # With shaped rewards below 1 every answer would have been incorrect.
    assert rule.state_dict()["difficulty"]["num_correct_N"].tolist() == [16, 12, 8, 4]
