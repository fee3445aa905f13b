"""Skipping before another choice: which candidates are left, what comes back, and what is chosen of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from audited_run import Lines, check_of_audit
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_run import all_options, rollout_batch, rule_options, run_facts

from recipe.prepo.errors import ConfigError
from recipe.prepo.metrics import selection_metrics
from recipe.prepo.rules.base import SelectionRule
from recipe.prepo.rules.registry import build_rule
from recipe.prepo.types import Candidates, Decision, Selection, StepOutcome

IDS = tuple(f"p{i:02}" for i in range(20))
RIGHT, WRONG, MIXED = [1.0] * 4, [0.0] * 4, [1.0, 0.0, 1.0, 0.0]
NAMES = ("ppl_schedule_skip", "uniform_skip")


def make(name: str, *, seed: int = 0, **options: Any) -> SelectionRule:
    """With GRESO's first probability of keeping a prompt."""
    options = {"p_easy": 0.5, "p_hard": 0.5, **options}
    rule = cast(SelectionRule, build_rule("selection", rule_options("selection", name, **options), seed=seed))
    rule.bind(run_facts(IDS))
    return rule


def candidates(ids: tuple[str, ...] = IDS) -> Candidates:
    """In order of ids, perplexity falling with the number."""
    return Candidates(ids, np.array([float(100 - int(name[1:])) / 50 for name in ids]), np.full(len(ids), 7))


def observe(rule: SelectionRule, times: int = 1, **kinds: list[float]) -> None:
    for step in range(1, times + 1):
        batch = rollout_batch(list(kinds.items()), step)
        rule.observe(StepOutcome(trained=batch, discarded=(), step=step))


def choose(
    rule: SelectionRule, num_selected: int, progress: float = 0.0
) -> tuple[list[str], dict[str, str], Selection]:
    found = rule.select(candidates(), num_selected=num_selected, progress=progress)
    return (
        [IDS[i] for i in found.indices_P],
        {IDS[i]: reason for i, reason in found.skip_reasons.items()},
        found,
    )


def test_window_is_laid_over_the_candidates_that_are_left() -> None:
    rule = make("ppl_schedule_skip", p_easy=0.0, p_hard=0.0, explore=1e-9)
    lowest, highest = IDS[:-6:-1], IDS[:5]
    observe(rule, **dict.fromkeys(lowest, RIGHT), **dict.fromkeys(highest, WRONG))
    left = IDS[14:4:-1]  # in ascending perplexity
    expected: dict[float, tuple[int, tuple[str, ...]]] = {
        0.0: (0, left[:4]),
        0.5: (3, left[3:7]),
        1.0: (6, left[6:]),
    }
    for progress, (start, window) in expected.items():
        chosen, reasons, found = choose(rule, 4, progress)
        assert (tuple(chosen), found.window_start) == (window, start)
        assert {reasons[name] for name in lowest} == {"all_right_before"}
        assert {reasons[name] for name in highest} == {"all_wrong_before"}
        assert {reasons[name] for name in left[:start]} == ({"below_window"} if start else set())
        assert {reasons[name] for name in left[start + 4 :]} == ({"above_window"} if start < 6 else set())


