"""Trains on the nodes of a Slurm job, with Ray on every node and the driver on the first. run_qwen.sh starts it.

    python scripts/slurm_run.py experiment=<name> [key=value …]      within sbatch or salloc

One srun step runs Ray (scripts/slurm_node.py on each node), another one the driver. SIGTERM and SIGUSR1 are forwarded
to the driver. When it stops on request with a checkpoint (exit status 75), the job is requeued if Slurm allows it.
docs/cluster.md has the details.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
STOPPED = 75  # EX_TEMPFAIL: the driver stopped on request and can resume from its checkpoint
FIRST_PORT, PORT_BLOCKS, PORTS_EACH = 20000, 4000, 3  # below Linux's range of ephemeral ports
JOIN_TIMEOUT_S = 300.0
LOST_NODE_GRACE_S = 60  # in which the driver reports itself what was lost
STOP_TIMEOUT_S = 90
CLEAN_TIMEOUT_S = 30
CPU_OBJECT_STORE_BYTES = 1 << 30  # batches are in TransferQueue, outside the object store
SLURM_SHARE_FOR_OBJECTS = 0.3  # of the job's memory on a node; Ray's default share of a machine's
# Variables from sbatch about the job's own tasks. They would change or contradict the options of the steps.
TASK_VARIABLES = re.compile(
    r"(SLURM|SRUN)_(NTASKS.*|NPROCS|TASKS_PER_NODE|CPUS_PER_TASK|CPUS_PER_GPU|GPUS_PER_TASK|TRES_PER_TASK|MEM_PER_.*"
    r"|DISTRIBUTION|CPU_BIND.*|GPU_BIND|EXCLUSIVE|EXACT|OVERCOMMIT|THREADS_PER_CORE|HINT)"
)


def say(text: str) -> None:
    print(f"[slurm] {text}", file=sys.stderr, flush=True)


def ask(*command: str) -> str:
    """Run one of Slurm's commands and return its output.

    Raises:
        SystemExit: the command failed; with its message.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {' '.join(command)} failed: {done.stderr.strip()}")
    return done.stdout


# ------------------------------------------------------------------------------------------------------- the job


