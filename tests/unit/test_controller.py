"""The controller: the life of a step, its metrics and audit lines, and resumes that make the same choices."""

import copy
import functools
import json
import math
import operator
from dataclasses import replace

import numpy as np
import pytest
from simulated_run import SimulatedRun, all_options, batch_of, rules_in_pairs, run_facts

from recipe.prepo.controller import Controller, RunIdentity, data_fingerprint
from recipe.prepo.errors import NumericsError, StateError
from recipe.prepo.rules.registry import SELECTION
from recipe.prepo.run.audit import rollout_lines, selection_line
from recipe.prepo.run.checkpoint import load_state, save_state
from recipe.prepo.types import Candidates

IDS = [f"p{i}" for i in range(200)]
IDENTITY = RunIdentity(seed=5, num_selected=4, num_candidates=20, data_sha256="d" * 64)
POOLED = [{"selection": name} for name, rule in SELECTION.items() if rule.uses_candidates]


def make(identity=IDENTITY, **names):
    rules = all_options(**{"weighting": "relative_entropy", **names})
    facts = run_facts(IDS, rollouts_per_prompt=3, total_steps=5)
    return Controller(rules, identity=identity, run=facts, base_temperature=0.7)


def pool(step):
    rng = np.random.default_rng(step)
    return Candidates(tuple(f"p{5 * step + i}" for i in range(20)), rng.random(20), np.full(20, 9))


def batch(rewards, entropy=None):
    """Groups of three."""
    ids = [f"p{i // 3}" for i in range(len(rewards))]
    return batch_of(ids, rewards, group=np.arange(len(rewards)) // 3, entropy=entropy)


@pytest.mark.parametrize(
    ("names", "pooled"),
    [(names, False) for names in rules_in_pairs()] + [(names, True) for names in POOLED],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "pool" * value,
)
def test_ten_steps_after_a_resume_are_those_of_the_straight_run(names, pooled, tmp_path):
    """Choices, group sizes, temperatures, weights, shaped rewards and metrics."""
    straight, resumed = (SimulatedRun(all_options(**names), seed=3, pooled=pooled) for _ in range(2))
    for step in range(1, 8):
        straight.step(step)
    save_state(tmp_path, straight.controller.state_dict())
    resumed.controller.load_state_dict(load_state(tmp_path))
    resumed.position = straight.position  # verl keeps the place in the data
    assert [straight.step(step) for step in range(8, 18)] == [resumed.step(step) for step in range(8, 18)]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        *(({name: 6}, name) for name in ("seed", "num_selected", "num_candidates", "data_sha256")),
        ({"num_candidates": None}, "num_candidates"),
        ({"rescore_after": 2, "score_ratio": 5.0, "model": "another"}, "model"),
    ],
)
def test_state_of_another_run_is_refused_by_name(changed, named):
    with pytest.raises(StateError, match=rf"run\.{named}="):
        make(replace(IDENTITY, **changed)).load_state_dict(make().state_dict())


def test_state_of_another_rule_or_option_is_refused_by_name():
    with pytest.raises(StateError, match=r"written with prepo/selection=uniform, this run has prepo/selection=all:"):
        make(selection="all").load_state_dict(make().state_dict())
    saved = make(selection="ppl_schedule").state_dict()
    saved["options"]["selection"]["progress_end"] = 0.5
    with pytest.raises(StateError, match=r"progress_end=0\.5, this run has 1\.0"):
        make(selection="ppl_schedule").load_state_dict(saved)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["totals"], None),
        (["totals", "rollouts"], math.inf),
        (["rules"], {}),
        (["rules", "selection", "generator", "state", "state"], -1),
    ],
)
def test_damaged_state_is_a_state_error(path, value):
    saved = copy.deepcopy(make().state_dict())
    functools.reduce(operator.getitem, path[:-1], saved)[path[-1]] = value
    with pytest.raises(StateError, match="cannot be read"):
        make().load_state_dict(saved)


