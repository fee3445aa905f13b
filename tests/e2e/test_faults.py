"""A stop, a killed rollout server, another run's checkpoint: nothing is lost, nothing is left behind."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from real_stack import SMALL, Run, check_resumed, launch

from benchmarks.faults_check import differences
from benchmarks.faults_run import Ending, Training
from recipe.prepo.errors import EXIT_FAULT, EXIT_STOPPED

pytestmark = pytest.mark.e2e


def check_continued(directory: Path, first: Ending, straight_run: Run) -> None:
    """The same command makes the choices of a run that never stopped, and neither attempt left anything behind."""
    with Training(directory, 4, "trainer.save_freq=-1") as again:
        finished = again.wait_for_end()
    assert finished.exit_status == 0, again.output[-3000:]
    check_resumed(directory)
    assert differences(straight_run.directory, directory, num_steps=4) == []
    for name in ("prepo/rollouts_total/max", "prepo/response_tokens_total/max"):
        assert Run(directory, "").steps[4][name] == straight_run.steps[4][name]
    for ending in (first, finished):
        assert not ending.leftovers and ending.num_killed == 0, str(ending.leftovers)


def test_sigterm_ends_the_step_with_a_checkpoint_and_the_run_continues(straight_run: Run, tmp_path: Path) -> None:
    with Training(tmp_path / "run", 4, "trainer.save_freq=-1") as training:
        training.wait_for_steps(1)
        training.driver.send_signal(signal.SIGTERM)
        ending = training.wait_for_end()
    assert ending.exit_status == EXIT_STOPPED, training.output[-3000:]
    (line,) = [line for line in training.output.splitlines() if line.startswith("stopped ")]
    step = int(line.split("after step ")[1].split()[0])
    assert (training.directory / f"global_step_{step}" / "prepo_state.json").exists() and "(SIGTERM)" in line
    check_continued(training.directory, ending, straight_run)


@pytest.mark.slow
def test_a_killed_rollout_server_ends_the_run_with_one_message_and_it_continues(
    straight_run: Run, tmp_path: Path
) -> None:
    with Training(tmp_path / "run", 4, "trainer.save_freq=1") as training:
        training.wait_for_whole_checkpoint()
        server = training.process("ray::vLLMHttpServer")
        os.kill(server, signal.SIGKILL)
        ending = training.wait_for_end()
    assert ending.exit_status == EXIT_FAULT, training.output[-3000:]
    assert ending.seconds < 90
    (error,) = [line for line in training.output.splitlines() if line.startswith("error: ")]
    assert f"the rollout server of vLLM replica 0 (pid {server} on " in error and "the same command" in error
    assert "Traceback" not in training.output
    check_continued(training.directory, ending, straight_run)


@pytest.mark.parametrize(
    ("override", "named", "starts_ray"),
    [
        ("prepo.seed=1", "run.seed=0, this run has 1", False),
        # Which prompts there are is known only once the workers have read and filtered the data.
        pytest.param("data.train_max_samples=2000", "run.data_sha256=", True, marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_left_unchanged(
    override: str, named: str, starts_ray: bool, straight_run: Run, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    shutil.copytree(straight_run.directory, directory)
    before = {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()}
    refused = launch(directory, [*SMALL, "trainer.total_training_steps=6", override], expect=2)
    (error,) = [line for line in refused.output.splitlines() if line.startswith("error: ")]
    assert named in error and "Traceback" not in refused.output
    assert ("starting Ray" in refused.output) == starts_ray
    assert {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()} == before
