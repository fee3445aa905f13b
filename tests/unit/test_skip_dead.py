"""Skipping before another choice: which candidates are left, which come back, and which are chosen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audited_run import Lines, check_of_audit
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_run import all_options, make_rule, step_outcome

from recipe.prepo.rules.base import SelectionRule
from recipe.prepo.rules.selection.skip_dead import LEFT_OUT
from recipe.prepo.types import Candidates, Selection

IDS = tuple(f"p{i:02}" for i in range(20))
CORRECT, INCORRECT, MIXED = [1.0] * 4, [0.0] * 4, [1.0, 0.0, 1.0, 0.0]
NAMES = ("ppl_schedule_skip", "uniform_skip")


def make(name: str, **options: Any) -> SelectionRule:
    """The rule, with the probabilities that GRESO starts from."""
    return make_rule("selection", name, IDS, **{"p_easy": 0.5, "p_hard": 0.5, **options})


def candidates(ids: tuple[str, ...] = IDS) -> Candidates:
    """In order of ids; perplexity falls with the number."""
    return Candidates(ids, np.array([float(100 - int(name[1:])) / 50 for name in ids]), np.full(len(ids), 7))


def observe(rule: SelectionRule, times: int = 1, **kinds: list[float]) -> None:
    for step in range(1, times + 1):
        rule.observe(step_outcome(list(kinds.items()), step=step))


def choose(
    rule: SelectionRule, num_selected: int, progress: float = 0.0
) -> tuple[list[str], dict[str, str], Selection]:
    found = rule.select(candidates(), num_selected=num_selected, progress=progress)
    reasons = {IDS[i]: reason for i, reason in found.skip_reasons.items()}
    return [IDS[i] for i in found.indices_P], reasons, found


def test_window_is_laid_over_the_candidates_that_are_left() -> None:
    rule = make("ppl_schedule_skip", p_easy=0.0, p_hard=0.0, explore=1e-9)
    lowest, highest = IDS[:-6:-1], IDS[:5]
    observe(rule, **dict.fromkeys(lowest, CORRECT), **dict.fromkeys(highest, INCORRECT))
    left = IDS[14:4:-1]  # in ascending perplexity
    for progress, start in ((0.0, 0), (0.5, 3), (1.0, 6)):
        chosen, reasons, found = choose(rule, 4, progress)
        assert (tuple(chosen), found.details["window_start"]) == (left[start : start + 4], start)
        assert {reasons[name] for name in lowest} == {"all_right_before"}
        assert {reasons[name] for name in highest} == {"all_wrong_before"}
        assert {reasons[name] for name in left[:start]} == ({"below_window"} if start else set())
        assert {reasons[name] for name in left[start + 4 :]} == ({"above_window"} if start < 6 else set())


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_skipped_before_any_outcome(name: str) -> None:
    plain = make_rule("selection", name.removesuffix("_skip"), IDS, seed=3)
    rule = make(name, seed=3)
    for progress in (0.0, 0.3, 1.0):
        expected = plain.select(candidates(), num_selected=5, progress=progress)
        found = rule.select(candidates(), num_selected=5, progress=progress)
        assert found.indices_P.tolist() == expected.indices_P.tolist()
        assert (found.skip_reasons, found.details) == (expected.skip_reasons, expected.details)


def share_left_out(rule: SelectionRule, num_draws: int = 4_000) -> dict[str, float]:
    """How often each prompt was left out, of draws that choose one of all."""
    times = dict.fromkeys(IDS, 0)
    for _ in range(num_draws):
        for prompt_id, reason in choose(rule, 1)[1].items():
            times[prompt_id] += reason.endswith("_before")
    return {prompt_id: number / num_draws for prompt_id, number in times.items()}


@pytest.mark.parametrize("name", NAMES)
def test_each_kind_has_its_own_probability_and_a_floor(name: str) -> None:
    rule = make(name, p_easy=0.8, p_hard=0.3, explore=0.2)
    observe(rule, p00=CORRECT, p01=INCORRECT)
    observe(rule, times=20, p02=CORRECT, p03=INCORRECT)
    found = share_left_out(rule)
    for prompt_id, expected in {"p00": 0.2, "p01": 0.7, "p02": 0.8, "p03": 0.8}.items():
        assert found[prompt_id] == pytest.approx(expected, abs=0.036)  # five standard deviations


@pytest.mark.parametrize("name", NAMES)
def test_share_left_out_is_of_the_steps_choices(name: str) -> None:
    rule = make(name, p_easy=0.0, p_hard=0.0, explore=1e-9)
    assert LEFT_OUT not in rule.metrics()
    choose(rule, 3)
    assert rule.metrics()[LEFT_OUT] == 0.0
    observe(rule, **dict.fromkeys(IDS[:5], CORRECT))
    choose(rule, 3)
    rule.select(candidates(IDS[10:]), num_selected=2, progress=0.0)
    assert rule.metrics()[LEFT_OUT] == 5 / 30
    choose(rule, 18)  # 15 are left: three come back
    assert rule.metrics()[LEFT_OUT] == 2 / 20


@pytest.mark.parametrize("name", NAMES)
def test_the_least_dead_come_back_where_too_few_are_left(name: str) -> None:
    rule = make(name)
    observe(rule, times=30, **dict.fromkeys(IDS, INCORRECT))
    observe(rule, **dict.fromkeys(IDS[:5], MIXED))
    observe(rule, **dict.fromkeys(IDS[:5], CORRECT))
    back = dict.fromkeys(IDS, 0)
    for _ in range(400):
        chosen, reasons, _ = choose(rule, 8)
        assert len(chosen) == 8 and len(reasons) == 12
        for prompt_id in chosen:
            back[prompt_id] += 1
    # One group without a signal is less than thirty. Of the 15 others the draw brings back three a step: 80 expected.
    assert all(back[prompt_id] > 380 for prompt_id in IDS[:5])
    assert all(30 < back[prompt_id] < 140 for prompt_id in IDS[5:])
    assert len(choose(rule, 20)[0]) == 20 and not choose(rule, 20)[1]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_step_has_k_prompts_and_every_other_candidate_a_reason(name: str, data: st.DataObject) -> None:
    rule = make(name, seed=data.draw(st.integers(0, 9)))
    for step in range(1, data.draw(st.integers(1, 6))):
        kinds = data.draw(
            st.dictionaries(st.sampled_from(IDS), st.sampled_from([CORRECT, INCORRECT, MIXED]), min_size=1)
        )
        rule.observe(step_outcome(list(kinds.items()), step=step))
    # A small training set may be passed through within one batch: the same prompt twice.
    drawn = tuple(data.draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=30)))
    num_selected = data.draw(st.integers(1, len(drawn)))
    found = rule.select(candidates(drawn), num_selected=num_selected, progress=data.draw(st.floats(0.0, 1.0)))
    chosen = found.indices_P.tolist()
    assert len(set(chosen)) == len(chosen) == num_selected
    assert sorted([*chosen, *found.skip_reasons]) == list(range(len(drawn)))


def audited(folder: Path, name: str, edit: Callable[[Lines], object]) -> str:
    """What the script says of the audit lines of thirty steps, after ``edit``."""
    options = all_options(selection=name)
    options["selection"] |= {"p_easy": 0.5, "p_hard": 0.5}

    def look_and_edit(choices: Lines, _: Lines) -> None:
        reasons = {skip["reason"] for line in choices for skip in line["skipped"]}
        assert {"all_right_before", "all_wrong_before"} < reasons
        edit(choices)

    return check_of_audit(folder, options, num_steps=30, edit=look_and_edit)


def relabel(lines: Lines, at: int, old: str, new: str) -> None:
    skip = next(skip for skip in lines[at]["skipped"] if skip["reason"] == old)
    skip["reason"] = new


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("ppl_schedule_skip", lambda lines: relabel(lines, 0, "above_window", "all_wrong_before"), "had none before"),
        ("uniform_skip", lambda lines: relabel(lines, 0, "not_drawn", "all_right_before"), "had none before"),
        ("ppl_schedule_skip", lambda lines: relabel(lines, -1, "below_window", "above_window"), "other prompts than"),
        ("ppl_schedule_skip", lambda lines: relabel(lines, -1, "below_window", "all_right_before"), "not the window"),
        ("ppl_schedule_skip", lambda lines: lines[-1].update(window_start=0), "window_start"),
    ],
)
def test_the_outside_check_sees_what_cannot_be(
    name: str, edit: Callable[[Lines], object], message: str, tmp_path: Path
) -> None:
    found = audited(tmp_path, name, edit)
    assert found.startswith("difference") and message in found