def test_metrics_of_a_step():
    controller, candidates = make(selection="ppl_schedule"), pool(1)
    assert controller.select(candidates, num_selected=4, step=3).call == 0
    rollouts = batch([1, 1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 1], [1.0] * 6 + [3.0] * 6)
    metrics = controller.finish_step(rollouts, controller.weigh(rollouts, step=3), step=3)
    ppl, window = candidates.ppl_C, np.sort(np.exp(candidates.nll_nats_C))[8:12]
    assert metrics == pytest.approx(
        {
            **{"prepo/progress/mean": 0.5, "prepo/candidates/sum": 20.0, "prepo/selected/sum": 4.0},
            **{"prepo/skipped_frac/mean": 0.8, "prepo/discarded_rollouts/sum": 0.0, "prepo/window_start/mean": 8.0},
            **{f"prepo/ppl_candidates/{name}": getattr(ppl, name)() for name in ("mean", "min", "max")},
            **{f"prepo/ppl_selected/{name}": getattr(window, name)() for name in ("mean", "min", "max")},
            **{"prepo/weight/mean": 1.0, "prepo/weight/min": 0.5, "prepo/weight/max": 1.5},
            **{"prepo/entropy_nats/mean": 2.0, "prepo/token_entropy_nats/mean": 2.0},
            **{"prepo/zero_advantage_frac/mean": 0.5, "prepo/all_correct_frac/mean": 0.25},
            **{"prepo/all_wrong_frac/mean": 0.25, "prepo/temperature/mean": 0.7, "prepo/rollouts/sum": 12.0},
            **{"prepo/rollouts_total/max": 12.0, "prepo/response_tokens_total/max": 120.0},
        }
    )


def test_discarded_groups_count_in_shares_rollouts_and_tokens():
    controller = make()
    calls = [controller.select(pool(1), num_selected=size, step=1).call for size in (4, 2, 1)]
    trained, discarded = batch([1.0, 0.0, 1.0], [1.0] * 3), batch([1.0] * 3 + [0.0] * 6)
    metrics = controller.finish_step(trained, np.ones(3), step=1, discarded=[discarded, discarded])
    assert metrics["prepo/zero_advantage_frac/mean"] == pytest.approx(6 / 7)
    assert metrics["prepo/all_correct_frac/mean"] == pytest.approx(2 / 7)
    assert metrics["prepo/all_wrong_frac/mean"] == pytest.approx(4 / 7)
    assert metrics["prepo/discarded_rollouts/sum"] == 18.0
    assert metrics["prepo/response_tokens_total/max"] == 210.0
    assert metrics["prepo/rollouts/sum"] == metrics["prepo/rollouts_total/max"] == 21.0
    assert metrics["prepo/selected/sum"] == 7.0
    assert [*calls, controller.select(pool(2), num_selected=4, step=2).call] == [0, 1, 2, 0]
    again = controller.finish_step(batch([1.0], [1.0]), np.ones(1), step=2)
    assert (again["prepo/rollouts/sum"], again["prepo/rollouts_total/max"]) == (12.0, 33.0)
    assert again["prepo/response_tokens_total/max"] == 220.0


def test_shaped_rewards_decide_the_zero_advantage_share_and_nothing_else():
    shaped_R = np.array([0.5, 0.6, 0.7, 0.0, 0.0, 0.0])
    metrics = make().finish_step(batch([1.0] * 3 + [0.0] * 3, 1.0), np.ones(6), step=1, shaped_R=shaped_R)
    assert metrics["prepo/zero_advantage_frac/mean"] == 0.5
    assert metrics["prepo/all_correct_frac/mean"] == metrics["prepo/all_wrong_frac/mean"] == 0.5


def test_step_whose_rollouts_all_failed_still_has_metrics():
    controller, nothing = make(), batch([], [])
    controller.select(pool(1), num_selected=4, step=1)
    metrics = controller.finish_step(nothing, controller.weigh(nothing, step=1), step=1)
    assert metrics["prepo/rollouts/sum"] == 12.0
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("nll", [math.nan, math.inf, 800.0])
def test_numbers_that_are_not_finite_stop_with_the_prompt(nll):
    candidates = Candidates(tuple(f"id{i}" for i in range(20)), np.where(np.arange(20) == 7, nll, 0.0), np.full(20, 9))
    with pytest.raises(NumericsError, match=r"step 3: .*'id7'.*1 of 20"):
        make(selection="ppl_schedule").select(candidates, num_selected=4, step=3)
    with pytest.raises(NumericsError, match=r"step 2: .*rollout entropy.*'p1'"):
        make().weigh(batch([0.0] * 6, [1.0] * 4 + [math.nan, 1.0]), step=2)


