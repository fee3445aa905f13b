"""The comparison of a hurt run with an undisturbed one sees every kind of loss."""

import json

import pytest

from benchmarks.faults_check import differences

CHOICE = {"call": 0, "progress": 0.5, "num_selected": 1, "window_start": 0, "selected": ["a"], "skipped": []}
CHOICE |= {"rollout_n": {"a": 2}, "temperature": 1.0, "candidates": [{"prompt_id": "a"}, {"prompt_id": "b"}]}
ROLLOUT = {"prompt_id": "a", "reward": 1.0, "num_tokens": 7, "temperature": 1.0}
RUN = {
    "metrics.jsonl": [{"step": step, "data": {"timing_s/step": 1.0}} for step in (1, 2, 3)],
    "audit/selection.jsonl": [{"step": step} | CHOICE for step in (1, 2, 3)],
    "audit/rollouts.jsonl": [{"step": step, "rollout": i} | ROLLOUT for step in (1, 2, 3) for i in (0, 1)],
}


def doubled(lines):
    return [*lines, lines[-1]]


@pytest.mark.parametrize(
    ("file", "edit", "problem"),
    [
        ("metrics.jsonl", doubled, "step 3 is 2 times in metrics.jsonl"),
        ("metrics.jsonl", lambda lines: lines[1:], "step 1 is 0 times in metrics.jsonl"),
        ("audit/selection.jsonl", lambda ls: [ls[0], ls[1] | {"selected": ["b"]}, ls[2]], "the choices of step 2"),
        ("audit/rollouts.jsonl", lambda ls: [ls[0] | {"reward": 0.0}, *ls[1:]], "the rollouts of step 1"),
        ("audit/rollouts.jsonl", doubled, "the rollouts of step 3"),
        ("audit/rollouts.jsonl", lambda lines: lines[::-1], ""),  # rollouts end in any order
    ],
)
def test_sees_what_is_lost_doubled_or_different(tmp_path, file, edit, problem):
    for name, run in (("reference", RUN), ("hurt", {**RUN, file: edit(RUN[file])})):
        (tmp_path / name / "audit").mkdir(parents=True)
        for path, lines in run.items():
            (tmp_path / name / path).write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = differences(tmp_path / "reference", tmp_path / "hurt", num_steps=3)
    assert len(found) == bool(problem) and all(each.startswith(problem) for each in found)
    assert len(differences(tmp_path / "reference", tmp_path / "nothing", num_steps=3)) == 9
