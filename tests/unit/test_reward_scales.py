"""Rewards of any scale: one definition of a correct rollout for all rules, and what happens where it does not fit."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import simulated_run
from simulated_run import SimulatedRun, all_options

from recipe.prepo.errors import ConfigError, StateError
from recipe.prepo.maths.correctness import correctness
from recipe.prepo.rules.registry import REGISTRIES

LEARNING = [(group, name) for group, rules in REGISTRIES.items() for name in rules if rules[name].reads_correctness]
plain_batch = simulated_run.rollout_batch


class Scale(NamedTuple):
    """Rewards of a correct and an incorrect rollout; ``has_acc``: the reward function returns ``acc`` beside them."""

    correct: float
    incorrect: float
    correct_above: float | None = None
    has_acc: bool = False


SAME = [
    Scale(0.95, 0.05),
    Scale(0.51, 0.49),
    Scale(10.0, 1.0, correct_above=5.0),
    Scale(0.2, 0.1, correct_above=0.1),
    Scale(0.3, -0.2, has_acc=True),
    Scale(100.0, 70.0, has_acc=True),
    Scale(1.0, 0.9, correct_above=2.0, has_acc=True),
]


def run(scale, monkeypatch, **rules):
    """A run whose rewards are of this scale, with ``prepo.correct_above`` as the scale says."""

    def scaled(*args, **kw):
        batch = plain_batch(*args, **kw)
        is_correct_R = batch.reward_R == 1.0
        reward_R = np.where(is_correct_R, scale.correct, scale.incorrect).astype(np.float32)  # as in verl
        acc_R = is_correct_R.astype(np.float64) if scale.has_acc else np.full(len(batch), np.nan)
        return replace(batch, reward_R=reward_R.astype(np.float64), acc_R=acc_R, correct_R=None)

    monkeypatch.setattr(simulated_run, "rollout_batch", scaled)
    return SimulatedRun(all_options(**rules), seed=3, correct_above=scale.correct_above)


def eight_steps(scale, monkeypatch, **rules):
    made = run(scale, monkeypatch, **rules)
    return [made.step(step) | {"shaped": None, "told": made.controller.remark} for step in range(1, 9)]


@pytest.mark.parametrize(("group", "name"), LEARNING)
def test_rules_do_the_same_with_rewards_of_any_scale(group, name, monkeypatch):
    expected = eight_steps(Scale(1.0, 0.0), monkeypatch, **{group: name})
    assert not any(step["told"] for step in expected)
    for scale in SAME:
        assert eight_steps(scale, monkeypatch, **{group: name}) == expected, scale


@pytest.mark.parametrize("scale", [Scale(100.0, 0.0), Scale(0.5, 0.0), Scale(0.0, -1.0), Scale(1.0, 0.6)], ids=str)
def test_a_scale_that_does_not_fit_stops_rules_that_learn_from_it_and_is_told_of_once_otherwise(scale, monkeypatch):
    for rules in ({"selection": "mopps"}, {"selection": "uniform_skip"}, {"budget": "difficulty"}):
        learning = run(scale, monkeypatch, **rules)
        with pytest.raises(ConfigError, match=r"prepo\.correct_above to a number between"):
            for step in range(1, 40):
                learning.step(step)
    other = run(scale, monkeypatch, selection="uniform")
    told = [(other.step(step), other.controller.remark)[1] for step in range(1, 40)]
    (remark,) = filter(None, told)
    assert "prepo.correct_above to a number between" in remark and f"{scale.correct:g}" in remark


@pytest.mark.parametrize("scale", [Scale(1.0, 1.0), Scale(0.05, 0.0)], ids=str)
def test_rewards_that_tell_nothing_apart_for_long_are_told_of_once(scale, monkeypatch):
    """Such as 0.05 for the format, while no answer is right: no reason to stop."""
    told = [step["told"] for step in eight_steps(scale, monkeypatch, selection="mopps")]
    assert [bool(text) for text in told] == [step == 5 for step in range(1, 9)]
    assert ("every rollout" if scale.correct == 1.0 else "no rollout") in told[4]


def test_what_was_seen_of_the_rewards_is_saved(monkeypatch):
    """A run that began with rewards of both kinds does not stop after a resume."""
    before = run(Scale(1.0, 0.0), monkeypatch, selection="mopps")
    for step in range(1, 4):
        before.step(step)
    state = before.controller.state_dict()
    resumed = run(Scale(0.5, 0.0), monkeypatch, selection="mopps")  # which stops otherwise, as above
    resumed.controller.load_state_dict(state)
    resumed.position = before.position
    for step in range(4, 40):
        resumed.step(step)
    with pytest.raises(StateError, match=r"run\.correct_above=None, this run has 0\.3"):
        run(Scale(1.0, 0.0, correct_above=0.3), monkeypatch, selection="mopps").controller.load_state_dict(state)


@pytest.mark.parametrize("rule", [("selection", "mopps"), ("selection", "mopps_ppl"), ("budget", "difficulty")])
def test_with_a_reward_range_rules_learn_the_mean_reward(rule):
    made = SimulatedRun(all_options(**dict([rule])), reward_range=[0.0, 10.0])
    decision = made.choose(1, 4)
    ids = [decision.candidates.prompt_ids[i] for i in decision.selection.indices_P]
    trained = plain_batch([(prompt_id, [0.0, 5.0, 10.0, 12.0]) for prompt_id in ids], 1)
    made.controller.finish_step(trained, np.ones(16), step=1)
    assert "outside" in made.controller.remark  # 12
    saved = made.controller.state_dict()["rules"][rule[0]]
    sums = saved["correct_N"] if rule[0] == "selection" else saved["difficulty"]["num_correct_N"]
    assert sorted(sums)[-5:] == [0.0, 2.5, 2.5, 2.5, 2.5]


def test_acc_decides_row_by_row():
    """Dictionaries may be ragged: some rows with ``acc``, some without."""
    reward_R, acc_R = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.0, 1.0, np.nan, np.nan])
    assert correctness(reward_R, acc_R).tolist() == [0.0, 1.0, 1.0, 0.0]
