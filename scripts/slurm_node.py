"""Runs on the nodes of a Slurm job for scripts/slurm_run.py: keepers of Ray on each node, and of the driver.

    slurm_node.py node …                    run Ray on this node until a signal
    slurm_node.py drive … -- COMMAND        wait until all nodes have joined, then run COMMAND
    slurm_node.py clean …                   remove the folder of a killed keeper

A keeper adopts every process below it, detached ones too (PR_SET_CHILD_SUBREAPER), and ends only when all have ended.
srun forwards signals to it. SIGUSR1 and SIGUSR2 end the keeper of a node; SIGUSR2 also keeps Ray's logs. SIGUSR2 makes
the driver's keeper send SIGTERM to the driver. SIGUSR1 only ends its wait for the nodes.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO, TypeAlias

import psutil
from slurm_join import LABEL, own_address, say, words

PR_SET_CHILD_SUBREAPER = 36
# sun_path holds 107 characters, and Ray puts this below its folder, with process ids of up to 7 digits.
MAX_FOLDER_LENGTH = 107 - len("/r/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store")
Child: TypeAlias = "subprocess.Popen[bytes]"
STOP_GRACE_S = 8
KILL_TIMEOUT_S = 30


class Keeper:
    """Starts children, records signals, and leaves no process behind."""

    def __init__(self) -> None:
        if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
        self.asked: set[int] = set()
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._remember)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher gets it too, and stops everything in order

    @staticmethod
    def start(command: Sequence[str], environment: dict[str, str], output: IO[bytes] | None = None) -> Child:
        """Start a child that ignores the keeper's signals, which Slurm sends to every process of the step."""

        def ignore() -> None:
            for number in (signal.SIGUSR1, signal.SIGUSR2):
                signal.signal(number, signal.SIG_IGN)

        error = subprocess.STDOUT if output else None
        return subprocess.Popen(command, env=environment, stdout=output, stderr=error, preexec_fn=ignore)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.asked.add(number)

    def end_all(self) -> None:
        """End every process below this one: SIGTERM first, SIGKILL after STOP_GRACE_S."""
        start = time.monotonic()
        terminated: set[int] = set()
        while left := psutil.Process().children(recursive=True):
            late = time.monotonic() - start > STOP_GRACE_S
            if time.monotonic() - start > KILL_TIMEOUT_S:
                say(f"{node_name()}: these processes did not end: {' '.join(str(process.pid) for process in left)}")
                return
            for process in left:
                try:
                    if process.status() == psutil.STATUS_ZOMBIE:
                        if process.ppid() == os.getpid():
                            os.waitpid(process.pid, os.WNOHANG)
                    elif late:
                        process.kill()
                    elif process.pid not in terminated:
                        terminated.add(process.pid)
                        process.terminate()
                except (psutil.NoSuchProcess, ChildProcessError):
                    continue
            time.sleep(0.1)


def node_name() -> str:
    return os.environ.get("SLURMD_NODENAME", socket.gethostname())


def private_folder(index: int) -> Path:
    """This job's folder on this node. Ray and its workers keep all their files in it."""
    base = os.environ.get("PREPO_NODE_TMPDIR", "/tmp")
    folder = Path(base) / f"prepo-{os.environ['SLURM_JOB_ID']}-{index}"
    if len(str(folder)) > MAX_FOLDER_LENGTH:
        sys.exit(
            f"error: PREPO_NODE_TMPDIR={base} is too long: Ray's socket paths would exceed 107 characters. Set it to a "
            f"folder of at most {MAX_FOLDER_LENGTH - len(str(folder)) + len(base)} characters."
        )
    return folder


def remove_folder(folder: Path) -> None:
    """Remove the folder if it exists and belongs to this user."""
    if folder.is_dir() and not folder.is_symlink() and folder.stat().st_uid == os.geteuid():
        shutil.rmtree(folder, ignore_errors=True)


def make_private(folder: Path) -> None:
    """Make the folder, for its owner only. Replaces one that a killed run of this job left."""
    remove_folder(folder)
    try:
        folder.mkdir(mode=0o700)
        (folder / "tmp").mkdir()
    except OSError as error:
        sys.exit(
            f"error: {node_name()}: cannot make {folder}, Ray's folder there ({error.strerror}). Set "
            f"PREPO_NODE_TMPDIR to another place on the nodes."
        )


def write_token(folder: Path) -> Path:
    """Move the cluster's token from the environment into a file for its owner only."""
    path = folder / "token"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(os.environ["RAY_AUTH_TOKEN"])
    return path


def ray_environment(token: Path) -> dict[str, str]:
    """The environment of Ray and its clients, with the token's path instead of the token."""
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_AUTH_TOKEN", "RAY_ADDRESS")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "TMPDIR": str(token.parent / "tmp"),
    }
    environment.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    environment.setdefault("RAY_enable_metrics_collection", "0")  # its servers listen on every interface
    return environment


