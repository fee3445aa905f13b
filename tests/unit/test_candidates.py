"""The pool and the kept scores: who is scored when, who is a candidate, and what a choice from a pool records."""

import json

import numpy as np
import pytest
from simulated_run import SimulatedRun, all_options

from recipe.prepo.candidates import IN_FLIGHT_STEPS, Pool, ScoreStore
from recipe.prepo.errors import NumericsError
from recipe.prepo.run.audit import selection_line
from recipe.prepo.types import Candidates


def scores(ids, nll_nats):
    return Candidates(ids, np.full(len(ids), nll_nats), np.full(len(ids), 9), {"nll_max_nats": np.full(len(ids), 3.0)})


def test_unscored_prompts_are_due_first_then_the_oldest_beyond_the_limit():
    store = ScoreStore(8, rescore_after=2)
    for step, rows in ((1, [3, 6]), (2, [1]), (4, [5])):
        store.update(np.array(rows), scores(tuple("x" * len(rows)), 1.0), step=step)
    rows = np.array([5, 1, 6, 0, 3, 0, 7])
    in_turn = [rows[store.due(rows, step=5, budget=budget)].tolist() for budget in (1, 3, 9)]
    assert in_turn == [[0], [0, 7, 6], [0, 7, 6, 3, 1]]  # 5 was scored a step ago; 0 stands twice
    view = store.view(rows, step=5)
    assert view["score_age_steps_C"].tolist() == [1, 3, 4, -1, 4, -1, -1]
    assert np.isnan(view["nll_nats_C"]).tolist() == [False, False, False, True, False, True, True]
    assert view["features_C"]["nll_max_nats"][:3].tolist() == [3.0] * 3
    assert store.metrics() == {"prepo/scored/sum": 4.0, "prepo/unscored_frac/mean": 0.5}
    assert store.metrics()["prepo/scored/sum"] == 0.0


def test_the_candidates_are_the_prompts_that_have_a_score_and_are_not_in_flight():
    run = SimulatedRun(all_options(selection="mopps_ppl"), pooled=True)  # 60 prompts, K = 4, 8 scored a choice
    metrics = [run.step(step)["metrics"] for step in range(1, 13)]
    assert [m["prepo/candidates/sum"] for m in metrics[:9]] == [8, 16, 24, 32, 40, 48, 56, 60, 60]
    assert [m["prepo/scored/sum"] for m in metrics[:8]] == [8] * 8  # at last 4 new ones, then the oldest
    assert metrics[7]["prepo/unscored_frac/mean"] == 0 < metrics[6]["prepo/unscored_frac/mean"]
    assert max(m["prepo/score_age_steps/max"] for m in metrics) <= 8
    first, second = (run.choose(20, 4) for _ in range(2))  # in one step
    chosen = {first.candidates.prompt_ids[i] for i in first.selection.indices_P}
    assert not chosen & set(second.candidates.prompt_ids) and len(second.candidates) == 56


def test_a_prompt_comes_back_with_its_rollouts_or_after_a_while():
    pool = Pool(tuple("abcde"), shuffle_seed=None)
    pool.note_chosen(np.array([1, 3]), step=1)
    assert pool.draw(3)[1] == ("a", "c", "e")
    assert pool.draw(4)[1] == tuple("abcde")  # rather than a step without prompts
    pool.note_returned(np.array([3]), step=2)
    assert pool.draw(3)[0].tolist() == [0, 2, 3, 4]
    pool.note_returned(np.array([], dtype=int), step=1 + IN_FLIGHT_STEPS)
    assert len(pool.draw(3)[0]) == 5
    shuffled = [Pool(tuple("abcdefgh"), shuffle_seed=seed).draw(1)[1] for seed in (0, 0, 1)]
    assert shuffled[0] == shuffled[1] != shuffled[2] and set(shuffled[0]) == set("abcdefgh")


def test_a_broken_score_stops_the_step():
    run = SimulatedRun(all_options(selection="ppl_schedule"), pooled=True)
    ids = tuple(run.prompt_ids)
    sizes = {"num_selected": 4, "step": 1, "score": lambda places: scores(tuple(ids[i] for i in places), np.nan)}
    with pytest.raises(NumericsError, match=r"step 1: .*perplexity of prompt 'é0'.*8 of 8"):
        run.controller.with_scores(ids, **sizes)


@pytest.mark.parametrize("name", ["mopps", "uniform_skip", "ppl_schedule_skip"])
def test_the_line_of_a_choice_from_a_pool_is_bounded(name):
    run = SimulatedRun(all_options(selection=name), pooled=True)
    for step in range(1, 21):
        run.step(step)
    decision = run.choose(21, 4)
    line = json.loads(json.dumps(selection_line(decision), allow_nan=False))
    assert len(line["candidates"]) == 20 and len(decision.candidates) == 60
    assert sum(line["num_skipped"].values()) == 56 and len(line["skipped"]) == 16
    assert set(line["selected"]) <= {candidate["prompt_id"] for candidate in line["candidates"]}
    assert all(candidate["score_age_steps"] >= 0 for candidate in line["candidates"])
