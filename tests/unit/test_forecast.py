"""Forecast: beliefs about pass rates, what a group is worth, and the rule that ranks by it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_run import make_rule, step_outcome

from recipe.prepo.maths.pass_rate import after_rollouts, expected_worth
from recipe.prepo.types import Candidates

LOGITS = np.linspace(-60.0, 60.0, 2_401)
IDS = tuple(f"p{i:03}" for i in range(120))
BELIEFS = {"mean": st.floats(-6.0, 6.0), "variance": st.floats(0.05, 9.0)}


@settings(max_examples=40, deadline=None)
@given(**BELIEFS, size=st.integers(1, 16), data=st.data())
def test_a_group_moves_a_belief_to_the_moments_of_its_posterior(mean, variance, size, data):
    correct = data.draw(st.integers(0, size))
    prior = np.exp(-((LOGITS - mean) ** 2) / (2.0 * variance))
    mass = prior * np.exp(correct * LOGITS - size * np.logaddexp(0.0, LOGITS))
    evidence = np.log(mass.sum() / prior.sum())
    mass /= mass.sum()
    expected = (mass @ LOGITS, mass @ (LOGITS - mass @ LOGITS) ** 2, evidence)
    assert after_rollouts(mean, variance, correct, size) == pytest.approx(expected, abs=1e-3, rel=1e-3)


@settings(max_examples=40, deadline=None)
@given(**BELIEFS, size=st.integers(2, 16))
def test_expected_worth_is_that_of_drawn_groups(mean, variance, size):
    mass = np.exp(-((LOGITS - mean) ** 2) / (2.0 * variance))
    rate = 1.0 / (1.0 + np.exp(-LOGITS))
    found = expected_worth(np.array([mean]), np.array([variance]), size)
    for values, value in zip((1.0 - rate**size - (1.0 - rate) ** size, rate * (1.0 - rate)), found, strict=True):
        assert value[0] == pytest.approx((mass @ values) / mass.sum(), abs=1e-3)


# The rule


def make(**options):
    return make_rule("selection", "forecast", IDS, **options)


def select(rule, nll, num_selected):
    return rule.select(Candidates(IDS, nll, np.full(len(IDS), 7)), num_selected=num_selected, progress=0.0)


def train(rule, logit, nll, *, steps):
    """Share of live groups among those chosen in each step, where these are the logits of the pass rates."""
    generator = np.random.default_rng(0)
    shares = []
    for step in range(1, steps + 1):
        chosen = select(rule, nll, 6).indices_P
        rewards = (generator.random((6, 8)) < 1.0 / (1.0 + np.exp(-logit[chosen, None]))).astype(float)
        groups = [(IDS[i], row.tolist()) for i, row in zip(chosen, rewards, strict=True)]
        rule.observe(step_outcome(groups, step=step))
        shares.append(float(np.mean(rewards.min(1) != rewards.max(1))))
    return shares


NLL = np.linspace(0.5, 2.0, len(IDS))
LOGIT = np.linspace(12.0, -12.0, len(IDS))  # about a fifth of the groups are live
USELESS = np.random.default_rng(0).permutation(NLL)


@pytest.mark.parametrize("nll", [NLL, USELESS], ids=["scores that tell", "that do not"])
def test_it_finds_live_prompts(nll):
    assert np.mean(train(make(), LOGIT, nll, steps=40)[20:]) > 0.6


def test_prompts_that_are_likely_to_be_live_are_equally_good():
    """Top ranks alone would train on ever the same few prompts."""
    rule = make()
    train(rule, np.zeros(len(IDS)), np.ones(len(IDS)), steps=40)
    assert (rule.state_dict()["seen_step_N"] >= 0).mean() > 0.75  # 240 draws of 120 at random: 0.86


@pytest.mark.parametrize(("spread", "low", "high"), [(0.0, 0.5, 1.0), (12.0, 8.0, 8.0)])
def test_the_spread_of_the_prompts_own_deviations_is_fitted(spread, low, high):
    rule = make()
    train(rule, np.random.default_rng(1).normal(0.0, 1.0, len(IDS)) * spread, USELESS, steps=20)
    assert low <= rule._own_sd <= high


def test_a_prompt_that_was_never_rolled_out_is_judged_by_those_with_such_scores():
    rule, nll = make(any_share=0.0), np.repeat([0.5, 1.0, 2.0], 40)
    select(rule, nll, len(IDS))
    rewards = {0.5: [1.0] * 8, 1.0: [1.0, 0.0] * 4, 2.0: [0.0] * 8}
    rule.observe(step_outcome([(IDS[i], rewards[nll[i]]) for i in range(1, len(IDS), 2)]))
    unseen = [i for i in select(rule, nll, 30).indices_P if i % 2 == 0]
    assert len(unseen) >= 10 and all(nll[i] == 1.0 for i in unseen)


def test_evidence_fades_with_time_and_not_with_a_prompts_own_groups(monkeypatch):
    rule = make(memory_steps=10.0, model_sd=0.001, model_drift=0.0, ppl_slope=0.0)
    monkeypatch.setattr(type(rule), "_own_sd", 1.5)  # not fitted
    select(rule, NLL, len(IDS))
    rule.observe(step_outcome([(IDS[0], [1.0] * 8)]))
    means, variances = [], []
    for step in range(2, 40):
        details = select(rule, NLL, 1).details
        means.append(details["pass_logit"][0])
        variances.append(details["pass_logit_variance"][0])
        rule.observe(step_outcome([], step=step))
    assert np.diff(means).max() < 0.0 and means[10] / means[0] == pytest.approx(np.exp(-1.0), rel=0.01)
    assert np.diff(variances).min() > 0.0 and variances[-1] == pytest.approx(1.5**2, rel=0.01)


def test_a_rule_that_is_resumed_with_a_choice_in_flight_goes_on_as_before():
    rule, resumed = make(), make()
    train(rule, LOGIT, NLL, steps=3)
    first = select(rule, NLL, 6)
    resumed.load_state_dict(rule.state_dict())
    for each in (rule, resumed):
        each.observe(step_outcome([(IDS[i], [1.0, 0.0] * 4) for i in first.indices_P], step=4))
    assert rule.metrics() == resumed.metrics() != {}
    assert train(rule, LOGIT, NLL, steps=3) == train(resumed, LOGIT, NLL, steps=3)
    assert all(np.array_equal(rule.state_dict()[key], resumed.state_dict()[key]) for key in ("weights", "own_mean_N"))
