"""Skipping before another choice: which candidates are left, which come back, and which are chosen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_run import make_rule, step_outcome

from recipe.prepo.rules.selection.skip_dead import LEFT_OUT
from recipe.prepo.types import Candidates

IDS = tuple(f"p{i:02}" for i in range(20))
CORRECT, INCORRECT, MIXED = [1.0] * 4, [0.0] * 4, [1.0, 0.0, 1.0, 0.0]
NAMES = ("ppl_schedule_skip", "uniform_skip")


def make(name, **options):
    """The rule, with the probabilities that GRESO starts from."""
    return make_rule("selection", name, IDS, **{"p_easy": 0.5, "p_hard": 0.5, **options})


def candidates(ids=IDS):
    """In order of ids; perplexity falls with the number."""
    return Candidates(ids, np.array([float(100 - int(name[1:])) / 50 for name in ids]), np.full(len(ids), 7))


def observe(rule, times=1, **kinds):
    for step in range(1, times + 1):
        rule.observe(step_outcome(list(kinds.items()), step=step))


def choose(rule, num_selected, progress=0.0):
    found = rule.select(candidates(), num_selected=num_selected, progress=progress)
    return [IDS[i] for i in found.indices_P], {IDS[i]: reason for i, reason in found.skip_reasons.items()}, found


def test_window_is_laid_over_the_candidates_that_are_left():
    rule = make("ppl_schedule_skip", p_easy=0.0, p_hard=0.0, explore=1e-9)
    lowest, highest = IDS[:-6:-1], IDS[:5]
    observe(rule, **dict.fromkeys(lowest, CORRECT), **dict.fromkeys(highest, INCORRECT))
    left = IDS[14:4:-1]  # in ascending perplexity
    for progress, start in ((0.0, 0), (0.5, 3), (1.0, 6)):
        chosen, reasons, found = choose(rule, 4, progress)
        assert (tuple(chosen), found.details["window_start"]) == (left[start : start + 4], start)
        expected = dict.fromkeys(lowest, "all_right_before") | dict.fromkeys(highest, "all_wrong_before")
        expected |= dict.fromkeys(left[:start], "below_window") | dict.fromkeys(left[start + 4 :], "above_window")
        assert reasons == expected


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_skipped_before_any_outcome(name):
    for progress in (0.0, 0.3, 1.0):
        rules = make_rule("selection", name.removesuffix("_skip"), IDS, seed=3), make(name, seed=3)
        expected, found = (choose(rule, 5, progress)[2] for rule in rules)
        assert found.indices_P.tolist() == expected.indices_P.tolist()
        assert (found.skip_reasons, found.details) == (expected.skip_reasons, expected.details)


def test_each_kind_has_its_own_probability_and_a_floor():
    rule = make("uniform_skip", p_easy=0.8, p_hard=0.3, explore=0.2)
    observe(rule, p00=CORRECT, p01=INCORRECT)
    observe(rule, times=20, p02=CORRECT, p03=INCORRECT)
    times = dict.fromkeys(IDS, 0)
    for _ in range(2_000):
        for prompt_id, reason in choose(rule, 1)[1].items():
            times[prompt_id] += reason.endswith("_before")
    for prompt_id, expected in {"p00": 0.2, "p01": 0.7, "p02": 0.8, "p03": 0.8}.items():
        assert times[prompt_id] / 2_000 == pytest.approx(expected, abs=0.051)  # five standard deviations


def test_share_left_out_is_of_the_steps_choices():
    rule = make("uniform_skip", p_easy=0.0, p_hard=0.0, explore=1e-9)
    assert LEFT_OUT not in rule.metrics()
    choose(rule, 3)
    assert rule.metrics()[LEFT_OUT] == 0.0
    observe(rule, **dict.fromkeys(IDS[:5], CORRECT))
    choose(rule, 3)
    rule.select(candidates(IDS[10:]), num_selected=2, progress=0.0)
    assert rule.metrics()[LEFT_OUT] == 5 / 30
    choose(rule, 18)  # 15 are left: three come back
    assert rule.metrics()[LEFT_OUT] == 2 / 20


@pytest.mark.parametrize("name", NAMES)
def test_the_least_dead_come_back_where_too_few_are_left(name):
    rule = make(name)
    observe(rule, times=30, **dict.fromkeys(IDS, INCORRECT))
    observe(rule, **dict.fromkeys(IDS[:5], MIXED))
    observe(rule, **dict.fromkeys(IDS[:5], CORRECT))
    back = dict.fromkeys(IDS, 0)
    for _ in range(400):
        for prompt_id in choose(rule, 8)[0]:
            back[prompt_id] += 1
    # One group without a signal is less than thirty. Of the 15 others the draw brings back three a step: 80 expected.
    assert all(back[prompt_id] > 380 for prompt_id in IDS[:5])
    assert all(30 < back[prompt_id] < 140 for prompt_id in IDS[5:])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_step_has_k_prompts_and_every_other_candidate_a_reason(name, data):
    rule = make(name, seed=data.draw(st.integers(0, 9)))
    kind = st.sampled_from([CORRECT, INCORRECT, MIXED])
    for kinds in data.draw(st.lists(st.dictionaries(st.sampled_from(IDS), kind, min_size=1), max_size=5)):
        observe(rule, **kinds)
    # A small training set may be passed through within one batch: the same prompt twice.
    drawn = tuple(data.draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=30)))
    num_selected = data.draw(st.integers(1, len(drawn)))
    found = rule.select(candidates(drawn), num_selected=num_selected, progress=data.draw(st.floats(0.0, 1.0)))
    chosen = found.indices_P.tolist()
    assert len(set(chosen)) == len(chosen) == num_selected
    assert sorted([*chosen, *found.skip_reasons]) == list(range(len(drawn)))
