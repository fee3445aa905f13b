"""Predicted pass rates: the formulas of MoPPS (arXiv 2507.04632), its rule, and the prior by perplexity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from audited_run import check_of_audit
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_run import all_options, rollout_batch, rule_options, run_facts

from recipe.prepo.errors import ConfigError
from recipe.prepo.rules.base import SelectionRule
from recipe.prepo.rules.registry import build_rule
from recipe.prepo.rules.selection import mopps_ppl
from recipe.prepo.rules.selection.mopps_ppl import prior_of_near
from recipe.prepo.types import Candidates, Selection, StepOutcome

IDS = tuple(f"p{i:03}" for i in range(200))
CORRECT, INCORRECT, MIXED = [1.0] * 8, [0.0] * 8, [1.0, 0.0] * 4
NAMES = ("mopps", "mopps_ppl")


# The formulas


def prior(right: Any, size: Any, before: Any, num_near: int, max_rollouts: float = 50.0) -> tuple[Any, Any]:
    return prior_of_near(
        np.asarray(right, dtype=float),
        np.asarray(size, dtype=float),
        np.asarray(before),
        num_near=num_near,
        prior_right=1.0,
        prior_wrong=1.0,
        max_rollouts=max_rollouts,
    )


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.5), (1.0, 1.0), (2.0, 6.0), (0.2, 0.05)])
@pytest.mark.parametrize("sizes", [(8, 8), (4, 12)], ids=["equal", "ragged"])
def test_a_beta_binomial_gets_its_own_parameters_back(alpha: float, beta: float, sizes: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    size = generator.integers(sizes[0], sizes[1] + 1, 40_000)
    right = generator.binomial(size, generator.beta(alpha, beta, len(size)))
    found = prior(right, size, [0], len(size))
    # Fifty other fits of equal groups were within 5%. For ragged groups 1/n is not that of the mean n.
    assert found[0][0] == pytest.approx(alpha, rel=0.1 if sizes == (8, 8) else 0.2)
    assert found[1][0] == pytest.approx(beta, rel=0.1 if sizes == (8, 8) else 0.2)


def test_prior_is_of_the_groups_around_its_place() -> None:
    right = [0] * 10 + [4] * 10 + [8] * 10
    alpha, beta = prior(right, [8] * 30, [0, 3, 15, 27, 30], 6, max_rollouts=4.0)
    assert (alpha + beta).tolist() == pytest.approx([4.0] * 5)
    # Smoothed by one correct and one incorrect rollout, of 48.
    assert (alpha / 4.0).tolist() == pytest.approx([1 / 50, 1 / 50, 0.5, 49 / 50, 49 / 50])


def test_groups_of_one_rollout_give_only_a_mean() -> None:
    alpha, beta = prior([1, 0] * 4, [1] * 8, [4], 8, max_rollouts=4.0)
    assert (alpha[0], beta[0]) == pytest.approx((2.0, 2.0))


def test_a_place_between_two_kinds_has_a_prior_at_both_ends() -> None:
    alpha, beta = prior([0] * 10 + [8] * 10, [8] * 20, [10], 8)
    assert alpha[0] == pytest.approx(beta[0]) and alpha[0] < 0.02
    drawn = np.random.default_rng(0).beta(alpha[0], beta[0], 1_000)
    assert ((drawn < 0.1) | (drawn > 0.9)).mean() > 0.95


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_every_fit_is_a_prior_that_can_be_drawn_from(data: st.DataObject) -> None:
    size = data.draw(st.lists(st.integers(1, 12), min_size=1, max_size=30))
    right = [data.draw(st.integers(0, n)) for n in size]
    num_near = data.draw(st.integers(1, len(size)))
    max_rollouts = data.draw(st.floats(0.1, 1e6))
    alpha, beta = prior(right, size, list(range(len(size) + 1)), num_near, max_rollouts)
    assert ((alpha > 0.0) & (beta > 0.0) & (alpha + beta <= max_rollouts * (1 + 1e-9))).all()
    assert np.isfinite(np.random.default_rng(0).beta(alpha, beta, (50, len(alpha)))).all()


# The rules


def make(name: str, *, ids: tuple[str, ...] = IDS, seed: int = 0, **options: Any) -> Any:
    """The rule with the options of its yaml."""
    if name == "mopps_ppl":
        options = {"near_groups": 32, **options}
    rule = cast(SelectionRule, build_rule("selection", rule_options("selection", name, **options), seed=seed))
    rule.bind(run_facts(ids))
    return rule


def scored(ids: tuple[str, ...], ppl: dict[str, float] | None = None) -> Candidates:
    """Candidates with these perplexities; 2 for the others."""
    nll = np.log([(ppl or {}).get(prompt_id, 2.0) for prompt_id in ids])
    return Candidates(ids, nll, np.full(len(ids), 7))


def observe(rule: Any, *groups: tuple[str, list[float]], discarded: tuple[tuple[str, list[float]], ...] = ()) -> None:
    dropped = (rollout_batch(list(discarded), 1, entropies=False),) if discarded else ()
    rule.observe(StepOutcome(trained=rollout_batch(list(groups), 1), discarded=dropped, step=1))


def times_chosen(rule: Any, candidates: Candidates, num_selected: int, draws: int = 2_000) -> dict[str, float]:
    times = dict.fromkeys(candidates.prompt_ids, 0)
    for _ in range(draws):
        found = rule.select(candidates, num_selected=num_selected, progress=0.5)
        for i in found.indices_P:
            times[candidates.prompt_ids[i]] += 1
    return {prompt_id: number / draws for prompt_id, number in times.items()}


@pytest.mark.parametrize("name", NAMES)
def test_unknown_prompts_are_equally_likely(name: str) -> None:
    found = times_chosen(make(name), scored(IDS[:10]), 3)
    assert all(share == pytest.approx(0.3, abs=0.052) for share in found.values())  # five standard deviations


def test_chance_of_being_nearer_is_that_of_two_beta_draws() -> None:
    rule = make("mopps", discount=0.5, prior_right=2.0, prior_wrong=1.0)
    observe(rule, ("p000", CORRECT), ("p001", INCORRECT[:4]))
    observe(rule, ("p000", MIXED))
    generator = np.random.default_rng(0)
    # Of p000: right 8/2 + 4, wrong 4; of p001: wrong 4.
    first = np.abs(generator.beta(2 + 8, 1 + 4, 400_000) - 0.5)
    second = np.abs(generator.beta(2, 1 + 4, 400_000) - 0.5)
    expected = float((first < second).mean())
    assert times_chosen(rule, scored(IDS[:2]), 1, draws=4_000)["p000"] == pytest.approx(expected, abs=0.04)


@settings(deadline=None)
@given(groups=st.lists(st.integers(0, 9), max_size=12), discount=st.floats(0.0, 1.0), prior_right=st.floats(0.1, 5.0))
def test_counts_are_the_papers_recursion_without_its_prior(
    groups: list[int], discount: float, prior_right: float
) -> None:
    rule, alpha = make("mopps", discount=discount, prior_right=prior_right), prior_right
    for num_correct in groups:
        alpha = discount * alpha + (1.0 - discount) * prior_right + num_correct
        observe(rule, ("p000", [1.0] * num_correct + [0.0]))
    assert prior_right + rule.state_dict()["correct_N"][0] == pytest.approx(alpha, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(target=st.floats(0.0, 1.0), num_selected=st.integers(1, 40))
def test_no_other_drawn_rate_is_nearer_to_the_target(name: str, target: float, num_selected: int) -> None:
    found = make(name, target_pass_rate=target).select(scored(IDS[:40]), num_selected=num_selected, progress=0.0)
    away, chosen = np.abs(np.array(rates_of(found)) - target), found.indices_P.tolist()
    assert len(chosen) == num_selected and chosen == sorted(set(chosen))
    assert max(away[chosen]) <= min(np.delete(away, chosen), default=np.inf)


def test_equally_near_rates_are_equally_likely() -> None:
    rule = make("mopps", ids=IDS[:2], prior_right=1e6, prior_wrong=1e6)
    rule._generator = type("Tied", (), {"beta": lambda self, alpha, beta: np.array([0.0, 1.0])})()
    found = times_chosen(rule, scored(IDS[:2]), 1)
    assert found["p000"] == pytest.approx(0.5, abs=0.056)  # five standard deviations


@pytest.mark.parametrize("name", NAMES)
def test_discarded_groups_count_and_a_prompt_may_come_twice(name: str) -> None:
    rule = make(name, discount=0.5)
    rule.select(scored(IDS), num_selected=1, progress=0.0)
    observe(rule, ("p000", MIXED), ("p001", MIXED), discarded=(("p000", CORRECT), ("p002", INCORRECT[:3])))
    state = rule.state_dict()
    assert state["correct_N"][:4].tolist() == [8 / 2 + 4, 4, 0, 0]
    assert state["incorrect_N"][:4].tolist() == [4, 4, 3, 0]


def test_metrics_compare_prediction_and_outcome() -> None:
    rule = make("mopps")
    assert rule.metrics() == {}
    observe(rule, ("p000", CORRECT), ("p001", MIXED))
    assert rule.metrics() == {
        "prepo/known_prompts_frac/mean": 0.0,
        "prepo/pass_rate/mean": 0.75,
        "prepo/predicted_pass_rate/mean": 0.5,
        "prepo/pass_rate_error/mean": 0.25,
    }
    observe(rule, ("p000", MIXED), ("p002", INCORRECT))
    found = rule.metrics()
    assert found["prepo/known_prompts_frac/mean"] == 0.5
    assert found["prepo/predicted_pass_rate/mean"] == pytest.approx((0.9 + 0.5) / 2)
    assert found["prepo/pass_rate_error/mean"] == pytest.approx((0.4 + 0.5) / 2)


@pytest.mark.parametrize("name", NAMES)
def test_reasons_say_on_which_side_a_prompt_was_predicted(name: str) -> None:
    rule = make(name)
    rule.select(scored(IDS), num_selected=1, progress=0.0)
    for _ in range(6):
        observe(rule, ("p000", CORRECT), ("p001", INCORRECT), ("p002", MIXED))
    reasons = [rule.select(scored(IDS[:3]), num_selected=1, progress=0.0).skip_reasons for _ in range(50)]
    assert sum(found.get(0) == "predicted_too_easy" for found in reasons) > 45
    assert sum(found.get(1) == "predicted_too_hard" for found in reasons) > 45


# The prior by perplexity

LIVE, HARD = IDS[:50], IDS[50:100]  # rolled out; the others are not
NEW_LIVE, NEW_HARD = IDS[100:150], IDS[150:]
PPL = dict.fromkeys((*LIVE, *NEW_LIVE), 1.5) | dict.fromkeys((*HARD, *NEW_HARD), 4.0)


def taught(name: str, ppl: dict[str, float] = PPL, **options: Any) -> Any:
    """A rule that saw half of the prompts; the hard ones were never correct."""
    rule = make(name, **options)
    rule.select(scored(IDS, ppl), num_selected=1, progress=0.0)
    observe(rule, *((prompt_id, MIXED) for prompt_id in LIVE), *((prompt_id, INCORRECT) for prompt_id in HARD))
    return rule


def share_of(rule: Any, ids: tuple[str, ...], among: tuple[str, ...], ppl: dict[str, float] = PPL) -> float:
    found = times_chosen(rule, scored(among, ppl), 20, draws=100)
    return sum(found[prompt_id] for prompt_id in ids) / 20


def test_prompts_that_were_never_rolled_out_are_judged_by_those_of_near_perplexity() -> None:
    unknown = (*NEW_LIVE, *NEW_HARD)
    assert share_of(taught("mopps"), NEW_LIVE, unknown) == pytest.approx(0.5, abs=0.05)
    assert share_of(taught("mopps_ppl"), NEW_LIVE, unknown) > 0.95
    # Random perplexities carry no information.
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(10):
        mixed = dict(zip(IDS, generator.permutation([PPL[prompt_id] for prompt_id in IDS]).tolist(), strict=True))
        shares.append(share_of(taught("mopps_ppl", mixed), NEW_LIVE, unknown, mixed))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)


def test_own_rollouts_of_a_prompt_outweigh_those_of_others() -> None:
    rule = taught("mopps_ppl", discount=1.0)
    for _ in range(3):
        observe(rule, (LIVE[0], CORRECT), (HARD[0], MIXED))
    found = times_chosen(rule, scored((LIVE[0], HARD[0]), PPL), 1, draws=400)
    assert found[HARD[0]] > 0.9


def rates_of(selection: Selection) -> list[float]:
    return np.asarray(selection.details["drawn_pass_rate"]).tolist()


def test_until_enough_groups_are_known_it_is_mopps() -> None:
    plain, by_ppl = make("mopps", seed=4), make("mopps_ppl", seed=4)
    same = []
    for step in range(12):
        candidates = scored(IDS[: 60 + step], PPL)
        expected: Selection = plain.select(candidates, num_selected=4, progress=0.0)
        found: Selection = by_ppl.select(candidates, num_selected=4, progress=0.0)
        same.append(rates_of(expected) == rates_of(found))
        for rule in (plain, by_ppl):
            observe(rule, *((IDS[i], MIXED if i < 50 else INCORRECT) for i in expected.indices_P))
        if len(by_ppl.state_dict()["memory"]) >= 32:
            break
    assert len(same) >= 8 and all(same)
    expected, found = (rule.select(candidates, num_selected=4, progress=0.0) for rule in (plain, by_ppl))
    assert rates_of(expected) != rates_of(found)


def test_memory_keeps_the_perplexity_at_the_time_of_the_group() -> None:
    rule = make("mopps_ppl", forget=0.0)
    for ppl in (2.0, 3.0):
        rule.select(scored(IDS[:3], dict.fromkeys(IDS, ppl)), num_selected=2, progress=0.0)
        observe(rule, ("p000", MIXED), ("p001", INCORRECT[:3]), discarded=(("p002", CORRECT[:5]),))
    memory = rule.state_dict()["memory"]
    assert np.exp(memory[:, 0]).tolist() == pytest.approx([2.0] * 3 + [3.0] * 3)
    assert memory[:, 1:].tolist() == [[5.0, 5.0], [4.0, 8.0], [0.0, 3.0]] * 2


def test_each_group_is_forgotten_with_its_probability() -> None:
    rule = make("mopps_ppl", forget=0.25)
    rule.select(scored(IDS), num_selected=2, progress=0.0)
    observe(rule, *((prompt_id, INCORRECT) for prompt_id in IDS))
    for _ in range(3):
        observe(rule, ("p000", MIXED))
    old = int((rule.state_dict()["memory"][:, 1] == 0.0).sum())
    assert old / len(IDS) == pytest.approx(0.75**3, abs=0.18)  # five standard deviations
    assert make("mopps_ppl", forget=1.0).state_dict()["memory"].shape == (0, 3)


def test_memory_has_a_limit_and_keeps_any_of_its_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mopps_ppl, "LARGEST_MEMORY", 100)
    rule = make("mopps_ppl", forget=0.0)
    rule.select(scored(IDS), num_selected=2, progress=0.0)
    observe(rule, *((prompt_id, INCORRECT) for prompt_id in IDS[:100]))
    assert len(rule.state_dict()["memory"]) == 100
    observe(rule, *((prompt_id, MIXED) for prompt_id in IDS[100:]))
    memory = rule.state_dict()["memory"]
    assert len(memory) == 100 and 25 < (memory[:, 1] == 0.0).sum() < 75  # five standard deviations


@pytest.mark.parametrize("num_selected", [16, 128])
def test_avoided_prompts_are_not_retried_all_at_once(num_selected: int) -> None:
    """Prompts come once. Half of them are never correct, and perplexity separates these from the others."""
    steps, num_candidates = 40, 5 * num_selected
    ids = tuple(f"p{i}" for i in range(steps * num_candidates))
    generator = np.random.default_rng(1)
    is_dead = generator.random(len(ids)) < 0.5
    nll = np.where(is_dead, generator.uniform(1.0, 1.4, len(ids)), generator.uniform(0.0, 0.7, len(ids)))
    rule = make("mopps_ppl", ids=ids)
    dead_frac = []
    for start in range(0, len(ids), num_candidates):
        now = slice(start, start + num_candidates)
        candidates = Candidates(ids[now], nll[now], np.full(num_candidates, 7))
        chosen = start + rule.select(candidates, num_selected=num_selected, progress=0.0).indices_P
        dead_frac.append(is_dead[chosen].mean())
        observe(rule, *((ids[i], INCORRECT if is_dead[i] else MIXED) for i in chosen))
    assert dead_frac[0] > 0.3
    assert np.mean(dead_frac[5:]) < 0.15 and max(dead_frac[5:]) < 0.4


# Options


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        *((name, "prior_right", 0.0) for name in NAMES),
        *((name, "prior_wrong", float("nan")) for name in NAMES),
        *((name, "discount", 1.5) for name in NAMES),
        *((name, "target_pass_rate", -0.1) for name in NAMES),
        *((name, "discount", True) for name in NAMES),
        *((name, "prior_right", True) for name in NAMES),
        *((name, "target_pass_rate", "half") for name in NAMES),
        ("mopps_ppl", "near_groups", 2.5),
        ("mopps_ppl", "near_groups", 0),
        ("mopps_ppl", "forget", -0.5),
        ("mopps_ppl", "max_prior_rollouts", 0.0),
        ("mopps_ppl", "max_prior_rollouts", float("inf")),
    ],
)
def test_options_out_of_range_are_named(name: str, option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"{name}.*{option}={value!r}"):
        make(name, **{option: value})


# The outside check of the audit lines


def raise_rate_of_a_hard_one(line: dict[str, Any]) -> None:
    hard = next(skip["prompt_id"] for skip in line["skipped"] if skip["reason"] == "predicted_too_hard")
    rates = {candidate["prompt_id"]: candidate for candidate in line["candidates"]}
    rates[hard]["drawn_pass_rate"] = max(rates[prompt_id]["drawn_pass_rate"] for prompt_id in line["selected"])


def exchange_sides(line: dict[str, Any]) -> None:
    easy = next(skip for skip in line["skipped"] if skip["reason"] == "predicted_too_easy")
    easy["reason"] = "predicted_too_hard"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("edit", [raise_rate_of_a_hard_one, exchange_sides])
def test_the_outside_check_sees_what_cannot_be(
    name: str, edit: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    found = check_of_audit(tmp_path, all_options(selection=name), num_steps=10, edit=lambda lines, _: edit(lines[-1]))
    assert found.startswith("difference") and "pass rate" in found
