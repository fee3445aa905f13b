"""A reward function that raises: failed rollouts are counted and reported; where most of a step fails, the run ends."""

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.faults import REWARD
from benchmarks.faults_check import read
from benchmarks.faults_run import Training
from recipe.prepo.errors import EXIT_FAULT

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
NUM_RAISED = 2
SAYS = "raised KeyError: 'answer' ("


def test_failed_rollouts_are_counted_and_left_out_until_most_of_a_step_failed(tmp_path: Path) -> None:
    """Two answers raise in the first step, and after the second step every one."""
    for number in range(NUM_RAISED):
        (tmp_path / f"error-{number}").touch()
    directory = tmp_path / "run"
    with Training(directory, 8, *REWARD, environment={"PREPO_FAULTS_DIR": str(tmp_path)}) as training:
        training.wait_for_steps(2)
        (tmp_path / "errors").touch()
        ending = training.wait_for_end()
    lines = training.output.splitlines()
    failed = {line["step"]: line["data"]["prepo/failed_rollouts/sum"] for line in read(directory / "metrics.jsonl")}
    assert failed[1] == NUM_RAISED and failed[2] == 0
    trained = Counter(line["step"] for line in read(directory / "audit" / "rollouts.jsonl"))
    assert (trained[1], trained[2]) == (8 * 4 - NUM_RAISED, 8 * 4)
    (first_step,) = [line for line in lines if line.startswith("step 1/8")]
    assert f"32 rollouts so far, {NUM_RAISED} failed, " in first_step and first_step.endswith(" left")
    (note,) = [line for line in lines if line.startswith("note: step 1: ")]
    assert f"{NUM_RAISED} training rollouts failed" in note and SAYS in note and "hung_reward.py" in note

    assert ending.exit_status == EXIT_FAULT, training.output[-3000:]
    (error,) = [line for line in lines if line.startswith("error: ")]
    assert SAYS in error and "hung_reward.py" in error and "Traceback" not in training.output
    last = int((directory / "latest_checkpointed_iteration.txt").read_text())
    assert error.endswith(f"The checkpoint of step {last} is complete: the same command resumes from it.")
    assert not ending.leftovers and ending.num_killed == 0, str(ending.leftovers)
