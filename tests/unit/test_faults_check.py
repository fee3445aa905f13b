"""The comparison of a hurt run with an undisturbed one sees every kind of loss."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults_check import differences


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    run = tmp_path / "reference"
    write(run / "metrics.jsonl", [{"step": step, "data": {"timing_s/step": 1.0}} for step in (1, 2, 3)])
    choice = {"call": 0, "progress": 0.5, "num_selected": 1, "window_start": 0, "selected": ["a"], "skipped": []}
    choice |= {"rollout_n": {"a": 2}, "temperature": 1.0, "candidates": [{"prompt_id": "a"}, {"prompt_id": "b"}]}
    write(run / "audit" / "selection.jsonl", [{"step": step} | choice for step in (1, 2, 3)])
    rollout = {"prompt_id": "a", "reward": 1.0, "num_tokens": 7, "temperature": 1.0}
    rollouts = [{"step": step, "rollout": i} | rollout for step in (1, 2, 3) for i in (0, 1)]
    write(run / "audit" / "rollouts.jsonl", rollouts)
    return run


def doubled(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*lines, lines[-1]]


def other_reward(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [lines[0] | {"reward": 0.0}, *lines[1:]]


def other_choice(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*lines[:1], lines[1] | {"selected": ["b"]}, *lines[2:]]


def turned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return lines[::-1]


@pytest.mark.parametrize(
    ("file", "edit", "problem"),
    [
        ("metrics.jsonl", doubled, "step 3 is 2 times in metrics.jsonl"),
        ("metrics.jsonl", lambda lines: lines[1:], "step 1 is 0 times in metrics.jsonl"),
        ("audit/selection.jsonl", other_choice, "the choices of step 2"),
        ("audit/rollouts.jsonl", other_reward, "the rollouts of step 1"),
        ("audit/rollouts.jsonl", doubled, "the rollouts of step 3"),
        ("audit/rollouts.jsonl", lambda lines: lines[:-2], "the rollouts of step 3"),
        ("audit/rollouts.jsonl", turned, ""),  # rollouts end in any order
    ],
)
def test_sees_what_is_lost_doubled_or_different(
    reference: Path,
    tmp_path: Path,
    file: str,
    edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
    problem: str,
) -> None:
    hurt = tmp_path / "hurt"
    shutil.copytree(reference, hurt)
    assert differences(reference, hurt, num_steps=3) == []
    lines = [json.loads(line) for line in (hurt / file).read_text().splitlines()]
    write(hurt / file, edit(lines))
    found = differences(reference, hurt, num_steps=3)
    assert len(found) == bool(problem)
    assert all(each.startswith(problem) for each in found)


def test_a_run_that_left_nothing_lost_everything(reference: Path, tmp_path: Path) -> None:
    assert len(differences(reference, tmp_path / "nothing", num_steps=3)) == 9
