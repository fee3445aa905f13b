"""Forecast: beliefs about pass rates, what a group is worth, and the rule that ranks by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audited_run import check_of_audit
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_run import all_options, rollout_batch, rule_options, run_facts

from recipe.prepo.errors import ConfigError
from recipe.prepo.maths.pass_rate import after_rollouts, expected_worth
from recipe.prepo.rules.registry import build_rule
from recipe.prepo.types import Candidates, EarlierRollouts, StepOutcome
from recipe.prepo.warm_start import read_warm_start

LOGITS = np.linspace(-60.0, 60.0, 240_001)
IDS = tuple(f"p{i:03}" for i in range(120))


def exact(mean: float, variance: float, correct: int, size: int) -> tuple[float, float, float]:
    """Moments of the posterior, and the logarithm of the likelihood's mean, on a fine grid."""
    prior = np.exp(-((LOGITS - mean) ** 2) / (2.0 * variance))
    mass = prior * np.exp(correct * LOGITS - size * np.logaddexp(0.0, LOGITS))
    evidence = mass.sum() / prior.sum()
    mass /= mass.sum()
    after = float(mass @ LOGITS)
    return after, float(mass @ (LOGITS - after) ** 2), float(np.log(evidence))


BELIEFS = {"mean": st.floats(-6.0, 6.0), "variance": st.floats(0.05, 9.0)}


