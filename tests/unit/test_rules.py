"""The rules by hand-computed examples; what holds for every rule stands in the contract tests."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest

from recipe.prepo.errors import ConfigError
from recipe.prepo.rules.base import SelectionRule, WeightingRule
from recipe.prepo.rules.registry import build_rule
from recipe.prepo.types import Candidates, RolloutBatch

IDS = ("e", "a", "d", "b", "c")
PPL = (1.5, 4.0, 2.0, 1.5, 3.0)  # ascending: b (tie), e, d, c, a


def candidates(ids: tuple[str, ...] = IDS, ppl: tuple[float, ...] = PPL) -> Candidates:
    return Candidates(ids, np.log(np.array(ppl)), np.full(len(ids), 7))


def selection(name: str, **options: Any) -> SelectionRule:
    return cast(SelectionRule, build_rule("selection", {"name": name, **options}, seed=0))


def chosen_ids(rule: SelectionRule, *, num_selected: int, progress: float) -> list[str]:
    found = rule.select(candidates(), num_selected=num_selected, progress=progress)
    return [IDS[i] for i in found.indices_P]


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        (0.0, ["b", "e"]),
        (0.33, ["b", "e"]),
        (0.34, ["e", "d"]),
        (0.67, ["d", "c"]),
        (0.99, ["d", "c"]),
        (1.0, ["c", "a"]),
    ],
)
def test_schedule_slides_from_low_to_high(progress: float, expected: list[str]) -> None:
    assert chosen_ids(selection("ppl_schedule", progress_end=1.0), num_selected=2, progress=progress) == expected


def test_schedule_ends_where_it_is_told_to() -> None:
    rule = selection("ppl_schedule", progress_end=0.5)
    assert chosen_ids(rule, num_selected=1, progress=1.0) == ["d"]
    assert chosen_ids(rule, num_selected=1, progress=0.0) == ["b"]


@pytest.mark.parametrize("name", ["ppl_schedule", "low_ppl", "high_ppl", "uniform", "all"])
@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_all_prompts_are_chosen_when_k_is_the_batch(name: str, progress: float) -> None:
    rule = selection(name, **({"progress_end": 1.0} if name == "ppl_schedule" else {}))
    found = rule.select(candidates(), num_selected=5, progress=progress)
    assert sorted(found.indices_P) == [0, 1, 2, 3, 4]
    assert found.skip_reasons == {}


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_ablations_hold_the_schedule_at_its_ends(progress: float) -> None:
    assert chosen_ids(selection("low_ppl"), num_selected=2, progress=progress) == ["b", "e"]
    assert chosen_ids(selection("high_ppl"), num_selected=2, progress=progress) == ["c", "a"]


def test_skip_reasons_name_every_other_candidate_and_the_side_of_the_window() -> None:
    found = selection("ppl_schedule", progress_end=1.0).select(candidates(), num_selected=2, progress=0.5)
    assert found.window_start == 1
    assert {IDS[i]: reason for i, reason in found.skip_reasons.items()} == {
        "b": "below_window",
        "c": "above_window",
        "a": "above_window",
    }


def test_choice_does_not_depend_on_the_order_of_the_data() -> None:
    order = [3, 1, 4, 0, 2]
    shuffled = candidates(tuple(IDS[i] for i in order), tuple(PPL[i] for i in order))
    rule = selection("ppl_schedule", progress_end=1.0)
    for progress in (0.0, 0.5, 1.0):
        found = rule.select(shuffled, num_selected=2, progress=progress)
        ids = [shuffled.prompt_ids[i] for i in found.indices_P]
        assert ids == chosen_ids(rule, num_selected=2, progress=progress)


def test_uniform_draws_every_candidate_equally_often() -> None:
    rule = selection("uniform")
    counts = np.zeros(5)
    for _ in range(2000):
        counts[rule.select(candidates(), num_selected=2, progress=0.0).indices_P] += 1
    # 800 expected of each, standard deviation 22: five of them is no accident.
    assert (abs(counts - 800) < 110).all()


def test_uniform_draws_depend_on_the_seed_and_change_from_call_to_call() -> None:
    many = Candidates(tuple(map(str, range(50))))

    def draws(seed: int) -> list[list[int]]:
        rule = cast(SelectionRule, build_rule("selection", {"name": "uniform"}, seed=seed))
        return [rule.select(many, num_selected=5, progress=0.0).indices_P.tolist() for _ in range(3)]

    assert draws(0) == draws(0) != draws(1)
    assert draws(0)[0] != draws(0)[1]


def test_all_keeps_the_order_of_the_data_and_draws_no_more_than_it_trains_on() -> None:
    rule = selection("all")
    assert not rule.uses_candidates
    assert rule.select(candidates(), num_selected=5, progress=0.3).indices_P.tolist() == [0, 1, 2, 3, 4]


def rollouts(entropy: list[float] | None) -> RolloutBatch:
    size = 3 if entropy is None else len(entropy)
    return RolloutBatch(
        prompt_ids=["p"] * size,
        group_R=np.zeros(size, dtype=np.int64),
        reward_R=np.zeros(size),
        num_tokens_R=np.ones(size, dtype=np.int64),
        entropy_nats_R=None if entropy is None else np.array(entropy),
    )


def test_relative_entropy_weights_and_none() -> None:
    relative = cast(WeightingRule, build_rule("weighting", {"name": "relative_entropy"}, seed=0))
    none = cast(WeightingRule, build_rule("weighting", {"name": "none"}, seed=0))
    assert relative.weigh(rollouts([1.0, 2.0, 3.0, 0.0])).tolist() == pytest.approx([2 / 3, 4 / 3, 2.0, 0.0])
    assert none.weigh(rollouts(None)).tolist() == [1.0, 1.0, 1.0]
    assert none.is_identity
    assert not relative.is_identity


def test_unknown_rule_lists_the_known_ones_and_the_override() -> None:
    with pytest.raises(ConfigError, match=r"'ppl_shedule'.*known: .*ppl_schedule.*uniform.*prepo/selection=<name>"):
        build_rule("selection", {"name": "ppl_shedule"}, seed=0)


@pytest.mark.parametrize("name", [None, 3, ["uniform"]])
def test_rule_name_that_is_no_text_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="known: "):
        build_rule("selection", {"name": name}, seed=0)


def test_missing_and_unknown_options_are_both_named() -> None:
    with pytest.raises(ConfigError, match=r"missing options \['progress_end'\], unknown options \['progres_end'\]"):
        build_rule("selection", {"name": "ppl_schedule", "progres_end": 1.0}, seed=0)


@pytest.mark.parametrize("value", [0.0, -1.0, 1.5, math.nan, math.inf, None, "half"])
def test_option_out_of_range_is_a_configuration_error(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"prepo\.selection.*ppl_schedule"):
        build_rule("selection", {"name": "ppl_schedule", "progress_end": value}, seed=0)
