"""PREPO's rules and the plain ones by hand-computed examples. The contract tests hold for every rule."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from simulated_run import make_rule, rule_options

from recipe.prepo.controller import training_progress
from recipe.prepo.errors import ConfigError
from recipe.prepo.rules.registry import build_rule
from recipe.prepo.rules.selection.ppl_schedule import ascending_order, window_start
from recipe.prepo.rules.weighting.relative_entropy import relative_entropy_weights
from recipe.prepo.types import Candidates


@pytest.mark.parametrize("total", [2, 3, 51, 148, 1000])
@pytest.mark.parametrize("slack", [0, 1, 49, 100, 512])
def test_window_start_is_the_floor_of_the_audited_progress(total, slack):
    """l = floor(rho (|B| - K)), with the rho of the audit line: an outside script can recompute it exactly."""
    for step in range(1, total + 1):
        rho = training_progress(step, total)
        start = window_start(rho, slack + 8, 8)
        assert start == math.floor(rho * slack)
        assert start - math.floor(Fraction(step - 1, total - 1) * slack) in (0, -1)
    assert (window_start(0.0, slack + 8, 8), window_start(1.0, slack + 8, 8)) == (0, slack)


@pytest.mark.parametrize("progress", [-0.1, 1.0000001, math.nan])
def test_progress_out_of_range_is_a_bug(progress):
    with pytest.raises(AssertionError):
        window_start(progress, 10, 2)


def test_ties_go_by_code_point_and_then_by_the_order_of_the_data():
    ids = ["\u00e9", "z", "Z", "\uff5a", "\U0001d537", "e\u0301", "a10", "a9", "", "a"]
    expected = ["", "Z", "a", "a10", "a9", "e\u0301", "z", "\u00e9", "\uff5a", "\U0001d537"]
    assert [ids[i] for i in ascending_order(np.ones(len(ids)), ids)] == expected
    assert ascending_order(np.array([np.nextafter(1.0, 2.0), 1.0]), ["a", "b"]) == [1, 0]  # the last bit decides
    assert ascending_order(np.array([2.0, 1.0, 1.0, 1.0]), ["a", "b", "b", "a"]) == [3, 1, 2, 0]


@pytest.mark.parametrize("name", ["ppl_schedule", "low_ppl", "high_ppl"])
def test_random_batches_have_the_window_of_the_definition(name):
    rng = np.random.default_rng(7)
    for _ in range(80):
        size = int(rng.integers(1, 700))
        num_selected = int(rng.integers(1, size + 1))
        progress, first = float(rng.random()), float(rng.choice([0.0, 0.25]))
        end = float(rng.choice([1.0, 0.25, 0.5, 0.75, 1.0 - 0.75 * rng.random()]))
        batch = Candidates(tuple(map(str, rng.permutation(size))), rng.integers(0, 50, size) / 7, np.ones(size))
        ends = {"progress_start": first, "progress_end": end} if name == "ppl_schedule" else {}
        slack = size - num_selected
        start = {"low_ppl": 0, "high_ppl": slack}.get(name, math.floor((first + progress * (end - first)) * slack))
        order = np.lexsort((np.array(batch.prompt_ids), batch.ppl_C))
        found = make_rule("selection", name, "a", **ends).select(batch, num_selected=num_selected, progress=progress)
        assert found.indices_P.tolist() == order[start : start + num_selected].tolist()
        assert found.details == {"window_start": start}
        reasons = dict.fromkeys(order[:start].tolist(), "below_window")
        assert found.skip_reasons == reasons | dict.fromkeys(order[start + num_selected :].tolist(), "above_window")


def test_uniform_draws_every_candidate_equally_often():
    rule, counts = make_rule("selection", "uniform", "abcde"), np.zeros(5)
    for _ in range(2000):
        counts[rule.select(Candidates(tuple("abcde")), num_selected=2, progress=0.0).indices_P] += 1
    # 800 of each are expected, with a standard deviation of 22.
    assert (abs(counts - 800) < 110).all()


def test_relative_entropy_weights():
    assert relative_entropy_weights(np.array([1.0, 2.0, 3.0, 0.0])).tolist() == pytest.approx([2 / 3, 4 / 3, 2.0, 0.0])
    assert relative_entropy_weights(np.zeros(4)).tolist() == [1.0] * 4
    assert relative_entropy_weights(np.zeros(0)).shape == (0,)
    assert relative_entropy_weights(np.array([5e-324, 0.0])).tolist() in ([1.0, 1.0], [2.0, 0.0])


@pytest.mark.parametrize("name", ["ppl_shedule", None, ["uniform"]])
def test_unknown_rule_lists_the_known_ones_and_the_override(name):
    known = rf"{re.escape(repr(name))}.*known: .*ppl_schedule.*uniform.*prepo/selection=<name>"
    with pytest.raises(ConfigError, match=known):
        build_rule("selection", {"name": name}, seed=0)


def test_missing_and_unknown_options_are_both_named():
    with pytest.raises(ConfigError, match=r"missing or unknown options \['progres_end', 'progress_end'\]"):
        build_rule("selection", {"name": "ppl_schedule", "progress_start": 0.0, "progres_end": 1.0}, seed=0)


# Each kind of declaration, and what options forbid each other.
REFUSED = {
    ("selection", "ppl_schedule"): [
        *({"progress_end": value} for value in (-1.0, 1.5, math.nan, None, "half", True)),
        {"progress_start": 0.5, "progress_end": 0.4},
    ],
    ("selection", "greso"): [
        *({"p_easy": 0.96}, {"p_hard": 0.04}, {"p_min": 0.6}, {"p_min": 0.9, "p_max": 0.1}, {"explore": 0.0}),
        *({"safety": math.inf}, {"min_round": 0}, {"max_rounds": 1.0}, {"allow_short": "no"}, {"allow_short": None}),
    ],
    ("selection", "uniform_skip"): [{"p_hard": -0.1}, {"explore": 0.0}],
    ("selection", "mopps_ppl"): [{"near_groups": 2.5}, {"forget": -0.5}, {"prior_right": 0.0}],
    ("budget", "difficulty"): [{"lowest": 13}, {"highest": 8.0}, {"allocation": "cut"}, {"epoch_steps": 0}],
    ("temperature", "entropy_target"): [{"target_nats": 0.0}, {"min_temperature": 1.2, "max_temperature": 0.8}],
    ("shaping", "length_bias"): [{"mu": 1.0}, {"ties": "mean"}],
}


@pytest.mark.parametrize(
    ("group", "name", "options"), [(*rule, options) for rule, tried in REFUSED.items() for options in tried]
)
def test_options_out_of_range_are_named(group, name, options):
    with pytest.raises(ConfigError, match=rf"prepo\.{group}.*{name}.*({'|'.join(options)})"):
        build_rule(group, rule_options(group, name, **options), seed=0)