@settings(max_examples=60, deadline=None)
@given(**BELIEFS, size=st.integers(1, 16), data=st.data())
def test_a_group_moves_a_belief_to_the_moments_of_its_posterior(
    mean: float, variance: float, size: int, data: st.DataObject
) -> None:
    correct = data.draw(st.integers(0, size))
    found, expected = after_rollouts(mean, variance, correct, size), exact(mean, variance, correct, size)
    assert found == pytest.approx(expected, abs=1e-3, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(**BELIEFS, size=st.integers(2, 16))
def test_expected_worth_is_that_of_drawn_groups(mean: float, variance: float, size: int) -> None:
    mass = np.exp(-((LOGITS - mean) ** 2) / (2.0 * variance))
    rate = 1.0 / (1.0 + np.exp(-LOGITS))
    found = expected_worth(np.array([mean]), np.array([variance]), size)
    for values, value in zip((1.0 - rate**size - (1.0 - rate) ** size, rate * (1.0 - rate)), found, strict=True):
        assert value[0] == pytest.approx((mass @ values) / mass.sum(), abs=1e-3)


# The rule


def make(seed: int = 0, **options: Any) -> Any:
    rule: Any = build_rule("selection", rule_options("selection", "forecast", **options), seed=seed)
    rule.bind(run_facts(IDS))
    return rule


def scored(nll: np.ndarray[Any, Any], ids: tuple[str, ...] = IDS) -> Candidates:
    return Candidates(ids, nll, np.full(len(ids), 7))


def train(
    rule: Any, logit: np.ndarray[Any, Any], nll: np.ndarray[Any, Any], *, steps: int, seed: int = 0
) -> list[float]:
    """Share of live groups among those chosen in each step, where these are the logits of the pass rates."""
    generator = np.random.default_rng(seed)
    shares = []
    for step in range(1, steps + 1):
        chosen = rule.select(scored(nll), num_selected=6, progress=0.0).indices_P
        rewards = (generator.random((6, 8)) < 1.0 / (1.0 + np.exp(-logit[chosen, None]))).astype(float)
        groups = [(IDS[i], row.tolist()) for i, row in zip(chosen, rewards, strict=True)]
        rule.observe(StepOutcome(trained=rollout_batch(groups, step), discarded=(), step=step))
        shares.append(float(np.mean(rewards.min(1) != rewards.max(1))))
    return shares


LOGIT = np.linspace(12.0, -12.0, len(IDS))  # about a fifth of the groups are live
USELESS = np.random.default_rng(0).permutation(np.linspace(0.5, 2.0, len(IDS)))


@pytest.mark.parametrize("nll", [np.linspace(0.5, 2.0, len(IDS)), USELESS], ids=["scores that tell", "that do not"])
def test_it_finds_live_prompts(nll: np.ndarray[Any, Any]) -> None:
    assert np.mean(train(make(), LOGIT, nll, steps=40)[20:]) > 0.6


def test_prompts_that_are_likely_to_be_live_are_equally_good() -> None:
    """Top ranks alone would train on ever the same few prompts."""
    rule = make()
    nll = np.ones(len(IDS))
    train(rule, np.zeros(len(IDS)), nll, steps=40)
    assert (rule.state_dict()["seen_step_N"] >= 0).mean() > 0.75  # 240 draws of 120 at random: 0.86


@pytest.mark.parametrize(("spread", "low", "high"), [(0.0, 0.5, 1.0), (12.0, 8.0, 8.0)])
def test_the_spread_of_the_prompts_own_deviations_is_fitted(spread: float, low: float, high: float) -> None:
    rule = make()
    logit = np.random.default_rng(1).normal(0.0, 1.0, len(IDS)) * spread
    train(rule, logit, USELESS, steps=20)
    assert low <= rule._own_sd <= high


def test_a_prompt_that_was_never_rolled_out_is_judged_by_those_with_such_scores() -> None:
    rule = make(any_share=0.0)
    nll = np.repeat([0.5, 1.0, 2.0], 40)
    candidates = scored(nll)
    rule.select(candidates, num_selected=len(IDS), progress=0.0)
    rewards = {0.5: [1.0] * 8, 1.0: [1.0, 0.0] * 4, 2.0: [0.0] * 8}
    seen = [i for i in range(len(IDS)) if i % 2]
    groups = [(IDS[i], rewards[float(nll[i])]) for i in seen]
    rule.observe(StepOutcome(trained=rollout_batch(groups, 1), discarded=(), step=1))
    chosen = rule.select(candidates, num_selected=30, progress=0.0).indices_P
    unseen = [i for i in chosen if i not in seen]
    assert len(unseen) >= 10 and all(nll[i] == 1.0 for i in unseen)


def test_evidence_fades_with_time_and_not_with_a_prompts_own_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = make(memory_steps=10.0, model_sd=0.001, model_drift=0.0, ppl_slope=0.0)
    monkeypatch.setattr(type(rule), "_own_sd", 1.5)  # not fitted
    nll = np.linspace(0.5, 2.0, len(IDS))
    rule.select(scored(nll), num_selected=len(IDS), progress=0.0)
    rule.observe(StepOutcome(trained=rollout_batch([(IDS[0], [1.0] * 8)], 1), discarded=(), step=1))
    means, variances = [], []
    for step in range(2, 40):
        details = rule.select(scored(nll), num_selected=1, progress=0.0).details
        means.append(details["pass_logit"][0])
        variances.append(details["pass_logit_variance"][0])
        rule.observe(StepOutcome(trained=rollout_batch([], step), discarded=(), step=step))
    assert np.diff(means).max() < 0.0 and means[10] / means[0] == pytest.approx(np.exp(-1.0), rel=0.01)
    assert np.diff(variances).min() > 0.0 and variances[-1] == pytest.approx(1.5**2, rel=0.01)


def test_a_resumed_rule_makes_the_same_choices() -> None:
    nll = np.linspace(0.5, 2.0, len(IDS))
    rule, resumed = make(), make()
    train(rule, LOGIT, nll, steps=3)
    first = rule.select(scored(nll), num_selected=6, progress=0.0)  # in flight when the state is saved
    resumed.load_state_dict(rule.state_dict())
    outcome = StepOutcome(
        trained=rollout_batch([(IDS[i], [1.0, 0.0] * 4) for i in first.indices_P], 4), discarded=(), step=4
    )
    for each in (rule, resumed):
        each.observe(outcome)
    assert rule.metrics() == resumed.metrics() != {}
    assert train(rule, LOGIT, nll, steps=3) == train(resumed, LOGIT, nll, steps=3)
    assert all(np.array_equal(rule.state_dict()[key], resumed.state_dict()[key]) for key in ("weights", "own_mean_N"))


# The outside check of the audit lines


def lower_a_chosen_one(line: dict[str, Any]) -> None:
    next(c for c in line["candidates"] if c["prompt_id"] in line["selected"])["predicted_live"] -= 0.1


def exchange_two(line: dict[str, Any]) -> None:
    lowest = min(line["candidates"], key=lambda candidate: candidate["predicted_live"])["prompt_id"]
    given_up, line["selected"][0] = line["selected"][0], lowest
    line["rollout_n"][lowest] = line["rollout_n"].pop(given_up)
    next(skip for skip in line["skipped"] if skip["prompt_id"] == lowest)["prompt_id"] = given_up


def exchange_sides(line: dict[str, Any]) -> None:
    for skip in line["skipped"]:
        skip["reason"] = "predicted_too_hard" if skip["reason"] == "predicted_too_easy" else "predicted_too_easy"


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (lambda line: None, "ok"),
        (lower_a_chosen_one, "comes before|was drawn before|recomputed"),
        (exchange_two, "chosen by forecast|drawn before|comes before"),
        (exchange_sides, "is not"),
    ],
)
def test_the_outside_check(edit: Callable[[dict[str, Any]], object], found: str, tmp_path: Path) -> None:
    options = all_options(selection="forecast")
    line = check_of_audit(tmp_path, options, num_steps=8, edit=lambda choices, _: edit(choices[-1]))
    assert line.startswith("ok") if found == "ok" else any(part in line for part in found.split("|")), line


