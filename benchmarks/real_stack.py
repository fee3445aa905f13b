"""Runs of the real stack for the benchmarks, on the CPU platform unless overrides say otherwise."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from recipe.prepo.doctor import compose_config
from recipe.prepo.main import choose_platform, choose_ray
from recipe.prepo.supervise.cleanup import Sweeper, ray_roots

ROOT = Path(__file__).resolve().parents[1]
# verl's interval of 2 s would hide every cost below it. Both sides of a comparison use this one.
POLL_INTERVAL_S = 0.05


def run_on_stack(overrides: list[str], body: Callable[[Any, Any], Any]) -> Any:
    """Start Ray, the actor and the rollout servers, call ``body(trainer, agent_loop_manager)``, and stop them all.

    Args:
        overrides: Hydra overrides, including an experiment.
        body: runs inside the task runner, where the trainer lives; its result must be JSON-able.
    """
    config = compose_config(overrides)
    with open_dict(config):
        choose_ray(config)
        choose_platform(config)

    import ray
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo

    plain_runner: Any = vars(TaskRunnerV1)["__ray_metadata__"].modified_class

    class BenchRunner(plain_runner):  # type: ignore[misc]
        """verl's task runner with ``body`` in place of ``fit``."""

        def run(self, config: DictConfig) -> None:
            import transfer_queue as tq
            from verl.trainer.ppo.v1 import get_trainer_cls

            config.transfer_queue.enable = True
            OmegaConf.resolve(config)
            self.config = config
            tq.init(config.transfer_queue)
            try:
                trainer_class = get_trainer_cls(config.trainer.v1.trainer_mode)
                self.trainer = trainer_class(config=config)
                self.trainer.replay_buffer.poll_interval = POLL_INTERVAL_S
                self.trainer.init()
                self.init_agent_loop_manager()
                ray.get(result_box.put.remote(body(self.trainer, self.agent_loop_manager)))
            finally:
                tq.close()

    @ray.remote(num_cpus=0)
    class ResultBox:
        def __init__(self) -> None:
            self.value: Any = None

        def put(self, value: Any) -> None:
            self.value = value

        def get(self) -> Any:
            return self.value

    with Sweeper(ray_roots()):
        try:
            ray.init(**OmegaConf.to_container(_ray_init(config)))  # type: ignore[arg-type]
            result_box = ResultBox.remote()
            run_ppo(config, task_runner_class=ray.remote(BenchRunner))
            return ray.get(result_box.get.remote())
        finally:
            ray.shutdown()


def train(overrides: Sequence[str], log: Path) -> None:
    """One training as a user starts it, in its own driver, which prints into ``log``.

    Raises:
        RuntimeError: it failed; the message names the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as file:
        command = [sys.executable, "-m", "recipe.prepo.main", *overrides]
        status = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        raise RuntimeError(f"a training ended with exit status {status}; see {log}")


def _ray_init(config: DictConfig) -> DictConfig:
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    own = config.ray_kwargs.ray_init
    default = get_ppo_ray_runtime_env(config)
    default["env_vars"]["TRANSFER_QUEUE_ENABLE"] = "1"
    return OmegaConf.create({**own, "runtime_env": OmegaConf.merge(default, own.get("runtime_env") or {})})


def seconds(call: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
