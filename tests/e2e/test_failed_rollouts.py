"""A reward function that raises: failed rollouts are counted and reported; where most of a step fails, the run ends."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.faults import REWARD
from benchmarks.faults_check import read
from benchmarks.faults_run import Ending, Training
from recipe.prepo.errors import EXIT_FAULT

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
NUM_RAISED = 2
SAYS = "raised KeyError: 'answer' ("


@pytest.fixture(scope="module")
def raising_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Ending]:
    """Two answers raise in the first step, and after the second step every one."""
    folder = tmp_path_factory.mktemp("raising")
    for number in range(NUM_RAISED):
        (folder / f"error-{number}").touch()
    with Training(folder / "run", 8, *REWARD, environment={"PREPO_FAULTS_DIR": str(folder)}) as training:
        training.wait_for_steps(2)
        (folder / "errors").touch()
        ending = training.wait_for_end()
        return folder / "run", training.output, ending


def test_rollouts_that_failed_are_counted_and_left_out(raising_run: tuple[Path, str, Ending]) -> None:
    directory, output, _ = raising_run
    failed = {line["step"]: line["data"]["prepo/failed_rollouts/sum"] for line in read(directory / "metrics.jsonl")}
    assert failed[1] == NUM_RAISED and failed[2] == 0
    trained = Counter(line["step"] for line in read(directory / "audit" / "rollouts.jsonl"))
    assert (trained[1], trained[2]) == (8 * 4 - NUM_RAISED, 8 * 4)
    (first_step,) = [line for line in output.splitlines() if line.startswith("step 1/8")]
    assert f"32 rollouts so far, {NUM_RAISED} failed, " in first_step and first_step.endswith(" left")
    (note,) = [line for line in output.splitlines() if line.startswith("note: step 1: ")]
    assert f"{NUM_RAISED} training rollouts failed" in note and SAYS in note and "hung_reward.py" in note


def test_the_run_ends_with_one_message_when_most_of_a_step_failed(raising_run: tuple[Path, str, Ending]) -> None:
    directory, output, ending = raising_run
    assert ending.exit_status == EXIT_FAULT, output[-3000:]
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert SAYS in error and "hung_reward.py" in error
    last = int((directory / "latest_checkpointed_iteration.txt").read_text())
    assert error.endswith(f"The checkpoint of step {last} is complete: the same command resumes from it.")
    assert "Traceback" not in output
    assert not ending.leftovers and ending.num_killed == 0, str(ending.leftovers)
