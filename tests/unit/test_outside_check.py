"""``scripts/check_audit.py`` sees choices that a rule cannot have made. (It agrees with real ones: contract tests.)"""

import pytest
from audited_run import check_of_audit
from simulated_run import all_options


def relabel(at, old, new):
    def edit(lines):
        next(skip for skip in lines[at]["skipped"] if skip["reason"] == old)["reason"] = new

    return edit


def move_a_skipped_one_to_the_target(lines):
    hard = next(skip["prompt_id"] for skip in lines[-1]["skipped"] if skip["reason"] == "predicted_too_hard")
    next(each for each in lines[-1]["candidates"] if each["prompt_id"] == hard)["drawn_pass_rate"] = 0.5


def exchange_two(lines):
    line = lines[-1]
    lowest = min(line["candidates"], key=lambda candidate: candidate["predicted_live"])["prompt_id"]
    given_up, line["selected"][0] = line["selected"][0], lowest
    line["rollout_n"][lowest] = line["rollout_n"].pop(given_up)
    next(skip for skip in line["skipped"] if skip["prompt_id"] == lowest)["prompt_id"] = given_up


TOO_EASY_IS_HARD = relabel(-1, "predicted_too_easy", "predicted_too_hard")
COMES_BEFORE = ("comes before", "was drawn before", "recomputed")


@pytest.mark.parametrize(
    ("name", "edit", "messages"),
    [
        ("mopps", move_a_skipped_one_to_the_target, ("nearer to the target",)),
        ("mopps_ppl", TOO_EASY_IS_HARD, ("drawn pass rate",)),
        ("forecast", exchange_two, (*COMES_BEFORE, "chosen by forecast")),
        ("forecast", TOO_EASY_IS_HARD, ("is not",)),
        ("uniform_skip", relabel(0, "not_drawn", "all_right_before"), ("had none before",)),
        ("ppl_schedule_skip", relabel(-1, "below_window", "all_right_before"), ("not the window",)),
        ("ppl_schedule_skip", lambda lines: lines[-1].update(window_start=0), ("window_start",)),
        ("ppl_schedule", lambda lines: lines[0]["selected"].reverse(), ("not the window",)),
        ("ppl_schedule_skip", relabel(-1, "below_window", "above_window"), ("other prompts than",)),
    ],
)
def test_a_choice_that_cannot_be_is_a_difference(name, edit, messages, tmp_path):
    options = all_options(selection=name)
    options["selection"] |= {"p_easy": 0.5, "p_hard": 0.5} if name.endswith("_skip") else {}
    steps = 30 if name.endswith("_skip") else 10
    found = check_of_audit(tmp_path, options, num_steps=steps, edit=lambda choices, _: edit(choices))
    assert found.startswith("difference") and any(message in found for message in messages), found


@pytest.mark.parametrize("key", ["weight", "advantage_weighted"])
def test_a_weight_that_does_not_follow_from_the_entropies_is_a_difference(key, tmp_path):
    def edit(_, lines):
        lines[0][key] += 1e-4

    found = check_of_audit(tmp_path, all_options(weighting="relative_entropy"), num_steps=3, edit=edit)
    assert found.startswith("difference")
