"""A real Slurm cluster on one machine: munged, slurmctld and one slurmd for each node, on loopback addresses.

Needs Debian's ``slurm-wlm`` and ``munge``, and root (munged runs as the user ``munge``). All files are in one private
folder and all ports are free ones, so it does not disturb another Slurm or munge of the machine.
"""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from waiting import wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
SBIN = "/usr/sbin:/sbin"
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 10
CANCEL_TIMEOUT_S = 300  # the controller retries a silent node only after minutes

CONFIGURATION = """\
ClusterName=prepotest
FirstJobId={first_job_id}
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why this machine cannot run a cluster; None when it can."""
    missing = [name for name in PROGRAMS if not _which(name)]
    if missing:
        return f"no {', '.join(missing)} here (Debian: apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "a private Slurm cluster needs root"


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SBIN}")


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@dataclass
class SlurmCluster:
    """A running cluster. ``folder`` holds its configuration, state and logs; ``slurmd`` its node daemons by name."""

    folder: Path
    nodes: tuple[str, ...]
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)
    slurmd: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What a client of this cluster needs."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RAY_"))}
        return inherited | {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{os.environ.get('PATH', '')}:{SBIN}",
        }

    def call(self, *command: str, extra_environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
        """Run one of Slurm's commands and return its output."""
        done = subprocess.run(
            command,
            cwd=cwd,
            env=self.environment | dict(extra_environment or {}),
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def job(self, job_id: str) -> dict[str, str]:
        """``scontrol show job`` as a dict: JobState, ExitCode, Restarts, …"""
        return dict(re.findall(r"(\w+)=(\S*)", self.call("scontrol", "show", "job", job_id)))

    def limit_time(self, job_id: str, ahead_s: int) -> None:
        """Set a running job's time limit less than ``ahead_s`` away, so that ``--signal=…@ahead_s`` is due at once."""
        hours, minutes, _ = map(int, self.job(job_id)["RunTime"].split(":"))
        limit = 60 * hours + minutes + ahead_s // 60  # in whole minutes
        self.call("scontrol", "update", f"JobId={job_id}", f"TimeLimit={limit}")

    def cancel_all(self) -> None:
        """Cancel every job and wait until its processes have ended."""
        self.call("scancel", "--state=PENDING")
        self.call("scancel", "--state=RUNNING")
        wait_until(
            lambda: not self.call("squeue", "-h", "-o", "%i").split(), "a cancelled job ends", limit_s=CANCEL_TIMEOUT_S
        )

    def wait_until_ended(self, job_id: str, timeout_s: float) -> dict[str, str]:
        """Wait until a job has ended. Requeued runs start at once and have no time limit.

        Raises:
            AssertionError: it has not ended after ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            job = self.job(job_id)
            if job["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"):
                return job
            if job["JobState"] == "PENDING" and job["Reason"] == "BeginTime":
                # Slurm itself waits for two minutes.
                self.call("scontrol", "update", f"JobId={job_id}", "StartTime=now", "TimeLimit=UNLIMITED")
            time.sleep(1)
        raise AssertionError(f"job {job_id} has not ended after {timeout_s} s: {job}")


def _start(cluster: SlurmCluster, *command: str, user: str | None = None) -> subprocess.Popen[bytes]:
    with open(cluster.folder / f"{Path(command[0]).name}.out", "ab") as output:
        daemon = subprocess.Popen(
            [_which(command[0]), *command[1:]],
            env=cluster.environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )
    cluster.daemons.append(daemon)
    return daemon


def _start_munge(cluster: SlurmCluster) -> None:
    folder = cluster.folder / "munge"
    folder.mkdir(mode=0o755)
    (folder / "key").write_bytes(secrets.token_bytes(128))
    (folder / "key").chmod(0o400)
    for path in (folder, folder / "key"):
        shutil.chown(path, "munge", "munge")
    files = [f"--{name}-file={folder / name}" for name in ("key", "pid", "log", "seed")]
    _start(cluster, "munged", "--foreground", f"--socket={folder / 'socket'}", *files, user="munge")


def _wait_until_idle(cluster: SlurmCluster) -> None:
    def states() -> list[str]:
        command = ["sinfo", "-h", "-N", "-o", "%t"]
        found = subprocess.run(command, env=cluster.environment, text=True, capture_output=True, check=False)
        return found.stdout.split()

    def logs() -> str:
        return "\n".join(path.read_text(errors="replace")[-1500:] for path in sorted(cluster.folder.glob("*.log")))

    idle = ["idle"] * len(cluster.nodes)
    wait_until(lambda: states() == idle, "the Slurm cluster comes up", limit_s=START_TIMEOUT_S, show=logs)


def _stop(cluster: SlurmCluster) -> None:
    for name in cluster.slurmd:
        cluster.slurmd[name].send_signal(signal.SIGCONT)
    for daemon in reversed(cluster.daemons):
        daemon.terminate()
    for daemon in cluster.daemons:
        try:
            daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


@contextmanager
def slurm_cluster(*, num_nodes: int = 2, cpus_per_node: int = 2) -> Iterator[SlurmCluster]:
    """A cluster with nodes n1, n2, …, all on this machine. Leaves nothing behind.

    Each node has a loopback address of its own: 127.0.0.2, 127.0.0.3, …
    """
    # The user munge must be able to enter it, so it is not one of pytest's folders.
    folder = Path(tempfile.mkdtemp(prefix="prepo-slurm-", dir="/tmp"))
    folder.chmod(0o755)
    names = tuple(f"n{index + 1}" for index in range(num_nodes))
    cluster = SlurmCluster(folder, names)
    controller_port, *ports = free_ports(num_nodes + 1)
    lines = [
        f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.{index + 2} Port={port} CPUs={cpus_per_node}"
        for index, (name, port) in enumerate(zip(names, ports, strict=True))
    ]
    (folder / "state").mkdir()
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            folder=folder,
            controller_port=controller_port,
            first_job_id=10_000 + secrets.randbelow(50_000_000),  # job ids also name things outside the folder
            nodes="\n".join(lines),
        )
    )
    try:
        _start_munge(cluster)
        _start(cluster, "slurmctld", "-D")
        for name in names:
            (folder / f"spool.{name}").mkdir()
            cluster.slurmd[name] = _start(cluster, "slurmd", "-D", "-N", name)
        _wait_until_idle(cluster)
        yield cluster
        cluster.cancel_all()
    finally:
        _stop(cluster)
        shutil.rmtree(folder)
