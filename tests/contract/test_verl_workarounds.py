"""What is mended in verl 0.9.1 on every platform is still broken there; when a test fails, its mend can go."""

from __future__ import annotations

import inspect
import logging

import pytest
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
