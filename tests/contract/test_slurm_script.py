"""scripts/slurm_*.py with stand-ins for Slurm's commands. tests/e2e/test_slurm.py uses a real cluster."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from composed import composed
from omegaconf import OmegaConf
from stand_ins import executable, path_folder
from waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_a_sweep_is_sized_by_its_first_run() -> None:
    from slurm_run import single

    sweep = ["--multirun", "experiment=comparison", "method=random,prepo", "prepo.seed=0,1"]
    kept = ["trainer.logger=[file,console]", "+a.b=3"]
    assert single(sweep + kept) == ["experiment=comparison", "method=random", "prepo.seed=0", *kept]


GPU = {"trainer.device": "cuda", "ray_kwargs.ray_init.num_cpus": None}


@pytest.mark.parametrize(
    ("overrides", "changes", "environment", "sizes"),
    [
        ((), {"trainer.n_gpus_per_node": 2}, {}, ["--num-gpus=2", "--num-cpus=32", f"--object-store-bytes={1 << 30}"]),
        ((), {}, {"PREPO_OBJECT_STORE_GIB": "0.5"}, [f"--object-store-bytes={1 << 29}"]),
        ((), {"actor_rollout_ref.rollout.n_gpus_per_node": 3}, {}, ["--num-gpus=3"]),  # the larger pool's share
        (("cluster=cpu",), {}, {"SLURM_JOB_NUM_NODES": "1"}, ["--num-gpus=2"]),  # the devices of both pools
        (("cluster=cpu",), {}, {"SLURM_JOB_NUM_NODES": "2"}, ["--num-gpus=1"]),
        ((), GPU, {}, []),  # a GPU experiment takes the allocation's GPUs, and a share of its memory
        ((), GPU, {"SLURM_MEM_PER_NODE": "1000"}, [f"--object-store-bytes={int(1000 * (1 << 20) * 0.3)}"]),
    ],
)
def test_sizes_of_a_node(
    overrides: tuple[str, ...], changes: dict[str, Any], environment: dict[str, str], sizes: list[str]
) -> None:
    from slurm_run import node_sizes

    found = node_sizes(OmegaConf.create(composed("experiment=tiny_cpu", *overrides, changes=changes)), environment)
    assert set(sizes) <= set(found) and bool(sizes) == bool(found)


def test_a_node_starts_ray_with_the_resources_of_its_allocation(monkeypatch: pytest.MonkeyPatch) -> None:
    from slurm_node import ray_command, read_options

    options = read_options(["node", "--nodes=a,b", "--head=10.0.0.1:20000", "--addresses=a,b", "--logs=x"])
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "96")
    options.index = 0
    head = ray_command(options, "10.0.0.1", Path("/tmp/x"))
    assert {"--head", "--port=20000", "--num-gpus=8", "--num-cpus=96"} <= set(head)
    assert {"--dashboard-host=127.0.0.1", "--dashboard-port=20001", "--ray-client-server-port=20002"} <= set(head)
    options.index = 1
    worker = ray_command(options, "10.0.0.2", Path("/tmp/x"))
    assert {"--address=10.0.0.1:20000", "--node-ip-address=10.0.0.2", "--labels=slurm-node=b"} <= set(worker)
    assert not [word for word in head + worker if "0.0.0.0" in word]


def test_a_private_folder_is_never_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slurm_node import make_private, private_folder

    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("PREPO_NODE_TMPDIR", "/tmp")
    assert private_folder(1) == Path("/tmp/prepo-7-1")
    monkeypatch.setenv("PREPO_NODE_TMPDIR", "/scratch/" + "x" * 60)
    with pytest.raises(SystemExit, match="at most"):
        private_folder(1)
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(SystemExit, match="Set PREPO_NODE_TMPDIR to another place"):
        make_private(tmp_path / "link")
    make_private(target)
    assert target.stat().st_mode & 0o777 == 0o700


def test_one_node_stays_on_loopback_and_ports_in_use_are_skipped() -> None:
    from slurm_join import PORTS_EACH, first_free_port, own_address

    assert own_address("n1.example", []) == "127.0.0.1"
    assert own_address("127.0.0.2", ["127.0.0.3"]) == "127.0.0.2"
    assert own_address("192.0.2.7", ["192.0.2.8"]) == "192.0.2.7"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert first_free_port("127.0.0.1", port - 1) >= port - 1 + PORTS_EACH


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A keeper whose child starts a detached process, then waits and ignores SIGTERM."""
    script = f"""
import os, sys, time
sys.path.insert(0, {str(SCRIPTS)!r})
import slurm_node
slurm_node.STOP_GRACE_S = 1
keeper = slurm_node.Keeper()
command = '(setsid sleep 600 &); trap "" TERM; echo up; sleep 600'
child = keeper.start(['bash', '-c', command], dict(os.environ))
while not keeper.asked: time.sleep(0.05)
keeper.end_all()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        yield process
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.kill()
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_keeper_ends_detached_processes(keeper: subprocess.Popen[str], number: signal.Signals) -> None:
    assert keeper.stdout is not None and keeper.stdout.readline() == "up\n"
    wait_until(lambda: len(psutil.Process(keeper.pid).children(recursive=True)) >= 2)
    below = psutil.Process(keeper.pid).children(recursive=True)
    keeper.send_signal(number)
    assert keeper.wait(30) == 0
    assert [process for process in below if process.is_running()] == []


@pytest.fixture
def stubs(tmp_path: Path) -> Path:
    """A folder for PATH with stand-ins for Slurm's commands, which log their calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scontrol = f"""echo "scontrol $*" >> {tmp_path}/asked
