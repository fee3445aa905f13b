"""What this recipe overrides and calls in verl 0.9.1 has the signatures that it was written for."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from verl.trainer.ppo.v1 import (
    PPOTrainer,
    PPOTrainerColocateAsync,
    PPOTrainerSeparateAsync,
    PPOTrainerSync,
    get_trainer_cls,
)
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils import tensordict_utils
from verl.utils.debug import marked_timer
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder
from verl.utils.tracking import Tracking
from verl.workers.rollout.llm_server import LLMServerClient

from recipe.prepo.modes import (
    PlainWorker,
    PrepoAgentLoopManager,
    PrepoTrainerColocateAsync,
    PrepoTrainerSeparateAsync,
    PrepoTrainerSync,
    PrepoWorker,
)
from recipe.prepo.preflight import VERL_VERSION
from recipe.prepo.run.logs import RunLogs
from recipe.prepo.supervise.hung_rewards import SupervisedRollouts
from recipe.prepo.supervise.supervisor import Supervisor
from recipe.prepo.trainer.async_hooks import AsyncHooks
from recipe.prepo.trainer.hooks import PrepoHooks
from recipe.prepo.trainer.prompt_scoring import PromptTokenizer
from recipe.prepo.trainer.rollout import OwnSampling

MODEL = Path(__file__).parents[2] / "assets" / "mini-math-qwen2"
USER = [{"role": "user", "content": "1+1?"}]
CHATS = [
    USER,
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is ½ × 4?\n\n二"}],
    [{"role": "user", "content": "Ann has 3 apples and buys 4 more. " * 20}],
    [{"role": "user", "content": "<|im_start|>assistant <|endoftext|> "}],
    [*USER, {"role": "assistant", "content": "2"}, {"role": "user", "content": "and 3 more?"}],
]

# Mode of this recipe -> its class, its hooks, and the class of verl that it extends.
MODES = {
    "prepo_sync": (PrepoTrainerSync, [PrepoHooks], PPOTrainerSync),
    "prepo_colocate_async": (PrepoTrainerColocateAsync, [AsyncHooks, PrepoHooks], PPOTrainerColocateAsync),
    "prepo_separate_async": (PrepoTrainerSeparateAsync, [AsyncHooks, PrepoHooks], PPOTrainerSeparateAsync),
}
BATCH = ["global_steps", "partition_id"]
# What is overridden or called elsewhere -> its parameters besides self.
CALLED = [
    (PPOTrainer._shutdown_dump_executor, []),
    (PPOTrainer._rollout_server_managers, []),
    (PPOTrainer._resolve_filter_groups_metric, []),
    (ReplayBuffer._clear_groups, ["partition_id", "uids"]),
    (ReplayBuffer._sync_metadata_from_transfer_queue, []),
    (ReplayBuffer._wait_for_next_poll, ["partition_id", "last_debug_time"]),
    (ReplayBuffer._select_prompt_uids, ["partition_id", "sampleable_keys", "batch_size"]),
    (ReplayBuffer._evict_terminal_groups, [*BATCH, "eviction_reasons"]),
    (ReplayBuffer._terminal_eviction_reasons, BATCH),
    (ReplayBuffer._materialize_batch, ["partition_id", "selected_prompt_uids", "partition_snapshot"]),
    (PlainWorker._run_agent_loop, ["sampling_params", "trajectory", "agent_name", "trace", "kwargs"]),
    (PlainWorker._compute_score, ["outputs", "kwargs"]),
    (tensordict_utils.index_select_tensor_dict, ["batch", "indices"]),
    (tensordict_utils.list_of_dict_to_tensordict, ["list_of_dicts"]),
    # verl's task runner ends with ``tracking.finish(exit_code=…)``.
    (RunLogs.finish, ["exit_code"]),
    (Tracking.finish, ["exit_code"]),
]


def parameters(function: Any) -> list[str]:
    """Names without ``self`` and without the one that Ray adds to an actor's methods."""
    return [name for name in inspect.signature(function).parameters if name not in ("self", "_ray_trace_ctx")]


def test_version_is_the_one_that_the_hooks_were_written_for() -> None:
    assert version("verl") == VERL_VERSION


@pytest.mark.parametrize("hooks", [PrepoHooks, AsyncHooks])
def test_every_method_of_verl_that_is_overridden_has_its_parameters(hooks: type) -> None:
    own = {name for name, value in vars(hooks).items() if inspect.isfunction(value)}
    overridden = own & (set(dir(PPOTrainer)) - set(dir(object)) | {"__init__"})
    stock = {PrepoHooks: "_compute_advantage", AsyncHooks: "_add_prompts_to_generate"}[hooks]
    assert stock in overridden
    for name in overridden:
        assert parameters(getattr(hooks, name)) == parameters(getattr(PPOTrainer, name)), name


@pytest.mark.parametrize(("function", "expected"), CALLED)
def test_parameters_are_verls(function: Any, expected: list[str]) -> None:
    assert parameters(function) == expected


@pytest.mark.parametrize("mode", MODES)
def test_mode_is_registered_with_its_hooks_in_front_of_verls_class(mode: str) -> None:
    ours, hooks, stock = MODES[mode]
    assert get_trainer_cls(mode) is ours
    assert get_trainer_cls(ours.verl_mode) is stock
    assert ours.verl_mode == mode.removeprefix("prepo_")
    order = [each for each in ours.__mro__ if each is not PPOTrainer.__mro__[1]]
    assert order[1 : order.index(stock)] == hooks
    assert ours.supervisor_class is Supervisor


@pytest.mark.parametrize(
    "module", ["trainer.hooks", "trainer.replay_buffer", "trainer.rollout", "supervise.hung_rewards", "modes"]
)
def test_rooms_may_be_imported_before_verl(module: str) -> None:
    """Their import of verl registers the trainers, which import them."""
    command = [sys.executable, "-W", "ignore", "-c", f"import recipe.prepo.{module}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_calls_into_verl_bind() -> None:
    assert parameters(ReplayBuffer.sample)[-3:] == [*BATCH, "batch_size"]
    assert PrepoWorker.__mro__[1:4] == (SupervisedRollouts, OwnSampling, PlainWorker)
    assert issubclass(PrepoAgentLoopManager, AgentLoopManagerTQ)
    inspect.signature(LLMServerClient.generate).bind(None, request_id="x", prompt_ids=[1], sampling_params={})
    assert inspect.iscoroutinefunction(LLMServerClient.generate)
    inspect.signature(create_continuous_token_builder).bind(None, hf_model_type="qwen2", chat_template_kwargs={})
    inspect.signature(marked_timer).bind("prompt_scoring", {})
    inspect.signature(tensordict_utils.assign_non_tensor_stack).bind({}, "key", [1])


@pytest.mark.parametrize("limit", [1, 16, 4096])
def test_scored_tokens_are_those_of_the_rollout(limit: int) -> None:
    """The agent loop builds the tokens with verl's builder and keeps the last ``rollout.prompt_length`` of them."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    ours = PromptTokenizer(tokenizer, model_type="qwen2", chat_template_kwargs={}, max_prompt_tokens=limit)
    builder = create_continuous_token_builder(tokenizer, hf_model_type="qwen2", chat_template_kwargs={})
    for chat in CHATS:
        whole = list(builder.build_initial_tokens(chat))
        assert ours(chat) == whole[-limit:]
        assert whole == list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False))
