"""Runs on the real stack (Ray, TransferQueue, FSDP2, vLLM on the CPU), each shared by several tests.

A run takes about a minute to start, so a fixture is a run and a test is a question to it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import transfer_queue as tq
from real_stack import ROOT, SMALL, Interrupted, Run, launch

from benchmarks.faults_run import Training
from benchmarks.footprint import Footprint
from recipe.prepo.cpu import cpu_environment
from recipe.prepo.doctor import compose_config
from recipe.prepo.supervise.cleanup import Sweeper, ray_roots


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """After the last test: no process, shared-memory segment or socket of any run of these tests."""
    with Footprint() as footprint:
        os.environ.update(footprint.environment)
        yield
        for name in footprint.environment:
            del os.environ[name]
        footprint.wait_for_end(60)
        left = footprint.leftovers()
    assert not left, f"left behind: {left}"


@pytest.fixture(scope="session")
def straight_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """PREPO for four steps, checkpointed after two and four, with every tracker that works without a network."""
    directory = tmp_path_factory.mktemp("straight")
    overrides = [*SMALL, "trainer.total_training_steps=4", "trainer.save_freq=2", "trainer.test_freq=4"]
    overrides.append("trainer.logger=[console,tensorboard,wandb,mlflow,file]")
    offline = {
        "TENSORBOARD_DIR": str(directory / "tensorboard"),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(directory),
        "MLFLOW_TRACKING_URI": f"sqlite:///{directory / 'mlflow.db'}",
        "VERL_FILE_LOGGER_PATH": str(directory / "file.jsonl"),
    }
    return launch(directory, overrides, extra_environment=offline)


def interrupted(directory: Path, save_freq: int, interrupt: Callable[[Training], int]) -> Interrupted:
    """Four steps: the first attempt is interrupted, the second one goes to the end."""
    with Training(directory, 4, f"trainer.save_freq={save_freq}") as first:
        victim = interrupt(first)
        ending = first.wait_for_end()
    with Training(directory, 4, "trainer.save_freq=-1") as second:
        finished = second.wait_for_end()
    return Interrupted(directory, first.output, ending, finished, victim)


@pytest.fixture(scope="session")
def stopped_run(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """A SIGTERM stops the first attempt."""

    def stop(training: Training) -> int:
        training.wait_for_steps(1)
        training.driver.send_signal(signal.SIGTERM)
        return training.driver.pid

    return interrupted(tmp_path_factory.mktemp("stopped") / "run", -1, stop)


@pytest.fixture(scope="session")
def killed_run(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """The rollout server is killed in the first attempt."""

    def kill(training: Training) -> int:
        training.wait_for_whole_checkpoint()
        server = training.process("ray::vLLMHttpServer")
        os.kill(server, signal.SIGKILL)
        return server

    return interrupted(tmp_path_factory.mktemp("killed") / "run", 1, kill)


NEUTRAL = ["prepo/selection=all", "prepo/weighting=none", "trainer.total_training_steps=2", "trainer.test_freq=-1"]


@pytest.fixture(scope="session")
def neutral_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """This recipe with the neutral rules."""
    directory = tmp_path_factory.mktemp("neutral")
    dump = f"trainer.rollout_data_dir={directory / 'rollouts'}"
    return launch(directory, [*SMALL, *NEUTRAL, dump, "trainer.save_freq=2"])


@pytest.fixture(scope="session")
def stock_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Stock verl (its own entry point and its own "sync" trainer) on the same configuration."""
    directory = tmp_path_factory.mktemp("stock")
    overrides = [*SMALL, *NEUTRAL, f"trainer.rollout_data_dir={directory / 'rollouts'}", "trainer.save_freq=2"]
    overrides += ["trainer.v1.trainer_mode=sync", "trainer.logger=[file]"]
    environment = cpu_environment() | {
        "PREPO_ASSETS": str(ROOT / "assets"),
        "VERL_FILE_LOGGER_PATH": str(directory / "metrics.jsonl"),
    }
    module = f"verl.trainer.main_ppo --config-dir {ROOT / 'conf'} --config-name prepo"
    sockets = set(Path("/tmp/ray").glob("session_*/sockets/*"))
    run = launch(directory, overrides, module=module, extra_environment=environment)
    for socket in set(Path("/tmp/ray").glob("session_*/sockets/*")) - sockets:
        socket.unlink(missing_ok=True)  # stock verl leaves Ray's sockets; this recipe's entry point takes them away
    return run


@pytest.fixture(scope="session")
def prepare_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Prepares one of the real data files with the command that a user types; skips loudly without them."""
    source = os.environ.get("PREPO_DATA_DIR")
    if not source:
        pytest.skip("PREPO_DATA_DIR is not set: NOT TESTED on real data (GSM8K, DAPO-Math)")
    folder = tmp_path_factory.mktemp("data")

    def prepare(dataset: str, file: str) -> Path:
        command = [sys.executable, "-m", "data_prep", dataset, "--source", str(Path(source) / file), "--out", folder]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        (made,) = folder.glob(f"{dataset}_*.parquet")
        return made

    return prepare


@pytest.fixture(scope="module")
def transfer_queue() -> Iterator[None]:
    """A real TransferQueue without a trainer around it."""
    with Sweeper(ray_roots()):
        ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
        config = compose_config(["experiment=tiny_cpu"]).transfer_queue
        config.enable = True
        tq.init(config)
        yield
        tq.close()
        ray.shutdown()
