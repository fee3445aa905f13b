"""``sbatch run_qwen.sh`` on a real Slurm cluster of two nodes, both of them this machine: see tests/helpers.

A job takes minutes, so each one answers all the questions that can be put to it.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import ray
from real_stack import ROOT, SMALL, check_resumed, trained_steps
from slurm_cluster import SlurmCluster, slurm_cluster, why_not
from waiting import wait_until

from benchmarks.footprint import command_of
from recipe.prepo.run.jsonl import read_lines

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(why_not() is not None, reason=f"NOT TESTED on Slurm: {why_not()}"),
]

# The actor on one node, vLLM on the other: each node has one logical GPU.
POOLS = ["cluster=cpu", "prepo.seed_rollouts=false"]
SHORT = [*SMALL, *POOLS, "trainer.val_before_train=false", "trainer.test_freq=-1", "data.val_max_samples=8"]
START_TIMEOUT_S = 600
JOB_TIMEOUT_S = 1200
NUM_STEPS = 24  # longer than the half minute from one look of Slurm at its time limits to the next
# How long before the time limit the job is told to stop.
SIGNAL_AHEAD_S = int(re.search(r"--signal=B:TERM@(\d+)", (ROOT / "run_qwen.sh").read_text()).group(1))


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    with slurm_cluster() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def no_job_outlives_its_test(slurm: SlurmCluster) -> Iterator[None]:
    yield
    slurm.cancel_all()


@dataclass(frozen=True)
class Submitted:
    """A job that was submitted: its id, its run directory and the file that it prints to."""

    job_id: str
    directory: Path
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    @property
    def trained_steps(self) -> list[int]:
        return trained_steps(self.directory)

    def wait_for(self, seen: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until the job has printed this."""
        wait_until(lambda: seen in self.output, f"'{seen}' is printed", limit_s=timeout_s, show=lambda: self.output)

    def wait_for_step(self, step: int) -> None:
        done = f"step {step} is done"
        wait_until(lambda: step in self.trained_steps, done, limit_s=START_TIMEOUT_S, show=lambda: self.output)


def submit(slurm: SlurmCluster, folder: Path, *overrides: str, **variables: str) -> Submitted:
    """``sbatch -N2 run_qwen.sh experiment=tiny_cpu …`` from the checkout, as a user types it."""
    log, directory = folder / "job.log", folder / "run"
    command = ["sbatch", "--parsable", "--nodes=2", f"--output={log}", "run_qwen.sh", *SHORT, *overrides]
    environment = {"VIRTUAL_ENV": sys.prefix, **variables}  # what runs these tests is the active environment
    run_dir = f"trainer.default_local_dir={directory}"
    printed = slurm.call(*command, run_dir, extra_environment=environment, cwd=ROOT)
    return Submitted(printed.strip(), directory, log)


def belongs(process: psutil.Process, job_id: str) -> bool:
    """Whether a process was started by a job: by its environment, or by the job's folder on its command line."""
    try:
        return process.environ().get("SLURM_JOB_ID") == job_id or f"prepo-{job_id}-" in command_of(process.pid)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def check_nothing_is_left(job_id: str) -> None:
    """No process or file of a job is there after it; a moment is theirs to end in."""

    def left() -> list[str]:
        processes = [f"{process.pid} {process}" for process in psutil.process_iter() if belongs(process, job_id)]
        return processes + [str(path) for path in Path("/tmp").glob(f"prepo-{job_id}-*")]

    wait_until(lambda: not left(), "everything of the job is gone", show=lambda: str(left()))


def connect(address: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A client of the job's Ray that prints the number of its nodes."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | variables
    script = f"import ray; ray.init('{address}', log_to_driver=False); print('nodes', len(ray.nodes()))"
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=environment, text=True, capture_output=True, timeout=180, check=False)


