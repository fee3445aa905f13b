"""Forecast: beliefs about pass rates, what a group is worth, and the rule that ranks by it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_run import make_rule, step_outcome

from recipe.prepo.errors import ConfigError
from recipe.prepo.maths.pass_rate import after_rollouts, expected_worth
from recipe.prepo.types import Candidates, EarlierRollouts
from recipe.prepo.warm_start import read_warm_start

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


# Earlier rollouts


def earlier(rates, *, size=8, age=0.0):
    ids = [prompt_id for prompt_id in rates for _ in range(size)]
    correct = np.array([i < rate * size for rate in rates.values() for i in range(size)], dtype=float)
    return EarlierRollouts(tuple(ids), correct, np.full(len(ids), age))


def details(rule, ids=IDS):
    pool = Candidates(ids, np.ones(len(ids)), np.full(len(ids), 7))
    return dict(rule.select(pool, num_selected=6, progress=0.0).details)


@pytest.mark.parametrize(("age", "low", "high"), [(0.0, 0.5, 1.0), (500.0, -0.1, 0.1)])
def test_earlier_rollouts_are_believed_by_their_age(age, low, high):
    rule = make(warm_start="somewhere")
    rule.start_from(earlier({"p000": 1.0, "p001": 0.0}, age=age))
    logits = details(rule)["pass_logit"]
    assert low <= logits[0] - logits[2] <= 20 * high
    assert low <= logits[2] - logits[1] <= 20 * high
    assert rule.metrics()["prepo/warm_prompts/sum"] == 2
    details(rule)
    assert rule.metrics()["prepo/warm_prompts/sum"] == 0, "each counts once"


def test_earlier_rollouts_wait_for_the_score_also_in_a_resumed_run():
    rule, resumed = make(warm_start="somewhere"), make(warm_start="gone")
    rule.start_from(earlier({"p000": 1.0, "p100": 0.5}))
    details(rule, IDS[:60])
    resumed.load_state_dict(rule.state_dict())
    first, second = details(rule), details(resumed)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert first["pass_logit_variance"][100] < first["pass_logit_variance"][101]
    assert "earlier_N2" not in make().state_dict(), "other checkpoints stay as they are"


def folder_of(tmp_path, kind, model="models/tiny"):
    if kind == "analyze":
        lines = [{"prompt_id": "p000", "reward": 0.95, "correct": True}, {"prompt_id": "x", "reward": 0.0}]
        (tmp_path / "settings.json").write_text(json.dumps({"model": {"path": model}}))
        path = tmp_path / "generations.jsonl"
    else:
        lines = [{"step": step, "prompt_id": f"p00{step}", "reward": step % 2} for step in (0, 1, 4)]
        (tmp_path / "config.yaml").write_text(f"actor_rollout_ref: {{model: {{path: {model}}}}}")
        path = tmp_path / "audit/rollouts.jsonl"
        path.parent.mkdir()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_earlier_rollouts_are_read_from_an_analysis_and_from_a_run(tmp_path):
    for kind in ("analyze", "run"):
        (tmp_path / kind).mkdir()
    ids, correct, age = read_warm_start(IDS, folder=folder_of(tmp_path / "analyze", "analyze"), model="/else/tiny")
    assert (ids, correct.tolist(), age.tolist()) == (("p000",), [1.0], [0.0])
    ids, correct, age = read_warm_start(IDS, folder=folder_of(tmp_path / "run", "run"), model="tiny")
    assert (ids, correct.tolist(), age.tolist()) == (("p000", "p001", "p004"), [0, 1, 0], [4, 3, 0])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda folder: folder / "none", "the folder does not exist"),
        (lambda folder: (folder / "generations.jsonl").rename(folder / "old") and folder, "has neither"),
        (lambda folder: (folder / "settings.json").unlink() or folder, "damaged"),
        (lambda folder: folder, "of the model tiny, and this run trains models/other"),
    ],
)
def test_a_warm_start_that_does_not_fit_is_refused(tmp_path, change, why):
    folder = change(folder_of(tmp_path, "analyze"))
    with pytest.raises(ConfigError, match=f"warm_start=.*{why}.*Set prepo.selection.warm_start=null"):
        read_warm_start(IDS, folder=folder, model="models/other")


def test_a_warm_start_of_other_data_is_refused(tmp_path):
    folder = folder_of(tmp_path, "analyze")
    with pytest.raises(ConfigError, match="none of its prompts"):
        read_warm_start(["q"], folder=folder, model="tiny")
