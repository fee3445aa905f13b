"""``ray job submit`` on a cluster that runs already: the job trains, is stopped with a checkpoint, and goes on."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_stack import ROOT, SMALL, check_resumed, trained_steps
from slurm_cluster import free_ports
from waiting import wait_until

from benchmarks.footprint import Footprint, command_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NUM_STEPS = 6
LIMIT_S = 600.0
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
OF_A_RUN = ("VLLM::", "ray::WorkerDict", "ray::vLLMHttpServer", "ray::PrepoAgentLoopWorker", "ray::TaskRunner")


class RunningCluster:
    """A Ray head with its job server on loopback, as docs/cluster.md starts one."""

    def __init__(self, folder: Path, footprint: Footprint) -> None:
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_JOB_STOP_WAIT_TIME_S": "600"}
        own["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # or Ray takes the machine's outer address all the same
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "VERL_"))}
        self._footprint = footprint
        # What runs these tests is the active environment, also for the script that the job server starts.
        self._environment = inherited | own | footprint.environment | {"VIRTUAL_ENV": sys.prefix}
        port, self._dashboard_port, agent_port, client_port = free_ports(4)
        command = [*RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
        command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={self._dashboard_port}", "--disable-usage-stats"]
        command += [f"--dashboard-agent-listen-port={agent_port}", f"--ray-client-server-port={client_port}"]
        command += [f"--temp-dir={folder}", "--num-cpus=64", "--num-gpus=1"]
        self._head = subprocess.Popen(command, env=self._environment, stdout=subprocess.DEVNULL)

    def job(self, *arguments: str) -> str:
        """What ``ray job …`` prints."""
        command = [*RAY, "job", arguments[0], "--address", f"http://127.0.0.1:{self._dashboard_port}", *arguments[1:]]
        done = subprocess.run(command, env=self._environment, text=True, capture_output=True, timeout=120, check=False)
        return done.stdout + done.stderr

    def processes_of_runs(self) -> list[str]:
        found = [command_of(pid) for pid in self._footprint.processes()]
        return [command for command in found if command.startswith(OF_A_RUN)]

    def wait_for_end_of_runs(self) -> None:
        left = self.processes_of_runs
        wait_until(lambda: not left(), "the run's processes end", limit_s=LIMIT_S, show=lambda: str(left()))

    def stop(self) -> None:
        self._head.terminate()
        self._head.wait(60)


@pytest.fixture
def cluster() -> Iterator[RunningCluster]:
    folder = Path(tempfile.mkdtemp(prefix="prepo-"))  # pytest's own folder is too long for Ray's sockets
    with Footprint() as footprint:
        running = RunningCluster(folder, footprint)
        try:
            yield running
        finally:
            running.stop()
            footprint.kill()
            footprint.wait_for_end(30)
    footprint.clean()
    shutil.rmtree(folder)


def test_a_submitted_job_trains_and_one_that_is_stopped_goes_on(cluster: RunningCluster, tmp_path: Path) -> None:
    directory = tmp_path / "run"

    def submit(job_id: str) -> None:
        """Without waiting for it, and as often as the job server is not up yet."""
        command = ["bash", str(ROOT / "run_qwen.sh"), *SMALL, "trainer.val_before_train=false", "trainer.test_freq=-1"]
        command += [f"trainer.total_training_steps={NUM_STEPS}", "trainer.save_freq=100"]
        command += [f"trainer.default_local_dir={directory}"]
        arguments = ("submit", "--no-wait", "--submission-id", job_id, "--", *command)
        wait_until(lambda: "submitted successfully" in cluster.job(*arguments), "the job server is up", limit_s=60)

    def logs(job_id: str) -> str:
        return cluster.job("logs", job_id)

    def wait_for_end(job_id: str, how: str) -> None:
        ended = ("was stopped", "succeeded", "failed")
        wait_until(lambda: any(end in cluster.job("status", job_id) for end in ended), how, limit_s=LIMIT_S)
        assert how in cluster.job("status", job_id), logs(job_id)[-6000:]

    submit("first")
    wait_until(lambda: trained_steps(directory), "step 1", limit_s=LIMIT_S, show=lambda: logs("first"))
    assert cluster.processes_of_runs(), "the run's processes are not seen while it trains"
    cluster.job("stop", "first", "--no-wait")
    wait_for_end("first", "was stopped")
    last = int((directory / "latest_checkpointed_iteration.txt").read_text())
    assert 1 <= last < NUM_STEPS
    assert f"stopped        after step {last} of {NUM_STEPS} (SIGTERM)" in logs("first")
    cluster.wait_for_end_of_runs()

    submit("second")
    wait_for_end("second", "succeeded")
    assert trained_steps(directory) == list(range(1, NUM_STEPS + 1))
    check_resumed(directory)
    cluster.wait_for_end_of_runs()
