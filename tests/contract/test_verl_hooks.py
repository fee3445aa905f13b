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
CHATS = {
    "short": [{"role": "user", "content": "1+1?"}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is ½ × 4?\n\n二"}],
    "long": [{"role": "user", "content": "Ann has 3 apples and buys 4 more. " * 20}],
    "special": [{"role": "user", "content": "<|im_start|>assistant <|endoftext|> "}],
    "turns": [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "and 3 more?"},
    ],
}

# Hook of verl -> its parameters besides self.
SYNC_HOOKS = {
    "__init__": ["config"],
    "_build_replay_buffer": [],
    "_init_dataloader": [],
    "_load_checkpoint": [],
    "on_init_end": [],
    "fit": ["agent_loop_manager"],
    "on_step_begin": [],
    "_next_train_batch": ["num_prompts"],
    "_submit_batch_to_rollout": ["batch"],
    "_compute_advantage": ["batch", "metrics"],
    "_dump_generations": ["inputs", "outputs", "gts", "scores", "reward_extra_infos_dict", "dump_path"],
    "_val_metrics_update": [
        "data_sources",
        "sample_uids",
        "reward_extra_infos_dict",
        "sample_turns",
        "expected_acc_counts",
    ],
    "_save_checkpoint": [],
}
ASYNC_HOOKS = {"__init__": ["config"], "_add_batch_to_generate": [], "_add_prompts_to_generate": ["num_prompts"]}
CALLED = {"_shutdown_dump_executor": [], "_rollout_server_managers": [], "_resolve_filter_groups_metric": []}
# Mode of this recipe -> its class, its hooks, and the class of verl that it extends.
MODES = {
    "prepo_sync": (PrepoTrainerSync, PrepoHooks, PPOTrainerSync),
    "prepo_colocate_async": (PrepoTrainerColocateAsync, AsyncHooks, PPOTrainerColocateAsync),
    "prepo_separate_async": (PrepoTrainerSeparateAsync, AsyncHooks, PPOTrainerSeparateAsync),
}


def parameters(function: Any) -> list[str]:
    """Names without ``self`` and without the one that Ray adds to an actor's methods."""
    return [name for name in inspect.signature(function).parameters if name not in ("self", "_ray_trace_ctx")]


def test_version_is_the_one_that_the_hooks_were_written_for() -> None:
    assert version("verl") == VERL_VERSION


@pytest.mark.parametrize(("name", "expected"), (SYNC_HOOKS | ASYNC_HOOKS | CALLED).items())
def test_hook_is_verls(name: str, expected: list[str]) -> None:
    for owner in (PPOTrainer, PrepoHooks, AsyncHooks):
        if name in vars(owner):
            assert parameters(getattr(owner, name)) == expected, owner


@pytest.mark.parametrize(("mixin", "hooks"), [(PrepoHooks, SYNC_HOOKS), (AsyncHooks, ASYNC_HOOKS)])
def test_every_method_of_verl_that_is_overridden_is_listed_above(mixin: type, hooks: dict[str, list[str]]) -> None:
    own = {name for name, value in vars(mixin).items() if inspect.isfunction(value)}
    assert own & (set(dir(PPOTrainer)) - set(dir(object)) | {"__init__"}) == set(hooks)


@pytest.mark.parametrize("mode", MODES)
def test_mode_is_registered_with_its_hooks_in_front_of_verls_class(mode: str) -> None:
    ours, hooks, stock = MODES[mode]
    assert get_trainer_cls(mode) is ours
    assert get_trainer_cls(ours.verl_mode) is stock
    assert ours.verl_mode == mode.removeprefix("prepo_")
    order = [each for each in ours.__mro__ if each is not PPOTrainer.__mro__[1]]
    assert order[1 : order.index(stock)] == ([AsyncHooks, PrepoHooks] if hooks is AsyncHooks else [PrepoHooks])
    assert ours.supervisor_class is Supervisor


@pytest.mark.parametrize(
    "module", ["trainer.hooks", "trainer.replay_buffer", "trainer.rollout", "supervise.hung_rewards", "modes"]
)
def test_rooms_may_be_imported_before_verl(module: str) -> None:
    """Their import of verl registers the trainers, which import them."""
    command = [sys.executable, "-W", "ignore", "-c", f"import recipe.prepo.{module}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_replay_buffer_hooks_are_verls() -> None:
    assert parameters(ReplayBuffer._clear_groups) == ["partition_id", "uids"]
    assert parameters(ReplayBuffer._sync_metadata_from_transfer_queue) == []
    assert parameters(ReplayBuffer._wait_for_next_poll) == ["partition_id", "last_debug_time"]
    assert parameters(ReplayBuffer._select_prompt_uids) == ["partition_id", "sampleable_keys", "batch_size"]
    assert parameters(ReplayBuffer._evict_terminal_groups) == ["global_steps", "partition_id", "eviction_reasons"]
    assert parameters(ReplayBuffer._terminal_eviction_reasons) == ["global_steps", "partition_id"]
    assert parameters(ReplayBuffer._materialize_batch) == ["partition_id", "selected_prompt_uids", "partition_snapshot"]
    assert parameters(ReplayBuffer.sample)[-3:] == ["global_steps", "partition_id", "batch_size"]


def test_agent_loop_hooks_are_verls() -> None:
    expected = ["sampling_params", "trajectory", "agent_name", "trace", "kwargs"]
    assert parameters(PlainWorker._run_agent_loop) == expected
    assert parameters(PlainWorker._compute_score) == ["outputs", "kwargs"]
    assert PrepoWorker.__mro__[1:4] == (SupervisedRollouts, OwnSampling, PlainWorker)
    assert issubclass(PrepoAgentLoopManager, AgentLoopManagerTQ)


def test_calls_into_verl_bind() -> None:
    inspect.signature(LLMServerClient.generate).bind(None, request_id="x", prompt_ids=[1], sampling_params={})
    assert inspect.iscoroutinefunction(LLMServerClient.generate)
    inspect.signature(create_continuous_token_builder).bind(None, hf_model_type="qwen2", chat_template_kwargs={})
    inspect.signature(marked_timer).bind("prompt_scoring", {})
    assert parameters(tensordict_utils.index_select_tensor_dict) == ["batch", "indices"]
    assert parameters(tensordict_utils.list_of_dict_to_tensordict) == ["list_of_dicts"]
    inspect.signature(tensordict_utils.assign_non_tensor_stack).bind({}, "key", [1])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL)


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("limit", [1, 16, 128, 4096])
def test_scored_tokens_are_those_of_the_rollout(name: str, limit: int, tokenizer: Any) -> None:
    """The agent loop builds the tokens with verl's builder and keeps the last ``rollout.prompt_length`` of them."""
    ours = PromptTokenizer(tokenizer, model_type="qwen2", chat_template_kwargs={}, max_prompt_tokens=limit)
    builder = create_continuous_token_builder(tokenizer, hf_model_type="qwen2", chat_template_kwargs={})
    whole = list(builder.build_initial_tokens(CHATS[name]))
    assert ours(CHATS[name]) == whole[-limit:]
    assert len(ours(CHATS[name])) == min(limit, len(whole))
    assert whole == list(tokenizer.apply_chat_template(CHATS[name], add_generation_prompt=True, return_dict=False))


def test_the_run_log_takes_the_calls_that_verl_makes_of_its_tracker() -> None:
    """verl's task runner ends with ``tracking.finish(exit_code=…)``."""
    assert parameters(RunLogs.finish) == parameters(Tracking.finish) == ["exit_code"]