def test_a_job_over_two_nodes_lets_its_own_clients_in_is_requeued_at_its_time_limit_and_resumes(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    job = submit(slurm, tmp_path, f"trainer.total_training_steps={NUM_STEPS}", "trainer.save_freq=100")
    job.wait_for("starting Ray")
    (folder,) = Path("/tmp").glob(f"prepo-{job.job_id}-0")
    token = folder / "token"
    job.wait_for("Connecting to existing Ray cluster")
    address = re.search(r"Ray cluster at address: ([\d.]+:\d+)", job.output).group(1)
    assert [oct(path.stat().st_mode & 0o777) for path in (folder, token)] == ["0o700", "0o600"]
    secret = token.read_text()
    assert len(secret) == 64
    assert not [pid for pid in psutil.pids() if secret in command_of(pid)]
    mine = connect(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    assert mine.stdout.strip() == "nodes 2", mine.stderr
    for wrong in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        client = connect(address, **wrong)
        assert client.returncode != 0 and "nodes" not in client.stdout, f"{wrong} was let in: {client.stdout}"

    job.wait_for_step(2)
    keepers = [p for p in psutil.process_iter() if belongs(p, job.job_id) and "slurm_node.py" in command_of(p.pid)]
    of_nodes = [keeper.children(recursive=True) for keeper in keepers]  # under whatever name they now go
    processes = [process for of_node in of_nodes for process in of_node]
    titles = [" ".join(command_of(process.pid) for process in of_node) for of_node in of_nodes]
    actors, servers = (["ray::WorkerDict" in t for t in titles], ["VLLM::EngineCore" in t for t in titles])
    assert sum(actors) == sum(servers) == 1 and actors != servers, titles  # one on each node
    assert len(processes) > 10, "the job's processes were not found while it ran"
    slurm.limit_time(job.job_id, SIGNAL_AHEAD_S)
    state = slurm.wait_until_ended(job.job_id, JOB_TIMEOUT_S)
    assert (state["JobState"], state["ExitCode"], state["Restarts"]) == ("COMPLETED", "0:0", "1"), job.output[-6000:]
    assert "Ray runs on 2 node(s) (n1, n2): 2 GPU(s), 64 logical CPUs" in job.output
    assert "SIGTERM: asking the driver to save and to stop" in job.output and "restart 1" in job.output
    assert secret not in job.output
    assert job.trained_steps == list(range(1, NUM_STEPS + 1))
    chosen = [(line["step"], line["call"]) for line in read_lines(job.directory / "audit/selection.jsonl")]
    # One batch ahead of the first step, and one a step; the resumed run still had its batch in flight.
    assert chosen == [(1, 0), (1, 1), *((step, 0) for step in range(2, NUM_STEPS + 1))]
    check_resumed(job.directory)
    assert [process for process in processes if process.is_running() and command_of(process.pid)] == []
    check_nothing_is_left(job.job_id)


def test_a_node_that_does_not_answer_is_named(slurm: SlurmCluster, tmp_path: Path) -> None:
    """Slurm's daemon on the second node hangs: its task never starts."""
    job = submit(slurm, tmp_path)
    job.wait_for("[setup]")
    slurm.slurmd["n2"].send_signal(signal.SIGSTOP)
    try:
        job.wait_for("error: a node was lost", timeout_s=300)
    finally:
        slurm.slurmd["n2"].send_signal(signal.SIGCONT)
    state = slurm.wait_until_ended(job.job_id, JOB_TIMEOUT_S)
    assert state["JobState"] == "FAILED"
    assert re.search(r"error: a node was lost, see the lines above: Task launch for \S+ failed on node n2", job.output)
    assert not job.directory.exists(), "the driver was started"
    check_nothing_is_left(job.job_id)


def test_nodes_that_do_not_join_are_named() -> None:
    command = [sys.executable, str(ROOT / "scripts/slurm_join.py"), "wait", "--nodes=n1,n2", "--timeout-s=30"]
    with tempfile.TemporaryDirectory(prefix="prepo-", dir="/tmp") as folder:
        here = {"slurm-node": "n1"}
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=folder, labels=here)
        try:
            environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        finally:
            ray.shutdown()
    assert done.returncode == 1
    assert "error: 1 of 2 nodes did not join Ray within 30 s: n2." in done.stderr
