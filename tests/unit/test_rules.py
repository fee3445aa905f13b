"""PREPO's rules and the plain ones by hand-computed examples. The contract tests hold for every rule."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_run import make_rule, rule_options

from recipe.prepo.controller import training_progress
from recipe.prepo.errors import ConfigError
from recipe.prepo.rules.base import SelectionRule
from recipe.prepo.rules.registry import build_rule
from recipe.prepo.rules.selection.ppl_schedule import ascending_order, window_start
from recipe.prepo.rules.weighting.relative_entropy import relative_entropy_weights
from recipe.prepo.types import Candidates

IDS = ("e", "a", "d", "b", "c")
PPL = (1.5, 4.0, 2.0, 1.5, 3.0)  # ascending: b (tie), e, d, c, a


def candidates(ids: tuple[str, ...] = IDS, ppl: tuple[float, ...] = PPL) -> Candidates:
    return Candidates(ids, np.log(np.array(ppl)), np.full(len(ids), 7))


def selection(name: str, **options: Any) -> SelectionRule:
    return make_rule("selection", name, IDS, **options)


def chosen_ids(rule: SelectionRule, *, num_selected: int, progress: float) -> list[str]:
    found = rule.select(candidates(), num_selected=num_selected, progress=progress)
    return [IDS[i] for i in found.indices_P]


@pytest.mark.parametrize("total", [2, 3, 11, 50, 51, 99, 101, 148, 197, 1000])
@pytest.mark.parametrize("slack", [0, 1, 4, 49, 98, 100, 128, 512])
def test_window_start_is_the_floor_of_the_audited_progress(total: int, slack: int) -> None:
    """l = floor(rho (|B| - K)), with the rho of the audit line: an outside script can recompute it exactly."""
    for step in range(1, total + 1):
        rho = training_progress(step, total)
        start = window_start(rho, slack + 8, 8)
        assert start == math.floor(rho * slack)
        assert start - math.floor(Fraction(step - 1, total - 1) * slack) in (0, -1)
    assert window_start(0.0, slack + 8, 8) == 0
    assert window_start(1.0, slack + 8, 8) == slack


@pytest.mark.parametrize("progress", [-0.1, 1.0000001, math.nan])
def test_progress_out_of_range_is_a_bug(progress: float) -> None:
    with pytest.raises(AssertionError):
        window_start(progress, 10, 2)


def test_ties_go_by_code_point_whatever_the_order_of_the_data() -> None:
    ids = ["\u00e9", "z", "Z", "\uff5a", "\U0001d537", "e\u0301", "a10", "a9", "", "a"]
    expected = ["", "Z", "a", "a10", "a9", "e\u0301", "z", "\u00e9", "\uff5a", "\U0001d537"]
    assert [ids[i] for i in ascending_order(np.ones(len(ids)), ids)] == expected
    assert [ids[::-1][i] for i in ascending_order(np.ones(len(ids)), ids[::-1])] == expected


def test_one_last_bit_decides_before_the_id_and_the_order_of_the_data_after_it() -> None:
    assert ascending_order(np.array([np.nextafter(1.0, 2.0), 1.0]), ["a", "b"]) == [1, 0]
    assert ascending_order(np.array([2.0, 1.0, 1.0, 1.0]), ["a", "b", "b", "a"]) == [3, 1, 2, 0]


def test_schedule_starts_and_ends_at_its_options() -> None:
    rule = selection("ppl_schedule", progress_start=0.25, progress_end=0.5)
    found = [chosen_ids(rule, num_selected=1, progress=progress) for progress in (0.0, 0.99, 1.0)]
    assert found == [["e"], ["e"], ["d"]]


@pytest.mark.parametrize("name", ["ppl_schedule", "low_ppl", "high_ppl"])
def test_two_hundred_random_batches_have_the_window_of_the_definition(name: str) -> None:
    rng = np.random.default_rng(7)
    for _ in range(200):
        size = int(rng.integers(1, 700))
        num_selected = int(rng.integers(1, size + 1))
        progress, end = float(rng.random()), float(rng.choice([1.0, 0.25, 0.5, 0.75, 1.0 - rng.random()]))
        batch = Candidates(tuple(map(str, rng.permutation(size))), rng.integers(0, 50, size) / 7, np.ones(size))
        rule = selection(name, **({"progress_end": end} if name == "ppl_schedule" else {}))
        slack = size - num_selected
        start = {"low_ppl": 0, "high_ppl": slack}.get(name, math.floor((progress * end) * slack))
        order = np.lexsort((np.array(batch.prompt_ids), batch.ppl_C))
        found = rule.select(batch, num_selected=num_selected, progress=progress)
        assert found.indices_P.tolist() == order[start : start + num_selected].tolist()
        assert found.details == {"window_start": start}
        for reason, beside in (("below_window", order[:start]), ("above_window", order[start + num_selected :])):
            assert sorted(i for i, found_for in found.skip_reasons.items() if found_for == reason) == sorted(beside)


def test_uniform_draws_every_candidate_equally_often() -> None:
    rule = selection("uniform")
    counts = np.zeros(5)
    for _ in range(2000):
        counts[rule.select(candidates(), num_selected=2, progress=0.0).indices_P] += 1
    # 800 of each are expected, with a standard deviation of 22.
    assert (abs(counts - 800) < 110).all()


def test_relative_entropy_weights() -> None:
    assert relative_entropy_weights(np.array([1.0, 2.0, 3.0, 0.0])).tolist() == pytest.approx([2 / 3, 4 / 3, 2.0, 0.0])
    assert relative_entropy_weights(np.zeros(4)).tolist() == [1.0] * 4
    assert relative_entropy_weights(np.zeros(0)).shape == (0,)
    assert relative_entropy_weights(np.array([5e-324, 0.0])).tolist() in ([1.0, 1.0], [2.0, 0.0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-300, 20.0), min_size=1, max_size=20), st.floats(0.125, 8.0))
def test_weights_have_no_scale(entropy: list[float], scale: float) -> None:
    weights = relative_entropy_weights(np.array(entropy))
    assert relative_entropy_weights(np.array(entropy) * scale) == pytest.approx(weights)


@pytest.mark.parametrize("name", ["ppl_shedule", None, ["uniform"]])
def test_unknown_rule_lists_the_known_ones_and_the_override(name: Any) -> None:
    known = rf"{re.escape(repr(name))}.*known: .*ppl_schedule.*uniform.*prepo/selection=<name>"
    with pytest.raises(ConfigError, match=known):
        build_rule("selection", {"name": name}, seed=0)


def test_missing_and_unknown_options_are_both_named() -> None:
    with pytest.raises(ConfigError, match=r"missing or unknown options \['progres_end', 'progress_end'\]"):
        build_rule("selection", {"name": "ppl_schedule", "progress_start": 0.0, "progres_end": 1.0}, seed=0)


REFUSED: dict[tuple[str, str], list[dict[str, Any]]] = {
    ("selection", "ppl_schedule"): [
        *({"progress_end": value} for value in (-1.0, 1.5, math.nan, math.inf, None, "half", True)),
        *({"progress_start": -0.1}, {"progress_start": 0.5, "progress_end": 0.4}),
    ],
    ("selection", "ppl_schedule_skip"): [{"progress_end": 1.5}, {"p_easy": 1.5}, {"explore": 0.0}],
    ("selection", "uniform_skip"): [{"p_hard": -0.1}, {"explore": math.nan}],
    ("selection", "greso"): [
        *({"p_easy": 0.96}, {"p_hard": 0.04}, {"p_step": -0.01}, {"p_min": 0.6}, {"p_min": 0.9, "p_max": 0.1}),
        *({"explore": 0.0}, {"explore": 1.5}, {"target_hard": "much"}, {"first_round_ratio": 0.9}),
        *({"first_round_ratio": math.inf}, {"safety": math.nan}, {"min_round": 0}, {"max_rounds": 1.0}),
        *({"allow_short": "no"}, {"allow_short": None}),
    ],
    ("budget", "difficulty"): [
        *({"lowest": 0}, {"lowest": 13}, {"lowest": True}, {"highest": 8.0}, {"widen_step": 0}),
        *({"allocation": "cut"}, {"ties": "none"}, {"epoch_steps": 0}, {"epoch_steps": "3"}),
    ],
    ("temperature", "entropy_target"): [
        *({"target_nats": value} for value in (0.0, math.inf, "low")),
        *({"init_steps": 0}, {"annealing_share": 1.1}, {"annealing_factor": 0.0}, {"annealing_factor": 1.1}),
        *({"min_temperature": 0.0}, {"max_temperature": math.inf}, {"min_temperature": 1.2, "max_temperature": 0.8}),
    ],
    ("shaping", "length_bias"): [
        *({"mu": value} for value in (0.0, 1.0, math.nan, None)),
        *({"easiest_share": 0.0}, {"easiest_share": 1.1}, {"ties": "mean"}, {"epoch_steps": -1}),
    ],
}


@pytest.mark.parametrize(
    ("group", "name", "options"), [(*rule, options) for rule, tried in REFUSED.items() for options in tried]
)
def test_options_out_of_range_are_named(group: str, name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"prepo\.{group}.*{name}.*({'|'.join(options)})"):
        build_rule(group, rule_options(group, name, **options), seed=0)
