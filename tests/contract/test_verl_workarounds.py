"""The workarounds for verl 0.9.1 do what they promise; ``test_verl_alarms.py`` says whether verl still needs them."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from verl.trainer.ppo.v1 import trainer_separate_async


def test_logging_refuses_flush_and_the_patched_logger_takes_it(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TypeError, match="flush"):
        logging.getLogger("stock").error("text", flush=True)
    with caplog.at_level(logging.INFO):
        trainer_separate_async.logger.info("served by %d replicas", 3, flush=True)
    assert "served by 3 replicas" in caplog.messages


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