def test_candidates_follow_the_ratio_for_any_size():
    assert [make().num_candidates_for(n) for n in (1, 3, 4, 8)] == [5, 15, 20, 40]
    assert [make(selection="all").num_candidates_for(n) for n in (1, 4)] == [1, 4]
    odd = make(replace(IDENTITY, num_selected=3, num_candidates=4))
    assert [odd.num_candidates_for(n) for n in range(1, 7)] == [max(n, round(n * 4 / 3)) for n in range(1, 7)]


def test_selection_line_has_every_agreed_field():
    candidates = pool(1)
    decision = make(selection="ppl_schedule").select(candidates, num_selected=4, step=3)
    line = json.loads(json.dumps(selection_line(decision)))
    assert (line["step"], line["call"], line["rule"], line["temperature"]) == (3, 0, "ppl_schedule", 0.7)
    assert (line["progress"], line["num_selected"], line["window_start"]) == (0.5, 4, 8)
    for i, candidate in enumerate(line["candidates"]):
        assert (candidate["prompt_id"], candidate["num_tokens"]) == (candidates.prompt_ids[i], 9)
        assert candidate["nll_nats"] == candidates.nll_nats_C[i]
        assert candidate["ppl"] == pytest.approx(math.exp(candidates.nll_nats_C[i]), rel=1e-15)
    assert line["selected"] == [candidates.prompt_ids[i] for i in decision.selection.indices_P]
    assert {s["prompt_id"] for s in line["skipped"]} == set(candidates.prompt_ids) - set(line["selected"])
    assert line["rollout_n"] == dict.fromkeys(line["selected"], 3)
    line = selection_line(make().select(Candidates(("a", "b", "c", "d")), num_selected=4, step=1))
    assert line["window_start"] is None
    assert line["candidates"][0] == {"prompt_id": "a", "nll_nats": None, "num_tokens": None, "ppl": None}


def test_details_of_the_parts_of_a_stream_are_joined(monkeypatch):
    controller = make(selection="greso")
    stock = controller.selection.select

    def keep_the_first(candidates, **sizes):
        details = {"place": np.arange(float(len(candidates))), "drawn": len(candidates)}
        found = stock(candidates, **sizes)
        return replace(found, indices_P=found.indices_P[:1], details=details)

    monkeypatch.setattr(controller.selection, "select", keep_the_first)
    stream = iter(IDS)
    decision = controller.select_from_stream(lambda n: [next(stream) for _ in range(n)], num_selected=3, step=1)
    line = selection_line(decision)
    assert [candidate["place"] for candidate in line["candidates"]] == [0.0, 1.0, 2.0, 0.0, 1.0, 0.0]
    assert line["drawn"] == 1 and decision.selection.indices_P.tolist() == [0, 3, 5]


def test_rollout_lines_have_every_agreed_field_in_full_precision():
    third = 1 / 3
    values = {"weight": [2.0, 0.0], "advantage": [third, -third], "advantage_weighted": [2 * third, -0.0]}
    arrays = {f"{name}_R": np.array(both) for name, both in values.items()}
    lines = rollout_lines(
        batch([1.0, 0.0], [third, 0.0]), step=4, rollout_R=np.array([0, 1]), base_temperature=0.7, **arrays
    )
    expected = {"step": 4, "prompt_id": "p0", "rollout": 0, "reward": 1.0, "num_tokens": 10, "entropy_nats": third}
    expected |= {"temperature": 0.7} | {name: both[0] for name, both in values.items()}
    assert json.loads(json.dumps(lines))[0] == expected and len(lines) == 2


def test_fingerprint_sees_order_borders_and_alphabet():
    sets = [["a", "b"], ["b", "a"], ["ab"], ["a\nb"], ['a"\n"b'], ["é"], ["e"], []]
    assert len({data_fingerprint(ids) for ids in sets}) == len(sets)