# Earlier rollouts

NLL = np.ones(len(IDS))


def earlier(rates: dict[str, float], *, size: int = 8, age: float = 0.0) -> EarlierRollouts:
    ids = [prompt_id for prompt_id in rates for _ in range(size)]
    correct = np.array([i < rate * size for rate in rates.values() for i in range(size)], dtype=float)
    return EarlierRollouts(tuple(ids), correct, np.full(len(ids), age))


def details(rule: Any, ids: tuple[str, ...] = IDS) -> dict[str, np.ndarray[Any, Any]]:
    return dict(rule.select(scored(NLL[: len(ids)], ids), num_selected=6, progress=0.0).details)


@pytest.mark.parametrize(("age", "low", "high"), [(0.0, 0.5, 1.0), (500.0, -0.1, 0.1)])
def test_earlier_rollouts_are_believed_by_their_age(age: float, low: float, high: float) -> None:
    rule = make(warm_start="somewhere")
    rule.start_from(earlier({"p000": 1.0, "p001": 0.0}, age=age))
    logits = details(rule)["pass_logit"]
    assert low <= logits[0] - logits[2] <= 20 * high
    assert low <= logits[2] - logits[1] <= 20 * high
    assert rule.metrics()["prepo/warm_prompts/sum"] == 2
    details(rule)
    assert rule.metrics()["prepo/warm_prompts/sum"] == 0, "each counts once"


def test_earlier_rollouts_wait_for_the_score_also_in_a_resumed_run() -> None:
    rule, resumed = make(warm_start="somewhere"), make(warm_start="gone")
    rule.start_from(earlier({"p000": 1.0, "p100": 0.5}))
    details(rule, IDS[:60])
    resumed.load_state_dict(rule.state_dict())
    first, second = details(rule), details(resumed)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert first["pass_logit_variance"][100] < first["pass_logit_variance"][101]
    assert "earlier_N2" not in make().state_dict(), "other checkpoints stay as they are"


def folder_of(tmp_path: Path, kind: str, model: str = "models/tiny") -> Path:
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


def test_earlier_rollouts_are_read_from_an_analysis_and_from_a_run(tmp_path: Path) -> None:
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
def test_a_warm_start_that_does_not_fit_is_refused(tmp_path: Path, change: Callable[[Path], Path], why: str) -> None:
    folder = change(folder_of(tmp_path, "analyze"))
    with pytest.raises(ConfigError, match=f"warm_start=.*{why}.*Set prepo.selection.warm_start=null"):
        read_warm_start(IDS, folder=folder, model="models/other")


def test_a_warm_start_of_other_data_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "analyze")
    with pytest.raises(ConfigError, match="none of its prompts"):
        read_warm_start(["q"], folder=folder, model="tiny")