def test_schedule_ends_where_it_is_told_to() -> None:
    rule = make("ppl_schedule_skip", progress_end=0.5)
    assert choose(rule, 4, 1.0)[2].window_start == 8


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_skipped_before_any_outcome(name: str) -> None:
    plain = cast(SelectionRule, build_rule("selection", rule_options("selection", name.removesuffix("_skip")), seed=3))
    rule = make(name, seed=3)
    for progress in (0.0, 0.3, 1.0):
        expected = plain.select(candidates(), num_selected=5, progress=progress)
        found = rule.select(candidates(), num_selected=5, progress=progress)
        assert found.indices_P.tolist() == expected.indices_P.tolist()
        assert (found.skip_reasons, found.window_start) == (expected.skip_reasons, expected.window_start)


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_or_a_chance_brings_a_prompt_back(name: str) -> None:
    rule = make(name)
    observe(rule, times=3, **dict.fromkeys(IDS[:10], RIGHT))
    observe(rule, p00=MIXED)
    times = dict.fromkeys(IDS, 0)
    for _ in range(2_000):
        for skipped, reason in choose(rule, 1)[1].items():
            times[skipped] += reason.endswith("_before")
    assert times["p00"] == 0 and not any(times[name] for name in IDS[10:])
    for prompt_id in IDS[1:10]:
        # Skipped with probability 1 - 0.5^3; five standard deviations.
        assert times[prompt_id] / 2_000 == pytest.approx(0.875, abs=0.037)


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
    observe(rule, p00=RIGHT, p01=WRONG)
    observe(rule, times=20, p02=RIGHT, p03=WRONG)
    found = share_left_out(rule)
    for prompt_id, expected in {"p00": 0.2, "p01": 0.7, "p02": 0.8, "p03": 0.8}.items():
        assert found[prompt_id] == pytest.approx(expected, abs=0.036)  # five standard deviations


@pytest.mark.parametrize("name", NAMES)
def test_groups_that_were_thrown_away_count(name: str) -> None:
    rule = make(name)
    discarded = rollout_batch([("p04", RIGHT), ("p05", WRONG)], 1, entropies=False)
    rule.observe(StepOutcome(trained=rollout_batch([("p06", MIXED)], 1), discarded=(discarded,), step=1))
    found = share_left_out(rule)
    assert found["p04"] == pytest.approx(0.5, abs=0.04) and found["p05"] == pytest.approx(0.5, abs=0.04)
    assert sum(found.values()) == found["p04"] + found["p05"]


def step_metrics(*choices: tuple[Candidates, Selection]) -> dict[str, float]:
    """Of a step that made these choices."""
    return selection_metrics(
        [
            Decision(
                candidates=among,
                selection=found,
                rollout_n_P=np.ones(len(found.indices_P), dtype=np.int64),
                progress=0.0,
                temperature=1.0,
                step=1,
                call=call,
                rule="skip",
            )
            for call, (among, found) in enumerate(choices)
        ]
    )


@pytest.mark.parametrize("name", NAMES)
def test_share_left_out_is_of_the_steps_choices(name: str) -> None:
    rule = make(name, p_easy=0.0, p_hard=0.0, explore=1e-9)
    assert step_metrics((candidates(), choose(rule, 3)[2]))["prepo/left_out_frac/mean"] == 0.0
    observe(rule, **dict.fromkeys(IDS[:5], RIGHT))
    rest = candidates(IDS[10:])
    second = rule.select(rest, num_selected=2, progress=0.0)
    found = step_metrics((candidates(), choose(rule, 3)[2]), (rest, second))
    assert found["prepo/left_out_frac/mean"] == 5 / 30
    # Of 15 that are left: three come back.
    assert step_metrics((candidates(), choose(rule, 18)[2]))["prepo/left_out_frac/mean"] == 2 / 20
    plain = cast(SelectionRule, build_rule("selection", rule_options("selection", name.removesuffix("_skip")), seed=3))
    unfiltered = plain.select(candidates(), num_selected=3, progress=0.0)
    assert "prepo/left_out_frac/mean" not in step_metrics((candidates(), unfiltered)) | step_metrics()