def ray_command(options: argparse.Namespace, address: str, folder: Path) -> list[str]:
    """``ray start`` for the head or another node. Ray makes its folder public, so it gets one inside of ours."""
    host, _, port = options.head.rpartition(":")
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats"]
    if options.index == 0:
        command += ["--head", f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={int(port) + 1}"]
        command += [f"--ray-client-server-port={int(port) + 2}", f"--include-dashboard={options.dashboard}"]
    else:
        command += [f"--address={host}:{port}"]
    command += [f"--node-ip-address={address}", f"--temp-dir={folder / 'r'}", "--dashboard-agent-listen-port=0"]
    command += [f"--labels={LABEL}={options.nodes[options.index]}"]
    for flag, value in (
        ("num-cpus", options.num_cpus or os.environ.get("SLURM_CPUS_ON_NODE")),
        ("num-gpus", options.num_gpus or os.environ.get("SLURM_GPUS_ON_NODE")),
        ("object-store-memory", options.object_store_bytes),
    ):
        command += [f"--{flag}={value}"] if value else []
    return command


def loopback_only(address: str) -> dict[str, str]:
    """Keep Ray from replacing 127.0.0.1 by the machine's outer address, as it does for clusters."""
    return {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if address == "127.0.0.1" else {}


def keep_node(options: argparse.Namespace) -> int:
    """Run Ray on this node until a signal. Returns 0 after a signal, and 1 when Ray ended by itself."""
    keeper = Keeper()
    options.index = options.nodes.index(node_name())
    others = [address for index, address in enumerate(options.addresses) if index != options.index]
    address = own_address(options.addresses[options.index], others)
    folder = private_folder(options.index)
    make_private(folder)
    log = folder / "ray-start.log"
    try:
        environment = ray_environment(write_token(folder)) | loopback_only(address)
        with log.open("wb") as output:
            ray = keeper.start(ray_command(options, address, folder), environment, output)
        while ray.poll() is None and not keeper.asked:
            time.sleep(0.2)
        asked = bool(keeper.asked)
        if not asked:
            say(f"error: Ray ended on {node_name()} with exit status {ray.returncode}. The end of its output:")
            print(log.read_text(errors="replace")[-3000:], file=sys.stderr, flush=True)
        elif ray.poll() is None:
            ray.terminate()
            wait_at_most(ray, STOP_GRACE_S)
        if not asked or signal.SIGUSR1 not in keeper.asked:
            keep_logs(folder, Path(options.logs) / node_name())
        return 0 if asked else 1
    finally:
        keeper.end_all()
        remove_folder(folder)


def wait_at_most(child: Child, seconds: float) -> None:
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def keep_logs(folder: Path, target: Path) -> None:
    """Copy Ray's logs from the folder before it is removed."""
    for logs in folder.glob("r/session_*/logs"):
        if not logs.parent.is_symlink():
            shutil.copytree(logs, target, symlinks=True, dirs_exist_ok=True)
    if (folder / "ray-start.log").exists():
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "ray-start.log", target)


def keep_driver(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Wait for the nodes, run the driver, and return its exit status. Stop signals reach it as one SIGTERM."""
    keeper = Keeper()
    token = private_folder(0) / "token"
    environment = ray_environment(token) | loopback_only(options.head.rpartition(":")[0])
    environment["RAY_ADDRESS"] = options.head
    join = str(Path(__file__).with_name("slurm_join.py"))
    wait = [sys.executable, join, "wait", f"--nodes={','.join(options.nodes)}", f"--timeout-s={options.timeout_s}"]
    try:
        deadline = time.monotonic() + options.timeout_s
        while not token.exists() and time.monotonic() < deadline and not keeper.asked:
            time.sleep(0.2)
        for part in (wait, command):
            if keeper.asked:
                return 128 + signal.SIGTERM
            child = keeper.start(part, environment)
            terminated = False
            while child.poll() is None:
                # SIGUSR1 means a lost node: it ends the wait, but the driver may still report what it lost. Slurm sends
                # the signal to the driver too, which takes it as a request to stop. SIGTERM would then force it.
                if not terminated and (keeper.asked if part is wait else keeper.asked - {signal.SIGUSR1}):
                    terminated = True
                    child.terminate()
                time.sleep(0.2)
            status = child.returncode if child.returncode >= 0 else 128 - child.returncode
            if status:
                return status
        return 0
    finally:
        keeper.end_all()


# ------------------------------------------------------------------------------------------------------------ main


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("--nodes", type=words, required=True)
    both.add_argument("--head", required=True, help="IP:PORT of Ray's head")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    node, drive = modes.add_parser("node", parents=[both]), modes.add_parser("drive", parents=[both])
    modes.add_parser("clean").add_argument("--nodes", type=words, required=True)
    node.add_argument("--addresses", type=words, required=True, help="from Slurm, in the order of --nodes")
    node.add_argument("--logs", required=True)
    node.add_argument("--dashboard", choices=("true", "false"), default="false")
    for size in ("--num-cpus", "--num-gpus", "--object-store-bytes"):
        node.add_argument(size, type=int)
    drive.add_argument("--timeout-s", type=float, required=True)
    drive.add_argument("command", nargs="+")
    return parser.parse_args(arguments)


def main() -> int:
    options = read_options(sys.argv[1:])
    if options.mode == "clean":
        remove_folder(private_folder(options.nodes.index(node_name())))
        return 0
    return keep_node(options) if options.mode == "node" else keep_driver(options, options.command)


if __name__ == "__main__":
    sys.exit(main())
