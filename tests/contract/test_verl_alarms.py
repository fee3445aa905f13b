"""Library alarms: text of verl 0.9.1 that this recipe relies on or works around.

They cannot fail while verl is pinned. When they do, after an upgrade, the code that they name must be looked at.
"""

import ast
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import verl
from verl.trainer.ppo.v1 import (
    PPOTrainer,
    PPOTrainerColocateAsync,
    PPOTrainerSeparateAsync,
    agent_loop_tq,
    trainer_base,
    trainer_separate_async,
)
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.rollout.replica import RolloutReplica

from recipe.prepo.modes import PlainWorker
from recipe.prepo.trainer.replay_buffer import CPU_POLL_INTERVAL_S, GPU_POLL_INTERVAL_S

pytestmark = pytest.mark.alarm
VLLM_ROLLOUT = Path(verl.__file__).parent / "workers" / "rollout" / "vllm_rollout"
# Source, a text that it must still contain, and what relies on it.
TEXTS = [
    (PPOTrainerColocateAsync.on_step_end, "update_weights(self.global_steps)", "servers hold the last step's weights"),
    (PPOTrainerSeparateAsync.on_step_end, "update_weights(self.global_steps)", "servers hold the last step's weights"),
    (PPOTrainer._setup, "self._load_checkpoint()", "it comes before on_init_end"),
    (ReplayBufferAsync.wait_for_sampleable, "_wait_for_next_poll", "supervision polls there"),
    (transformer_impl, "use_fused_kernels does not support per sample temperature yet", "the check of fused kernels"),
    (PPOTrainer._compute_old_log_prob, "bypass_mode", "without it there are no entropies"),
    (RolloutReplica.__init__, "self.servers", "the watch calls them"),
    # Bugs that are worked around; without them the workaround can go.
    (PPOTrainer, '"temperature": self.config.actor_rollout_ref.rollout.temperature', "use_row_temperatures"),
    (PlainWorker._run_prompt, "_settle_session_tasks", "failed rollouts are only logged"),
    (agent_loop_tq._settle_session_tasks, "return_exceptions=True", "failed rollouts are only logged"),
    (ReplayBuffer, "time.sleep(self.poll_interval)", "the buffer polls too slowly"),
    (trainer_separate_async.PPOTrainerSeparateAsync._setup, "flush=True", "log_without_flush"),
]


def calls(node: ast.AST) -> list[str]:
    """Names of the functions that are called, in the order of the source."""
    found = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
    return [ast.unparse(each.func) for each in sorted(found, key=lambda each: (each.lineno, each.col_offset))]


def tree_of(function: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


@pytest.mark.parametrize(("owner", "text", "why"), TEXTS)
def test_text_is_still_there(owner: Any, text: str, why: str) -> None:
    assert text in inspect.getsource(owner), why


def test_mode_is_still_compared_with_a_literal() -> None:
    """Where none is left, ``verl_mode`` can go: verl then asks the class, not the name."""
    assert len(re.findall(r'self\.trainer_mode [!=]= "sync"', inspect.getsource(trainer_base))) == 6


def test_poll_interval_is_still_not_configurable() -> None:
    assert inspect.signature(ReplayBuffer).parameters["poll_interval"].default == 2.0 > GPU_POLL_INTERVAL_S
    assert "poll_interval" not in inspect.getsource(PPOTrainer._build_replay_buffer)
    assert CPU_POLL_INTERVAL_S < GPU_POLL_INTERVAL_S


def test_whatever_verl_discards_passes_through_one_method() -> None:
    """The other call removes the prompts' own keys of a batch that is returned."""
    assert len(re.findall(r"tq\.kv_clear\(", inspect.getsource(ReplayBuffer))) == 2


def test_a_step_is_logged_once_after_its_checkpoint_and_before_it_is_counted() -> None:
    (loop,) = (node for node in ast.walk(tree_of(PPOTrainer.fit)) if isinstance(node, ast.While))
    order = calls(loop)
    assert order.count("self.logger.log") == order.count("self._save_checkpoint") == order.count("self.step") == 1
    wanted = ["self.on_step_begin", "self.step", "self._save_checkpoint", "self.on_step_end", "tq.kv_clear"]
    positions = [order.index(name) for name in [*wanted, "self.logger.log"]]
    assert positions == sorted(positions)
    counted = next(node for node in ast.walk(loop) if isinstance(node, ast.AugAssign))
    logged = next(node for node in ast.walk(loop) if isinstance(node, ast.Call) and "logger.log" in ast.unparse(node))
    assert ast.unparse(counted) == "self.global_steps += 1" and logged.lineno < counted.lineno
    assert "self.global_steps <= self.total_training_steps" in ast.unparse(loop.test)


def test_weight_sockets_are_still_named_by_a_job_id_that_every_cluster_has() -> None:
    sender, server = (VLLM_ROLLOUT / f"{name}.py" for name in ("vllm_rollout", "vllm_async_server"))
    assert "job_id = ray.get_runtime_context().get_job_id()\n" in sender.read_text()
    assert 'self.zmq_handle = f"ipc:///tmp/rl-colocate-zmq-{job_id}-replica' in sender.read_text()
    assert 'os.environ["VERL_RAY_JOB_ID"] = ray.get_runtime_context().get_job_id()' in server.read_text()
