"""The workarounds for verl and vLLM do what they promise; ``test_verl_alarms.py`` says which ones verl still needs."""

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


def test_names_of_shared_memory_and_semaphores_are_dropped_and_both_keep_working() -> None:
    code = """if True:
        import multiprocessing, os
        from multiprocessing.shared_memory import SharedMemory
        from pathlib import Path
        from recipe.prepo.cpu.workarounds import drop_segment_names
        lock, memory = multiprocessing.get_context("spawn").Lock(), SharedMemory(create=True, size=8)
        names = [Path("/dev/shm", name) for name in (f"sem.{lock._semlock.name[1:]}", memory.name)]
        before = [name.exists() for name in names]
        drop_segment_names([os.getpid()])
        print(before, [name.exists() for name in names], lock.acquire(), memory.buf[0], flush=True)
        os._exit(0)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[True, True] [False, False] True 0\n", done.stderr
