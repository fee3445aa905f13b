"""GRESO (arXiv 2506.02177): skip probabilities, their control, refill rounds and its memory of each prompt."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_run import make_rule, run_facts
from simulated_run import step_outcome as outcome

from recipe.prepo.rules.selection.greso import SignalHistory, skip_probability
from recipe.prepo.types import Candidates, Refill

CORRECT, INCORRECT, MIXED = [1.0] * 4, [0.0] * 4, [1.0, 0.0, 1.0, 0.0]


def greso(ids, **options):
    return make_rule("selection", "greso", ids, **options)


def history(ids):
    kept = SignalHistory()
    kept.bind(run_facts(ids))
    return kept


def draw(rule, ids):
    return rule.select(Candidates(ids), num_selected=len(ids), progress=0.0)


def probabilities(rule):
    return rule.metrics()["prepo/p_easy/mean"], rule.metrics()["prepo/p_hard/mean"]


def test_published_skip_probabilities():
    expected = {1: 0.5, 2: 0.75, 3: 0.875, 5: 0.969, 7: 0.99, 100: 0.99, 2**31 - 1: 0.99}
    run_P = np.array(list(expected))
    easy_P = skip_probability(run_P, p_easy=0.5, p_hard=0.3, explore=0.01)
    hard_P = skip_probability(-run_P, p_easy=0.3, p_hard=0.5, explore=0.01)
    assert easy_P.tolist() == hard_P.tolist() == pytest.approx(list(expected.values()), abs=5e-4)


def test_groups_count_by_correct_rollouts_whether_discarded_or_trained():
    kept = history("abcdef")
    # Thresholds on the mean reward, as published, would call e hard (<= 0.11) and f easy (>= 0.98).
    nearly = [("e", [1.0] + [0.0] * 11), ("f", [1.0] * 99 + [0.0])]
    shares = kept.observe(outcome([("a", MIXED), *nearly], [("b", CORRECT)], [("c", [0.1, 0.5]), ("d", [1.0])]))
    assert shares == (5 / 123, 2 / 123)
    assert kept.observe(outcome([])) == (0.0, 0.0)
    assert kept.runs(tuple("abcdef")).tolist() == [0, 1, -1, 1, 0, 0]


@given(st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=8), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_runs_are_the_end_of_the_whole_trace(steps):
    kept = history("abc")
    for step in steps:
        kept.observe(outcome([], [(name, [CORRECT, INCORRECT, MIXED][kind]) for name, kind in step]))
    for name in "abc":
        trace = [kind for step in steps for asked, kind in step if asked == name] or [2]
        length = next((i for i, kind in enumerate(reversed(trace)) if kind != trace[-1]), len(trace))
        assert kept.runs((name,)).tolist() == [(length, -length, 0)[trace[-1]]]


def controlled(num_prompts=6, **options):
    """A rule in its second epoch of draws."""
    ids = tuple(f"p{i}" for i in range(num_prompts))
    rule = greso(ids, **options)
    draw(rule, (*ids, ids[0]))
    return rule


def groups(*sizes_and_correct):
    return [(f"p{i}", [1.0] * right + [0.0] * (size - right)) for i, (size, right) in enumerate(sizes_and_correct)]


@pytest.mark.parametrize(("p", "kind", "expected"), [(0.055, CORRECT, 0.05), (0.945, MIXED, 0.95), (0.95, MIXED, 0.95)])
def test_probabilities_stay_within_their_bounds(p, kind, expected):
    rule = controlled(p_easy=p)
    rule.observe(outcome([("p0", kind)]))
    assert probabilities(rule)[0] == expected


def test_probabilities_wait_for_the_second_epoch_of_draws_and_move_once_a_step():
    rule = greso(tuple("abcdef"))
    for drawn in (("a", "b", "c"), ("a", "d")):  # a skipped prompt counts as drawn, too
        draw(rule, drawn)
        rule.observe(outcome([], [("a", CORRECT)]))
    assert probabilities(rule) == (0.5, 0.5)
    draw(rule, ("f", "a"))  # the second epoch begins within this step
    rule.observe(outcome([], *[[("a", CORRECT)]] * 4))
    assert probabilities(rule) == pytest.approx((0.49, 0.51))


@pytest.mark.parametrize(
    ("trained", "discarded", "expected"),
    [
        # 1 of 16 rollouts in an all-correct group (1 of 2 groups): below 1/12.
        (groups((15, 3)), groups((1, 1)), (0.51, 0.51)),
        # 2 of 20 all correct: above 1/12; 3 of 20 all incorrect: below 1/6.
        ([("p0", [1.0] * 5 + [0.0] * 10)], [("p1", [1.0] * 2), ("p2", [0.0] * 3)], (0.49, 0.51)),
        # 15 of 20 all incorrect, although that is 1 group of 5.
        (groups((2, 1), (1, 1)), [("p2", [0.0] * 15), ("p3", [0.0, 1.0])], (0.51, 0.49)),
        ([], [("p0", CORRECT), ("p1", INCORRECT)], (0.49, 0.49)),
    ],
)
def test_shares_are_weighted_by_rollouts(trained, discarded, expected):
    rule = controlled()
    rule.observe(outcome(trained, discarded))
    assert probabilities(rule) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 5, 7, 11, 36])
def test_share_that_meets_its_target_exactly_lowers_the_probability(k):
    """Of 12 k groups k all-correct ones are 1/12, and 2 k all-incorrect ones are 1/6."""
    rule = controlled(12 * k)
    rule.observe(outcome(groups(*[(2, 2)] * k, *[(2, 0)] * (2 * k), *[(2, 1)] * (9 * k))))
    assert probabilities(rule) == pytest.approx((0.49, 0.49))


def test_prompts_are_skipped_as_often_as_the_controlled_probabilities_say():
    rule = controlled(8)
    for step in range(20):
        last = [("p6", CORRECT if step % 2 else INCORRECT)]
        rule.observe(outcome([("p1", MIXED)], [("p5", INCORRECT), *last]))
    rule.observe(outcome([("p5", MIXED), ("p6", MIXED)]))
    rule.observe(outcome([], [("p2", CORRECT), ("p3", INCORRECT), ("p4", CORRECT)]))
    rule.observe(outcome([], [("p4", CORRECT)]))
    p_easy, p_hard = probabilities(rule)
    expected = {"p0": 0.0, "p1": 0.0, "p2": 1 - p_easy, "p3": 1 - p_hard, "p4": 1 - p_easy**2, "p5": 0.0, "p6": 0.0}
    assert 0.1 < p_hard < p_easy
    for name, p in expected.items():
        found = draw(rule, (name,) * 20_000).skip_reasons
        assert len(found) / 20_000 == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 20_000))
        assert set(found.values()) <= {"all_wrong_before" if name == "p3" else "all_right_before"}


@pytest.mark.parametrize(
    ("num_missing", "alpha", "estimate", "is_last", "num_prompts"),
    [
        (64, 0.5, 160, True, 160),
        (128, 0.3, 228, True, 228),
        (200, 0.75, 1000, False, 384),
        (10, 0.2, 15, True, 64),
        # The size that is just a full round is still the last.
        (256, 1 / 6, 384, True, 384),
        # No group had a signal: a full round.
        (64, 1.0, None, False, 384),
    ],
)
def test_published_refills(num_missing, alpha, estimate, is_last, num_prompts):
    rule = greso(("a",), min_round=64)
    assert (rule.first_round(256), rule.first_round(1), rule.first_round(3)) == (384, 1, 4)
    found = rule.next_round(num_missing, zero_variance_frac=alpha, num_selected=256, refills=())
    assert found == Refill(num_prompts, estimate, is_last)
    capped = greso(("a",), min_round=500).next_round(
        num_missing, zero_variance_frac=alpha, num_selected=256, refills=()
    )
    assert capped.num_prompts == 384


def next_round(rule, *refills):
    return rule.next_round(4, zero_variance_frac=0.5, num_selected=16, refills=refills)


LAST, MORE, BLIND = Refill(10, 10, True), Refill(24, 40, False), Refill(24, None, False)


def test_step_is_filled_up_or_ends_short():
    filling, short = greso(("a",), allow_short=False), greso(("a",), allow_short=True)
    assert next_round(filling) == next_round(short) == LAST
    assert next_round(filling, LAST) == next_round(filling, MORE, LAST) == LAST
    assert next_round(short, LAST) is None
    assert next_round(short, MORE, LAST) is None
    assert next_round(short, MORE) == next_round(short, BLIND) == LAST


@pytest.mark.parametrize("max_rounds", [1, 2, 5])
def test_step_has_no_more_rounds_than_allowed(max_rounds):
    rule = greso(("a",), max_rounds=max_rounds)
    rounds = [next_round(rule, *[MORE] * number) for number in range(5)]
    assert [found is None for found in rounds] == [number + 1 >= max_rounds for number in range(5)]