@dataclass(frozen=True)
class Job:
    """A Slurm job: its id, nodes, and their addresses in the same order."""

    job_id: str
    nodes: tuple[str, ...]
    addresses: tuple[str, ...]

    @classmethod
    def here(cls) -> Job:
        """The job of this process."""
        nodes = ask("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
        known = dict(re.findall(r"NodeName=(\S+).*? NodeAddr=(\S+)", ask("scontrol", "show", "node", "-o")))
        return cls(os.environ["SLURM_JOB_ID"], tuple(nodes), tuple(known.get(node, node) for node in nodes))

    def srun(self, nodes: Sequence[str], script: str, *arguments: str) -> list[str]:
        """An srun step with one task on each node and all resources of the job there."""
        number = str(len(nodes))
        step = ["srun", "--overlap", f"--nodes={number}", f"--ntasks={number}", "--ntasks-per-node=1"]
        step += [f"--nodelist={','.join(nodes)}", "--cpu-bind=none", "--mem=0", "--export=ALL", "--input=none"]
        step += ["--kill-on-bad-exit=0", "--mpi=none", "--unbuffered"]
        return [*step, sys.executable, str(SCRIPTS / script), *arguments]

    def requeue(self) -> None:
        """Requeue the job if Slurm allows it. It resumes from its checkpoint.

        A cancelled job, whose driver also got SIGTERM, is no longer RUNNING and stays cancelled.
        """
        shown = dict(re.findall(r"(\w+)=(\S*)", ask("scontrol", "show", "job", self.job_id)))
        if (shown.get("BatchFlag"), shown.get("Requeue"), shown.get("JobState")) != ("1", "1", "RUNNING"):
            say("stopped on request, with a checkpoint; the same command resumes from it")
            return
        say(f"stopped on request, with a checkpoint: requeueing job {self.job_id}")
        ask("scontrol", "requeue", self.job_id)
        time.sleep(60)  # Slurm ends this script


# ------------------------------------------------------------------------------------------------------ what it needs


def single(overrides: Sequence[str]) -> list[str]:
    """The overrides of the first run of a sweep, without Hydra's own options."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    plain = [override for override in overrides if not override.startswith("-")]
    first = []
    for text, parsed in zip(plain, OverridesParser.create().parse_overrides(plain), strict=True):
        swept = parsed.is_sweep_override()
        first.append(f"{parsed.input_line.split('=')[0]}={next(parsed.sweep_string_iterator())}" if swept else text)
    return first


def node_sizes(config: Any, environment: Mapping[str, str]) -> list[str]:
    """Options of Ray on every node. The node's keeper takes the others from Slurm.

    A CPU experiment has logical GPUs: as many on a node as the larger pool needs, or as both pools on a single node.
    """
    sizes = []
    init = config.ray_kwargs.ray_init
    object_store = float(environment.get("PREPO_OBJECT_STORE_GIB", 0)) * (1 << 30)
    if config.trainer.device == "cpu":
        rollout = config.actor_rollout_ref.rollout
        pools = (config.trainer.n_gpus_per_node, rollout.get("n_gpus_per_node") or 0)
        share = rollout.get("nnodes") and environment.get("SLURM_JOB_NUM_NODES") == "1"
        sizes.append(f"--num-gpus={sum(pools) if share else max(pools)}")
        object_store = object_store or CPU_OBJECT_STORE_BYTES
    elif environment.get("SLURM_MEM_PER_NODE", "0") != "0":
        object_store = object_store or int(environment["SLURM_MEM_PER_NODE"]) * (1 << 20) * SLURM_SHARE_FOR_OBJECTS
    if init.get("num_cpus"):
        sizes.append(f"--num-cpus={init.num_cpus}")
    return sizes + ([f"--object-store-bytes={int(object_store)}"] if object_store else [])


def check_gpus(config: Any, environment: Mapping[str, str]) -> None:
    """Warn about a GPU experiment in a job that requested no GPUs. Ray may still find some."""
    wants = config.trainer.n_gpus_per_node
    visible = environment.get("SLURM_GPUS_ON_NODE") or environment.get("CUDA_VISIBLE_DEVICES")
    if config.trainer.device != "cpu" and not visible and not environment.get("SLURM_JOB_GPUS"):
        say(
            f"note: this job requested no GPUs, and the experiment needs {wants} on each node; Ray uses those that it "
            f"finds. To request them: sbatch --gpus-per-node={wants} run_qwen.sh …"
        )


# --------------------------------------------------------------------------------------------------------- the run


class Launch:
    """The two steps of a run, and its state."""

    def __init__(self, job: Job, logs: Path) -> None:
        self.job, self.logs = job, logs
        self.stop_asked = False
        self.lost: float | None = None  # when a node was lost; lost_how is srun's message
        self.lost_how = ""
        self.nodes: subprocess.Popen[str] | None = None
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        kept = {name: value for name, value in os.environ.items() if not TASK_VARIABLES.fullmatch(name)}
        self.environment = kept | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "PREPO_RAY_LOGS": str(logs),
        }
        self.environment.pop("RAY_AUTH_TOKEN_PATH", None)

    def _ask_to_stop(self, number: int, _frame: FrameType | None) -> None:
        if not self.stop_asked:
            say(f"{signal.Signals(number).name}: asking the driver to save and to stop")
        self.stop_asked = True

    def run(self, command: Sequence[str], sizes: Sequence[str], timeout_s: float) -> int:
        """Start the cluster, run the driver's command, stop everything. Returns the driver's exit status."""
        job, head = self.job, self.job.nodes[:1]
        first_port = FIRST_PORT + int(job.job_id) % PORT_BLOCKS * PORTS_EACH
        addresses = f"--addresses={','.join(job.addresses)}"
        find = job.srun(head, "slurm_join.py", "address", addresses, f"--first-port={first_port}")
        found = subprocess.run(find, env=self.environment, stdout=subprocess.PIPE, text=True, check=False)
        if found.returncode:
            return 1
        where = f"--nodes={','.join(job.nodes)}", f"--head={found.stdout.strip()}"
        options = [addresses, f"--logs={self.logs}", *sizes]
        if os.environ.get("PREPO_RAY_DASHBOARD"):
            options += ["--dashboard=true"]
            port = int(found.stdout.strip().rpartition(":")[2]) + 1
            say(f"Ray's dashboard and job server, for {head[0]} itself only: http://127.0.0.1:{port}")
        keep = job.srun(job.nodes, "slurm_node.py", "node", *where, *options)
        drive = job.srun(head, "slurm_node.py", "drive", *where, f"--timeout-s={timeout_s}", "--", *command)
        status = 1
        try:
            self.nodes = subprocess.Popen(keep, env=self.environment, stderr=subprocess.PIPE, text=True)
            threading.Thread(target=self._watch_nodes, daemon=True).start()
            status = self._supervise(subprocess.Popen(drive, env=self.environment))
        finally:
            self._take_down(keep_logs=status not in (0, STOPPED))
        return status

    def _watch_nodes(self) -> None:
        """Print the output of the nodes. srun reports when one of several tasks ends, and goes on."""
        assert self.nodes is not None and self.nodes.stderr is not None
        for line in self.nodes.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            if self.lost is None and re.match(r"srun: error: .*[Tt]ask", line):
                self.lost_how = line.removeprefix("srun: error: ").strip()
                self.lost = time.monotonic()

    def _supervise(self, driver: subprocess.Popen[bytes]) -> int:
        stopped = loss_reported = False
        assert self.nodes is not None
        while driver.poll() is None:
            if self.stop_asked and not stopped:
                stopped = True
                driver.send_signal(signal.SIGUSR2)  # srun forwards it; SIGTERM would make it kill the step
            if self.nodes.poll() is not None:
                self.lost = self.lost or time.monotonic()
            if self.lost and not loss_reported:
                loss_reported = True
                driver.send_signal(signal.SIGUSR1)  # ends the wait for nodes, not the driver
            if self.lost and time.monotonic() - self.lost > LOST_NODE_GRACE_S:
                say("error: a node is lost, and the driver has not ended by itself: ending it")
                end(driver)
            time.sleep(0.2)
        if self.lost and driver.returncode:
            say(f"error: a node was lost, see the lines above: {self.lost_how}")
        return driver.returncode if driver.returncode >= 0 else 128 - driver.returncode

    def _take_down(self, *, keep_logs: bool) -> None:
        if self.nodes is None:
            return
        if self.nodes.poll() is None:
            self.nodes.send_signal(signal.SIGUSR2 if keep_logs else signal.SIGUSR1)
            try:
                self.nodes.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                say("the nodes did not stop: killing what runs there")
                end(self.nodes)
        if self.lost:
            self._clean()
        if keep_logs and self.logs.exists():
            say(f"Ray's and the workers' logs: {self.logs}")

    def _clean(self) -> None:
        """Remove the folders of killed keepers. A node that does not answer keeps its folder."""
        names = f"--nodes={','.join(self.job.nodes)}"
        steps = [
            subprocess.Popen(self.job.srun([node], "slurm_node.py", "clean", names), env=self.environment)
            for node in self.job.nodes
        ]
        deadline = time.monotonic() + CLEAN_TIMEOUT_S
        for step in steps:
            try:
                step.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                step.kill()
                step.wait()


def end(step: subprocess.Popen[Any]) -> None:
    """Make srun kill its step; kill srun if it does not end."""
    step.terminate()
    try:
        step.wait(30)
    except subprocess.TimeoutExpired:
        step.kill()
        step.wait()


def run_job(command: Sequence[str], sizes: Sequence[str]) -> int:
    """Run a driver's command on this job's nodes, and requeue the job if the driver stopped on request."""
    job = Job.here()
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    logs = ROOT / "outputs" / "ray-logs" / f"slurm-{job.job_id}-{restarts}"
    say(f"job {job.job_id} on {', '.join(job.nodes)}" + (f", restart {restarts}" if restarts != "0" else ""))
    timeout_s = float(os.environ.get("PREPO_JOIN_TIMEOUT_S", JOIN_TIMEOUT_S))
    status = Launch(job, logs).run(command, sizes, timeout_s)
    if status == STOPPED:
        job.requeue()
    return status


def main(overrides: Sequence[str]) -> int:
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        sys.exit(
            "error: srun started this with several tasks. Use sbatch run_qwen.sh …, or bash run_qwen.sh within salloc."
        )
    from recipe.prepo.doctor import compose_config
    from recipe.prepo.errors import EXIT_BAD_INPUT, PrepoError

    try:
        config = compose_config(single(overrides))
    except PrepoError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    check_gpus(config, os.environ)
    return run_job([sys.executable, "-m", "recipe.prepo.main", *overrides], node_sizes(config, os.environ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
