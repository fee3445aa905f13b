"""What is mended in verl 0.9.1 on every platform is still broken there; when a test fails, its mend can go."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import verl
from verl.trainer.ppo.v1 import trainer_separate_async


def test_separate_mode_still_logs_with_flush() -> None:
    source = inspect.getsource(trainer_separate_async.PPOTrainerSeparateAsync._setup)
    assert "flush=True" in source


def test_logging_refuses_flush_and_the_mended_logger_takes_it(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TypeError, match="flush"):
        logging.getLogger("stock").error("words", flush=True)
    with caplog.at_level(logging.INFO):
        trainer_separate_async.logger.info("served by %d replicas", 3, flush=True)
    assert "served by 3 replicas" in caplog.messages


def test_weight_sockets_are_still_named_by_a_job_id_that_every_cluster_has() -> None:
    folder = Path(verl.__file__).parent / "workers" / "rollout" / "vllm_rollout"
    sender, server = (folder / "vllm_rollout.py").read_text(), (folder / "vllm_async_server.py").read_text()
    assert "job_id = ray.get_runtime_context().get_job_id()\n" in sender
    assert 'self.zmq_handle = f"ipc:///tmp/rl-colocate-zmq-{job_id}-replica' in sender
    assert 'os.environ["VERL_RAY_JOB_ID"] = ray.get_runtime_context().get_job_id()' in server


@pytest.mark.parametrize(("run_id", "socket"), [("", "zmq-01000000"), ("a1b2", "zmq-a1b2-01000000")])
def test_receivers_socket_is_named_by_the_run(run_id: str, socket: str) -> None:
    code = """if True:
        import os
        from types import SimpleNamespace
        from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension as Receiver
        receiver = Receiver.__new__(Receiver)
        receiver.model_runner, receiver.local_rank = SimpleNamespace(), 0
        print(receiver._get_zmq_handle())"""
    environment = {"PREPO_RUN_ID": run_id, "VERL_PLATFORM": "cpu", "VERL_RAY_JOB_ID": "01000000", "PATH": "/usr/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == [f"ipc:///tmp/rl-colocate-{socket}-replica-0-rank-0.sock"], done.stderr
