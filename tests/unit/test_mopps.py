"""Predicted pass rates: the formulas of MoPPS (arXiv 2507.04632), its rule, and the prior by perplexity."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_run import make_rule, step_outcome

from recipe.prepo.rules.selection import mopps_ppl
from recipe.prepo.rules.selection.mopps_ppl import prior_of_near
from recipe.prepo.types import Candidates

IDS = tuple(f"p{i:03}" for i in range(200))
CORRECT, INCORRECT, MIXED = [1.0] * 8, [0.0] * 8, [1.0, 0.0] * 4


# The formulas


def prior(right, size, before, num_near, max_rollouts=50.0):
    history = np.asarray(right, dtype=float), np.asarray(size, dtype=float), np.asarray(before)
    return prior_of_near(*history, num_near=num_near, prior_right=1.0, prior_wrong=1.0, max_rollouts=max_rollouts)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.5), (2.0, 6.0)])
@pytest.mark.parametrize("sizes", [(8, 8), (4, 12)], ids=["equal", "ragged"])
def test_a_beta_binomial_gets_its_own_parameters_back(alpha, beta, sizes):
    generator = np.random.default_rng(0)
    size = generator.integers(sizes[0], sizes[1] + 1, 40_000)
    right = generator.binomial(size, generator.beta(alpha, beta, len(size)))
    found = prior(right, size, [0], len(size))
    # Fifty other fits of equal groups were within 5%. For ragged groups 1/n is not that of the mean n.
    assert np.ravel(found) == pytest.approx([alpha, beta], rel=0.1 if sizes == (8, 8) else 0.2)


def test_prior_is_of_the_groups_around_its_place():
    alpha, beta = prior([0] * 10 + [4] * 10 + [8] * 10, [8] * 30, [0, 3, 15, 27, 30], 6, max_rollouts=4.0)
    assert (alpha + beta).tolist() == pytest.approx([4.0] * 5)
    # Smoothed by one correct and one incorrect rollout, of 48.
    assert (alpha / 4.0).tolist() == pytest.approx([1 / 50, 1 / 50, 0.5, 49 / 50, 49 / 50])
    # Groups of one rollout give only a mean; a place between two kinds has a prior at both ends.
    assert np.ravel(prior([1, 0] * 4, [1] * 8, [4], 8, max_rollouts=4.0)) == pytest.approx([2.0, 2.0])
    alpha, beta = prior([0] * 10 + [8] * 10, [8] * 20, [10], 8)
    assert alpha[0] == pytest.approx(beta[0]) and alpha[0] < 0.02


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_every_fit_is_a_prior_that_can_be_drawn_from(data):
    size = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=30))
    right = [data.draw(st.integers(0, n)) for n in size]
    num_near, max_rollouts = data.draw(st.integers(1, len(size))), data.draw(st.floats(0.1, 1e6))
    alpha, beta = prior(right, size, list(range(len(size) + 1)), num_near, max_rollouts)
    assert ((alpha > 0.0) & (beta > 0.0) & (alpha + beta <= max_rollouts * (1 + 1e-9))).all()
    assert np.isfinite(np.random.default_rng(0).beta(alpha, beta, (50, len(alpha)))).all()


# The rules


def make(name, *, seed=0, **options):
    options = {"near_groups": 32, **options} if name == "mopps_ppl" else options
    return make_rule("selection", name, IDS, seed=seed, **options)


def scored(ids, ppl=None):
    """Candidates with these perplexities; 2 for the others."""
    return Candidates(ids, np.log([(ppl or {}).get(prompt_id, 2.0) for prompt_id in ids]), np.full(len(ids), 7))


def observe(rule, *groups, discarded=()):
    rule.observe(step_outcome(list(groups), *[list(discarded)] * bool(discarded)))


def select(rule, candidates, num_selected):
    return rule.select(candidates, num_selected=num_selected, progress=0.0)


def drawn_rates(selection):
    return np.asarray(selection.details["drawn_pass_rate"]).tolist()


def times_chosen(rule, candidates, num_selected, draws):
    times = np.zeros(len(candidates))
    for _ in range(draws):
        times[select(rule, candidates, num_selected).indices_P] += 1
    return dict(zip(candidates.prompt_ids, times / draws, strict=True))


def test_chance_of_being_nearer_is_that_of_two_beta_draws():
    rule = make("mopps", discount=0.5, prior_right=2.0, prior_wrong=1.0)
    observe(rule, ("p000", CORRECT), ("p001", INCORRECT[:4]))
    observe(rule, ("p000", MIXED))
    generator = np.random.default_rng(0)
    # Of p000: right 8/2 + 4, wrong 4; of p001: wrong 4.
    first = np.abs(generator.beta(2 + 8, 1 + 4, 400_000) - 0.5)
    second = np.abs(generator.beta(2, 1 + 4, 400_000) - 0.5)
    expected = float((first < second).mean())
    assert times_chosen(rule, scored(IDS[:2]), 1, draws=4_000)["p000"] == pytest.approx(expected, abs=0.04)


@settings(max_examples=30, deadline=None)
@given(target=st.floats(0.0, 1.0), num_selected=st.integers(1, 40))
def test_no_other_drawn_rate_is_nearer_to_the_target(target, num_selected):
    found = select(make("mopps", target_pass_rate=target), scored(IDS[:40]), num_selected)
    away, chosen = np.abs(np.array(drawn_rates(found)) - target), found.indices_P.tolist()
    assert len(chosen) == num_selected and chosen == sorted(set(chosen))
    assert max(away[chosen]) <= min(np.delete(away, chosen), default=np.inf)


def test_equally_near_rates_are_equally_likely():
    rule = make("mopps")
    rule._generator = type("Tied", (), {"beta": lambda self, alpha, beta: np.array([0.0, 1.0])})()
    found = times_chosen(rule, scored(IDS[:2]), 1, draws=2_000)
    assert found["p000"] == pytest.approx(0.5, abs=0.056)  # five standard deviations


def test_discarded_groups_count_and_a_prompt_may_come_twice():
    rule = make("mopps", discount=0.5)
    observe(rule, ("p000", MIXED), ("p001", MIXED), discarded=(("p000", CORRECT), ("p002", INCORRECT[:3])))
    state = rule.state_dict()
    assert state["correct_N"][:4].tolist() == [8 / 2 + 4, 4, 0, 0]
    assert state["incorrect_N"][:4].tolist() == [4, 4, 3, 0]


def test_metrics_compare_prediction_and_outcome():
    rule = make("mopps")
    assert rule.metrics() == {}
    observe(rule, ("p000", CORRECT), ("p001", MIXED))
    names = ("known_prompts_frac", "pass_rate", "predicted_pass_rate", "pass_rate_error")
    assert rule.metrics() == dict(zip([f"prepo/{name}/mean" for name in names], [0.0, 0.75, 0.5, 0.25], strict=True))
    observe(rule, ("p000", MIXED), ("p002", INCORRECT))
    assert list(rule.metrics().values()) == pytest.approx([0.5, 0.25, (0.9 + 0.5) / 2, (0.4 + 0.5) / 2])


# The prior by perplexity

LIVE, HARD = IDS[:50], IDS[50:100]  # rolled out; the others are not
NEW_LIVE, NEW_HARD = IDS[100:150], IDS[150:]
PPL = dict.fromkeys((*LIVE, *NEW_LIVE), 1.5) | dict.fromkeys((*HARD, *NEW_HARD), 4.0)


def taught(name, **options):
    """A rule that saw half of the prompts; the hard ones were never correct."""
    rule = make(name, **options)
    select(rule, scored(IDS, PPL), 1)
    observe(rule, *((prompt_id, MIXED) for prompt_id in LIVE), *((prompt_id, INCORRECT) for prompt_id in HARD))
    return rule


@pytest.mark.parametrize(("name", "expected"), [("mopps", 0.5), ("mopps_ppl", 1.0)])
def test_prompts_that_were_never_rolled_out_are_judged_by_those_of_near_perplexity(name, expected):
    found = times_chosen(taught(name), scored((*NEW_LIVE, *NEW_HARD), PPL), 20, draws=100)
    assert sum(found[prompt_id] for prompt_id in NEW_LIVE) / 20 == pytest.approx(expected, abs=0.05)


def test_until_enough_groups_are_known_it_is_mopps():
    rules, same = (make("mopps", seed=4), make("mopps_ppl", seed=4, forget=0.0)), []
    for step in range(9):
        expected, found = (select(rule, scored(IDS[: 60 + step], PPL), 4) for rule in rules)
        same.append(drawn_rates(expected) == drawn_rates(found))
        for rule in rules:
            observe(rule, *((IDS[i], MIXED if i < 50 else INCORRECT) for i in expected.indices_P))
    assert same == [True] * 8 + [False]  # 32 groups


def test_memory_keeps_the_perplexity_at_the_time_of_the_group():
    rule = make("mopps_ppl", forget=0.0)
    for ppl in (2.0, 3.0):
        select(rule, scored(IDS[:3], dict.fromkeys(IDS, ppl)), 2)
        observe(rule, ("p000", MIXED), ("p001", INCORRECT[:3]), discarded=(("p002", CORRECT[:5]),))
    memory = rule.state_dict()["memory"]
    assert np.exp(memory[:, 0]).tolist() == pytest.approx([2.0] * 3 + [3.0] * 3)
    assert memory[:, 1:].tolist() == [[5.0, 5.0], [4.0, 8.0], [0.0, 3.0]] * 2


def test_groups_are_forgotten_at_random_with_their_probability_and_beyond_a_limit(monkeypatch):
    """Oldest first would expire unselected groups together and retry them all."""
    rule = make("mopps_ppl", forget=0.25)
    select(rule, scored(IDS, dict(zip(IDS, np.linspace(2.0, 3.0, len(IDS)), strict=True))), 2)
    observe(rule, *((prompt_id, INCORRECT) for prompt_id in IDS))
    for _ in range(3):
        observe(rule, ("p000", MIXED))
    memory = rule.state_dict()["memory"]
    old = memory[memory[:, 1] == 0.0]
    assert len(old) / len(IDS) == pytest.approx(0.75**3, abs=0.18)  # five standard deviations
    assert 20 < (old[:, 0] < np.log(2.5)).sum() < 64  # of about 84, those that came first
    monkeypatch.setattr(mopps_ppl, "LARGEST_MEMORY", 100)
    observe(rule, *((prompt_id, MIXED) for prompt_id in IDS[:100]))
    memory = rule.state_dict()["memory"]
    assert len(memory) == 100 and 12 < (memory[:, 1] == 0.0).sum() < 65  # about 38