case "$*" in
  "show hostnames"*) printf "n1\\nn2\\n";;
  "show node"*) printf "NodeName=n%s Arch=x NodeAddr=127.0.0.%s X=1\\n" 1 2 2 3;;
  "show job"*) echo "JobId=7 JobState=$STATE Requeue=1 BatchFlag=$BATCH";;
esac"""
    srun = f"""echo "srun $*" >> {tmp_path}/asked
case "$*" in
  *slurm_join.py*) echo 127.0.0.2:20021;;
  *slurm_node.py*node*--logs*) trap 'exit 0' USR1 USR2; while true; do sleep 0.1; done;;
  *) exit "$DRIVER";;
esac"""
    sleep = f'[[ $1 != 60 ]] && exec {shutil.which("sleep")} "$@"'
    for name, script in (("scontrol", scontrol), ("srun", srun), ("sleep", sleep)):
        executable(folder / name, script)
    return folder


def launch(stubs: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS": "9", "SLURM_MEM_PER_CPU": "5"}
    job |= {"PATH": f"{stubs}:{os.environ['PATH']}", "DRIVER": "0", "BATCH": "1", "STATE": "RUNNING"}
    script = f"import sys, time; sys.path.insert(0, {str(SCRIPTS)!r}); import slurm_run\n"
    script += "slurm_run.time.sleep = lambda seconds, real=time.sleep: real(min(seconds, 0.1))\n"
    command = [sys.executable, "-c", script + "sys.exit(slurm_run.main(sys.argv[1:]))", *arguments]
    return subprocess.run(command, env=os.environ | job | variables, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("status", "batch", "state", "requeued"),
    [
        ("75", "1", "RUNNING", True),
        ("75", "0", "RUNNING", False),  # within salloc
        ("75", "1", "CANCELLED", False),  # scancel: the driver received SIGTERM too
        ("9", "1", "RUNNING", False),
    ],
)
def test_only_a_batch_job_that_stopped_with_a_checkpoint_is_requeued(
    stubs: Path, tmp_path: Path, status: str, batch: str, state: str, requeued: bool
) -> None:
    done = launch(stubs, "experiment=tiny_cpu", DRIVER=status, BATCH=batch, STATE=state)
    assert done.returncode == int(status), done.stderr
    asked = (tmp_path / "asked").read_text()
    assert ("scontrol requeue 7" in asked) is requeued
    (nodes,) = [line for line in asked.splitlines() if "slurm_node.py node" in line]
    assert "--nodes=2 --ntasks=2 --ntasks-per-node=1 --nodelist=n1,n2" in nodes
    assert asked.count("-m recipe.prepo.main experiment=tiny_cpu\n") == 1 and "RAY_AUTH_TOKEN" not in asked


def test_what_cannot_run_stops_before_anything_is_started(stubs: Path, tmp_path: Path) -> None:
    unknown = launch(stubs, "experiment=nope")
    assert unknown.returncode == 2 and "nope" in unknown.stderr
    copies = launch(stubs, "experiment=tiny_cpu", SLURM_STEP_NUM_TASKS="2")
    assert copies.returncode == 1 and "Use sbatch run_qwen.sh" in copies.stderr
    assert not (tmp_path / "asked").exists()


def test_run_qwen_needs_slurms_commands_for_several_nodes(tmp_path: Path) -> None:
    tools = path_folder(tmp_path, ("bash", "basename", "dirname", "grep"))
    environment = {"PATH": str(tools), "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2"}
    command = ["bash", "run_qwen.sh", "experiment=tiny_cpu", "trainer.nnodes=2"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "this Slurm job has 2 nodes, but srun and scontrol are not on PATH" in done.stderr
