"""A killed rollout server and a SIGTERM, one after the other in one run: nothing is lost, nothing is left behind."""

from __future__ import annotations

import pytest
from real_stack import Hurt, Run, check_resumed

from benchmarks.faults_check import differences
from recipe.prepo.errors import EXIT_FAULT, EXIT_STOPPED

pytestmark = pytest.mark.e2e


def test_a_killed_rollout_server_ends_the_run_with_one_message_that_names_it(hurt_run: Hurt) -> None:
    assert hurt_run.killed.exit_status == EXIT_FAULT, hurt_run.killed_output[-3000:]
    assert hurt_run.killed.seconds < 90
    errors = [line for line in hurt_run.killed_output.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"the rollout server of vLLM replica 0 (pid {hurt_run.server} on " in errors[0]
    assert "the same command resumes from it" in errors[0]
    assert "Traceback" not in hurt_run.killed_output


def test_sigterm_ends_the_step_with_a_checkpoint_and_status_75(hurt_run: Hurt) -> None:
    assert hurt_run.stopped.exit_status == EXIT_STOPPED, hurt_run.stopped_output[-3000:]
    (line,) = [line for line in hurt_run.stopped_output.splitlines() if line.startswith("stopped ")]
    step = int(line.split("after step ")[1].split()[0])
    assert (hurt_run.directory / f"global_step_{step}" / "prepo_state.json").exists()
    assert "(SIGTERM)" in line


def test_the_resumed_run_is_the_one_that_was_never_hurt(hurt_run: Hurt, straight_run: Run) -> None:
    assert hurt_run.finished.exit_status == 0
    check_resumed(hurt_run.directory)
    assert differences(straight_run.directory, hurt_run.directory, num_steps=4) == []


def test_no_process_segment_or_socket_is_left_by_any_of_them(hurt_run: Hurt) -> None:
    for ending in (hurt_run.killed, hurt_run.stopped, hurt_run.finished):
        assert not ending.leftovers, str(ending.leftovers)
        assert ending.num_killed == 0
