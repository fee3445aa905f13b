"""Runs on the real stack (Ray, TransferQueue, FSDP2, vLLM on the CPU), each shared by several tests.

A run takes about a minute to start, so a fixture is a run and a test is a question to it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
import transfer_queue as tq
from real_stack import ROOT, SMALL, Run, launch

from recipe.prepo.cpu import cpu_environment
from recipe.prepo.doctor import compose_config


@pytest.fixture(scope="session")
def straight_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """PREPO for four steps, checkpointed after two and four."""
    overrides = [*SMALL, "trainer.total_training_steps=4", "trainer.save_freq=2", "trainer.test_freq=4"]
    return launch(tmp_path_factory.mktemp("straight"), overrides)


@pytest.fixture(scope="session")
def resumed_run(straight_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run gone on from its second step, over the whole run's own metrics and audit files."""
    directory = tmp_path_factory.mktemp("resumed") / "run"
    shutil.copytree(straight_run.directory, directory)
    shutil.rmtree(directory / "global_step_4")
    (directory / "latest_checkpointed_iteration.txt").write_text("2")
    overrides = [*SMALL, "trainer.total_training_steps=4", "trainer.save_freq=2", "trainer.test_freq=4"]
    return launch(directory, overrides)


NEUTRAL = ["prepo/selection=all", "prepo/weighting=none", "trainer.total_training_steps=2", "trainer.test_freq=-1"]


@pytest.fixture(scope="session")
def neutral_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """This recipe with the neutral rules."""
    directory = tmp_path_factory.mktemp("neutral")
    dump = f"trainer.rollout_data_dir={directory / 'rollouts'}"
    return launch(directory, [*SMALL, *NEUTRAL, dump, "trainer.save_freq=2"])


@pytest.fixture(scope="session")
def stock_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Stock verl (its own entry point and its own «sync» trainer) on the same configuration."""
    directory = tmp_path_factory.mktemp("stock")
    overrides = [
        *SMALL,
        *NEUTRAL,
        f"trainer.rollout_data_dir={directory / 'rollouts'}",
        "trainer.v1.trainer_mode=sync",
        "trainer.logger=[file]",
        "trainer.save_freq=2",
    ]
    environment = cpu_environment() | {
        "PREPO_ASSETS": str(ROOT / "assets"),
        "VERL_FILE_LOGGER_PATH": str(directory / "metrics.jsonl"),
    }
    module = f"verl.trainer.main_ppo --config-dir {ROOT / 'conf'} --config-name prepo"
    return launch(directory, overrides, module=module, extra_environment=environment)


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
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    config = compose_config(["experiment=tiny_cpu"]).transfer_queue
    config.enable = True
    tq.init(config)
    yield
    tq.close()
    ray.shutdown()