@pytest.mark.parametrize("name", NAMES)
def test_the_least_dead_come_back_where_too_few_are_left(name: str) -> None:
    rule = make(name)
    observe(rule, times=30, **dict.fromkeys(IDS, WRONG))
    observe(rule, **dict.fromkeys(IDS[:5], MIXED))
    observe(rule, **dict.fromkeys(IDS[:5], RIGHT))
    back = dict.fromkeys(IDS, 0)
    for _ in range(400):
        chosen, reasons, _ = choose(rule, 8)
        assert len(chosen) == 8 and len(reasons) == 12
        for prompt_id in chosen:
            back[prompt_id] += 1
    # One group without a signal is less than thirty. Of the 15 others three a step, the draw says which: 80 expected.
    assert all(back[prompt_id] > 380 for prompt_id in IDS[:5])
    assert all(30 < back[prompt_id] < 140 for prompt_id in IDS[5:])
    assert len(choose(rule, 20)[0]) == 20 and not choose(rule, 20)[1]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_step_has_k_prompts_and_every_other_candidate_a_reason(name: str, data: st.DataObject) -> None:
    rule = make(name, seed=data.draw(st.integers(0, 9)))
    for step in range(1, data.draw(st.integers(1, 6))):
        kinds = data.draw(st.dictionaries(st.sampled_from(IDS), st.sampled_from([RIGHT, WRONG, MIXED]), min_size=1))
        rule.observe(StepOutcome(trained=rollout_batch(list(kinds.items()), step), discarded=(), step=step))
    # A small training set may be passed through within one batch: the same prompt twice.
    drawn = tuple(data.draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=30)))
    num_selected = data.draw(st.integers(1, len(drawn)))
    found = rule.select(candidates(drawn), num_selected=num_selected, progress=data.draw(st.floats(0.0, 1.0)))
    chosen = found.indices_P.tolist()
    assert len(set(chosen)) == len(chosen) == num_selected
    assert sorted([*chosen, *found.skip_reasons]) == list(range(len(drawn)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("option", "value"), [("p_easy", 1.5), ("p_hard", -0.1), ("explore", float("nan")), ("explore", 0.0)]
)
def test_probabilities_out_of_range_name_the_option(name: str, option: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{name}.*{option}"):
        make(name, **{option: value})


def test_the_end_of_the_schedule_is_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"ppl_schedule_skip.*progress_end=0"):
        make("ppl_schedule_skip", progress_end=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_foreign_state_is_refused(name: str) -> None:
    rule = make(name)
    for state in ({}, {**rule.state_dict(), "more": 1}):
        with pytest.raises((ValueError, KeyError)):
            rule.load_state_dict(state)


# The outside check of the audit lines


def audited(folder: Path, name: str, edit: Callable[[Lines], object] = lambda lines: None) -> str:
    """What the script says of the audit lines of thirty steps, after ``edit``."""
    options = all_options(selection=name)
    options["selection"] |= {"p_easy": 0.5, "p_hard": 0.5}

    def look_and_edit(lines: Lines) -> None:
        reasons = {skip["reason"] for line in lines for skip in line["skipped"]}
        assert {"all_right_before", "all_wrong_before"} < reasons
        edit(lines)

    return check_of_audit(folder, options, num_steps=30, edit=look_and_edit)


@pytest.mark.parametrize("name", NAMES)
def test_the_outside_check_agrees(name: str, tmp_path: Path) -> None:
    assert audited(tmp_path, name).startswith("ok: 30 choices")


def relabel(lines: Lines, at: int, old: str, new: str) -> None:
    skip = next(skip for skip in lines[at]["skipped"] if skip["reason"] == old)
    skip["reason"] = new


@pytest.mark.parametrize(
    ("name", "edit", "told"),
    [
        ("ppl_schedule_skip", lambda lines: relabel(lines, 0, "above_window", "all_wrong_before"), "had none before"),
        ("uniform_skip", lambda lines: relabel(lines, 0, "not_drawn", "all_right_before"), "had none before"),
        ("ppl_schedule_skip", lambda lines: relabel(lines, -1, "below_window", "above_window"), "are others"),
        ("ppl_schedule_skip", lambda lines: relabel(lines, -1, "below_window", "all_right_before"), "not the window"),
        ("ppl_schedule_skip", lambda lines: lines[-1].update(window_start=0), "window_start"),
    ],
)
def test_the_outside_check_sees_what_cannot_be(
    name: str, edit: Callable[[Lines], object], told: str, tmp_path: Path
) -> None:
    found = audited(tmp_path, name, edit)
    assert found.startswith("difference") and told in found
