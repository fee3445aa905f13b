"""Library alarms: text of verl 0.9.1 that this recipe relies on or works around.

They cannot fail while verl is pinned. When they do, after an upgrade, the code that they name must be looked at.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import verl
from ray.experimental import internal_kv
from transfer_queue import interface
from verl.experimental.agent_loop import agent_loop
from verl.trainer.main_ppo import run_ppo
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
    (PPOTrainerSeparateAsync._setup, "self.standalone_server_manager: LLMServerManager", "its servers score prompts"),
    (PPOTrainerColocateAsync.on_step_end, "update_weights(self.global_steps)", "servers hold the last step's weights"),
    (PPOTrainerSeparateAsync.on_step_end, "update_weights(self.global_steps)", "servers hold the last step's weights"),
    (PPOTrainer.prepare_step, "self._add_batch_to_generate()", "the asynchronous hooks override it"),
    (PPOTrainer._add_async_warmup_batches, "self._add_prompts_to_generate(", "the asynchronous hooks override it"),
    (PPOTrainer._setup, "self._load_checkpoint()", "it comes before on_init_end"),
    (ReplayBufferAsync.wait_for_sampleable, "_wait_for_next_poll", "supervision polls there"),
    (transformer_impl, 'temperature = micro_batch["temperature"]', "rows may have their own temperature"),
    (transformer_impl, "if not isinstance(temperature, torch.Tensor):", "rows may have their own temperature"),
    (transformer_impl, "use_fused_kernels does not support per sample temperature yet", "the check of fused kernels"),
    (PPOTrainer, '"temperature": self.config.actor_rollout_ref.rollout.temperature', "use_row_temperatures"),
    (PlainWorker._run_prompt, "self._run_agent_loop(\n", "temperatures and seeds are set there"),
    (PlainWorker._run_prompt, "session_id=i, **prompt", "seeds read the session and the prompt's columns"),
    (PlainWorker._run_prompt, '"__rollout_n__"', "group sizes"),
    (agent_loop.AgentLoopManager._init_agent_loop_workers, "self.agent_loop_workers_class", "our worker class"),
    (agent_loop_tq.AgentLoopManagerTQ, "self.agent_loop_workers_class = AgentLoopWorkerTQ", "our worker class"),
    (PPOTrainer._compute_old_log_prob, "calculate_entropy", "weights come from its entropies"),
    (PPOTrainer._compute_old_log_prob, "bypass_mode", "without it there are no entropies"),
    (RolloutReplica.__init__, "self.servers", "the watch calls them"),
    # Bugs that are worked around; without them the workaround can go.
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


def test_trainer_has_the_attributes_that_the_hooks_use() -> None:
    source = inspect.getsource(trainer_base)
    for name in ("global_steps", "total_training_steps", "timing_raw", "train_dataset", "logger", "actor_rollout_wg"):
        assert re.search(rf"self\.{name}\b", source), name


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


def test_a_buffer_keeps_its_options_under_their_names() -> None:
    options = set(inspect.signature(ReplayBuffer).parameters)
    assert {name for name in options if f"self.{name} = {name}" in inspect.getsource(ReplayBuffer)} == options


def test_agent_loop_still_cuts_on_the_left() -> None:
    cut = inspect.getsource(agent_loop.AgentLoopBase._cap_text_prompt_length)
    assert re.search(r"prompt_ids\[-\s*\w*\.?\w*prompt_length\s*:\]", cut)


def test_advantages_follow_the_old_log_probs() -> None:
    step = inspect.getsource(PPOTrainer._step_once)
    assert step.index("_compute_old_log_prob(") < step.index("_compute_advantage(") < step.index("_update_actor(")


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


def test_run_ppo_makes_its_task_runner_after_ray_is_up() -> None:
    order = calls(tree_of(run_ppo))
    assert order.index("ray.init") < order.index("task_runner_class.remote")
    assert {"task_runner_class.remote", "task_runner_class.options"} <= set(order)


def test_ray_and_transfer_queue_have_the_internals_that_are_used() -> None:
    for name in ("_internal_kv_put", "_internal_kv_get", "_internal_kv_del"):
        assert callable(getattr(internal_kv, name))
    assert hasattr(interface, "_TQ_STORAGE")


def test_weight_sockets_are_still_named_by_a_job_id_that_every_cluster_has() -> None:
    sender, server = (VLLM_ROLLOUT / f"{name}.py" for name in ("vllm_rollout", "vllm_async_server"))
    assert "job_id = ray.get_runtime_context().get_job_id()\n" in sender.read_text()
    assert 'self.zmq_handle = f"ipc:///tmp/rl-colocate-zmq-{job_id}-replica' in sender.read_text()
    assert 'os.environ["VERL_RAY_JOB_ID"] = ray.get_runtime_context().get_job_id()' in server.read_text()
