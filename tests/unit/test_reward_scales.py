"""Rewards of any scale: one definition of a correct rollout for all rules, and what happens where it does not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import simulated_run
from simulated_run import SimulatedRun, all_options, make_controller

from recipe.prepo.errors import ConfigError, StateError
from recipe.prepo.maths.correctness import correctness
from recipe.prepo.rules.registry import REGISTRIES
from recipe.prepo.types import RolloutBatch

RULES = [(group, name) for group in ("selection", "budget", "shaping") for name in REGISTRIES[group]]
plain_batch = simulated_run.rollout_batch


class Scale(NamedTuple):
    """Rewards of a correct and an incorrect rollout; ``has_acc``: the reward function returns ``acc`` beside them."""

    correct: float
    incorrect: float
    correct_above: float | None = None
    has_acc: bool = False


SAME = [
    Scale(1.0, -1.0),
    Scale(0.95, 0.05),
    Scale(0.9, 0.0),
    Scale(1.1, 0.1),
    Scale(0.51, 0.49),
    Scale(10.0, 1.0, correct_above=5.0),
    Scale(0.5, 0.0, correct_above=0.1),
    Scale(0.2, 0.1, correct_above=0.1),
    Scale(0.0, -1.0, correct_above=-0.5),
    Scale(0.3, 0.2, has_acc=True),
    Scale(100.0, 70.0, has_acc=True),
    Scale(1.0, 0.9, correct_above=2.0, has_acc=True),
]
UNPLACED = [Scale(10.0, 1.0), Scale(100.0, 0.0), Scale(0.5, 0.0), Scale(0.0, -1.0), Scale(1.0, 0.6)]


def scaled(batch: RolloutBatch, scale: Scale) -> RolloutBatch:
    is_correct_R = batch.reward_R == 1.0
    reward_R = (
        np.where(is_correct_R, scale.correct, scale.incorrect).astype(np.float32).astype(np.float64)
    )  # as in verl
    acc_R = is_correct_R.astype(np.float64) if scale.has_acc else np.full(len(batch), np.nan)
    return replace(batch, reward_R=reward_R, acc_R=acc_R, correct_R=None)


def run(scale: Scale, monkeypatch: pytest.MonkeyPatch, **rules: str) -> SimulatedRun:
    """A run whose rewards are of this scale, with ``prepo.correct_above`` as the scale says."""
    made = SimulatedRun(all_options(**rules), seed=3)
    identity = replace(made.controller.identity, correct_above=scale.correct_above)
    made.controller = make_controller(all_options(**rules), made.prompt_ids, identity=identity)
    monkeypatch.setattr(simulated_run, "rollout_batch", lambda *args, **kw: scaled(plain_batch(*args, **kw), scale))
    return made


def without_rewards(step: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in step.items() if name != "shaped"}


@pytest.mark.parametrize(("group", "name"), RULES)
def test_every_rule_does_the_same_with_rewards_of_any_scale(
    group: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(Scale(1.0, 0.0), monkeypatch, **{group: name})
    steps = [without_rewards(expected.step(step)) for step in range(1, 9)]
    for scale in SAME:
        if name == "length_bias" and scale.correct == 0.0:
            continue  # it multiplies the rewards of correct rollouts
        other = run(scale, monkeypatch, **{group: name})
        assert [without_rewards(other.step(step)) for step in range(1, 9)] == steps, scale
        assert not other.controller.remark


@pytest.mark.parametrize("scale", UNPLACED, ids=str)
def test_a_scale_that_does_not_fit_stops_rules_that_learn_from_it_and_is_told_of_once_otherwise(
    scale: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rules in ({"selection": "mopps"}, {"selection": "uniform_skip"}, {"budget": "difficulty"}):
        learning = run(scale, monkeypatch, **rules)
        with pytest.raises(ConfigError, match=r"prepo\.correct_above to a number between"):
            for step in range(1, 40):
                learning.step(step)
    other = run(scale, monkeypatch, selection="uniform")
    told = [(other.step(step), other.controller.remark)[1] for step in range(1, 40)]
    (remark,) = filter(None, told)
    assert "prepo.correct_above to a number between" in remark and f"{scale.correct:g}" in remark


@pytest.mark.parametrize("scale", [Scale(0.0, 0.0), Scale(1.0, 1.0), Scale(0.05, 0.0)], ids=str)
def test_rewards_that_tell_nothing_apart_for_long_are_told_of_once(
    scale: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as 0.05 for the format, while no answer is right: no reason to stop."""
    made = run(scale, monkeypatch, selection="mopps")
    told = [(made.step(step), made.controller.remark)[1] for step in range(1, 9)]
    assert [bool(text) for text in told] == [step == 5 for step in range(1, 9)]
    assert ("every rollout" if scale.correct == 1.0 else "no rollout") in told[4]


def test_what_was_seen_of_the_rewards_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that began with rewards of both kinds does not stop after a resume."""
    before = run(Scale(1.0, 0.0), monkeypatch, selection="mopps")
    for step in range(1, 4):
        before.step(step)
    state = before.controller.state_dict()
    for kept, stops in ((state, False), ({k: v for k, v in state.items() if k != "reward_scale"}, True)):
        resumed = run(Scale(0.5, 0.0), monkeypatch, selection="mopps")
        resumed.controller.load_state_dict(kept)
        resumed.position = before.position
        try:
            for step in range(4, 40):
                resumed.step(step)
            stopped = False
        except ConfigError:
            stopped = True
        assert stopped is stops
    with pytest.raises(StateError, match=r"run\.correct_above=None, this run has 0\.3"):
        run(Scale(1.0, 0.0, correct_above=0.3), monkeypatch, selection="mopps").controller.load_state_dict(state)


@pytest.mark.parametrize("rule", [("selection", "mopps"), ("selection", "mopps_ppl"), ("budget", "difficulty")])
def test_with_a_reward_range_rules_learn_the_mean_reward(rule: tuple[str, str]) -> None:
    made = SimulatedRun(all_options(**dict([rule])))
    identity = replace(made.controller.identity, reward_range=[0.0, 10.0])
    controller = make_controller(all_options(**dict([rule])), made.prompt_ids, identity=identity)
    made.controller = controller
    decision = made.choose(1, 4)
    ids = [decision.candidates.prompt_ids[i] for i in decision.selection.indices_P]
    trained = plain_batch([(prompt_id, [0.0, 5.0, 10.0, 12.0]) for prompt_id in ids], 1)
    controller.finish_step(trained, np.ones(16), step=1)
    assert "outside" in controller.remark  # 12
    if rule[0] == "selection":
        saved = controller.state_dict()["rules"]["selection"]
        sums = saved["correct_N"]
    else:
        sums = controller.state_dict()["rules"]["budget"]["difficulty"]["num_correct_N"]
    assert sorted(sums)[-5:] == [0.0, 2.5, 2.5, 2.5, 2.5]


def test_acc_decides_row_by_row() -> None:
    """Dictionaries may be ragged: some rows with ``acc``, some without."""
    reward_R, acc_R = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.0, 1.0, np.nan, np.nan])
    assert correctness(reward_R, acc_R).tolist() == [0.0, 1.0, 1.0, 0.0]
