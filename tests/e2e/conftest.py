"""Runs on the real stack (Ray, TransferQueue, FSDP2, vLLM on the CPU), each shared by several tests.

A run takes about a minute to start, so a fixture is a run and a test is a question to it.
"""

import os
from collections.abc import Iterator

import pytest
import ray
import transfer_queue as tq
from real_stack import SMALL, Run, launch

from benchmarks.footprint import Footprint
from recipe.prepo.doctor import compose_config
from recipe.prepo.supervise.cleanup import Sweeper, ray_roots


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """After the last test: no process, shared-memory segment or socket of any run of these tests."""
    with Footprint() as footprint:
        os.environ.update(footprint.environment)
        os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's 15 the runs starve beside the other tests
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
