"""What this recipe overrides, calls or mends in verl 0.9.1 is there, and says when a mend can go."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer
from verl.experimental.agent_loop import agent_loop
from verl.trainer.ppo.v1 import (
    PPOTrainer,
    PPOTrainerColocateAsync,
    PPOTrainerSeparateAsync,
    PPOTrainerSync,
    get_trainer_cls,
    trainer_base,
)
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync
from verl.utils import tensordict_utils
from verl.utils.debug import marked_timer
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.rollout.llm_server import LLMServerClient

from recipe.prepo.modes import PrepoTrainerColocateAsync, PrepoTrainerSeparateAsync, PrepoTrainerSync
from recipe.prepo.preflight import VERL_VERSION
from recipe.prepo.trainer.async_hooks import BackgroundDispatchMixin
from recipe.prepo.trainer.hooks import PrepoMixin
from recipe.prepo.trainer.replay import build_replay_buffer
from recipe.prepo.trainer.rollout import PrepoAgentLoopManager, PrepoAgentLoopWorker
from recipe.prepo.trainer.run_files import RunFilesMixin
from recipe.prepo.trainer.scoring import PromptTokenizer
from recipe.prepo.trainer.setup import CPU_POLL_INTERVAL_S, GPU_POLL_INTERVAL_S, SetupMixin

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
TRAINER_HOOKS = {
    "__init__": ["config"],
    "_build_replay_buffer": [],
    "_init_dataloader": [],
    "_next_train_batch": ["num_prompts"],
    "_submit_batch_to_rollout": ["batch"],
    "_compute_advantage": ["batch", "metrics"],
    "_save_checkpoint": [],
    "_load_checkpoint": [],
}
BACKGROUND_HOOKS = {
    "__init__": ["config"],
    "_add_batch_to_generate": [],
    "_add_prompts_to_generate": ["num_prompts"],
    "_compute_advantage": ["batch", "metrics"],
}
MIXINS = (SetupMixin, RunFilesMixin, PrepoMixin)
# Mode of this recipe -> its class and the one of verl that it extends.
MODES = {
    "prepo_sync": (PrepoTrainerSync, PPOTrainerSync),
    "prepo_colocate_async": (PrepoTrainerColocateAsync, PPOTrainerColocateAsync),
    "prepo_separate_async": (PrepoTrainerSeparateAsync, PPOTrainerSeparateAsync),
}


def parameters(function: Any) -> list[str]:
    """Names without ``self`` and without the one that Ray adds to an actor's methods."""
    return [name for name in inspect.signature(function).parameters if name not in ("self", "_ray_trace_ctx")]


def plain_worker() -> Any:
    return vars(AgentLoopWorkerTQ)["__ray_metadata__"].modified_class


def test_version_is_the_one_that_the_hooks_were_written_for() -> None:
    assert version("verl") == VERL_VERSION


@pytest.mark.parametrize("name", TRAINER_HOOKS | BACKGROUND_HOOKS)
def test_trainer_hook_is_as_expected(name: str) -> None:
    assert parameters(getattr(PPOTrainer, name)) == (TRAINER_HOOKS | BACKGROUND_HOOKS)[name]


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_verl_override_no_hook(mode: str) -> None:
    """The mixins' super() calls would meet another method first."""
    stock = MODES[mode][1]
    assert set(vars(stock)) & set(TRAINER_HOOKS | BACKGROUND_HOOKS) - {"__init__"} == set()


def hooks_of(*mixins: type) -> set[str]:
    own = {name for mixin in mixins for name, value in vars(mixin).items() if inspect.isfunction(value)}
    assert not own & {"fit", "step", "_step_once"}
    return own & (set(dir(PPOTrainer)) - set(dir(object)) | {"__init__"})


def test_every_method_that_the_mixins_override_is_a_checked_hook() -> None:
    assert hooks_of(*MIXINS) == set(TRAINER_HOOKS)
    assert hooks_of(BackgroundDispatchMixin) == set(BACKGROUND_HOOKS)


@pytest.mark.parametrize("name", TRAINER_HOOKS | BACKGROUND_HOOKS)
def test_override_takes_what_verl_gives(name: str) -> None:
    for mixin in (*MIXINS, BackgroundDispatchMixin):
        if name in vars(mixin):
            assert parameters(getattr(mixin, name)) == (TRAINER_HOOKS | BACKGROUND_HOOKS)[name]


@pytest.mark.parametrize("mode", MODES)
def test_trainer_is_registered_when_verl_is_imported(mode: str) -> None:
    ours, stock = MODES[mode]
    assert get_trainer_cls(mode) is ours
    assert ours.verl_mode == mode.removeprefix("prepo_")
    assert get_trainer_cls(ours.verl_mode) is stock
    order = ours.__mro__
    assert order.index(PrepoMixin) < order.index(stock) < order.index(PPOTrainer)


def test_what_the_asynchronous_modes_call_is_there() -> None:
    assert "self.standalone_server_manager: LLMServerManager" in inspect.getsource(PPOTrainerSeparateAsync._setup)
    assert parameters(PPOTrainerColocateAsync.on_sample_end) == []
    # Weights are pushed at the end of a step, so the servers hold those of the step before.
    for stock in (PPOTrainerColocateAsync, PPOTrainerSeparateAsync):
        assert "update_weights(self.global_steps)" in inspect.getsource(stock.on_step_end)
    assert "self._add_batch_to_generate()" in inspect.getsource(PPOTrainer.prepare_step)
    assert "self._add_prompts_to_generate(" in inspect.getsource(PPOTrainer._add_async_warmup_batches)
    assert parameters(ReplayBuffer._wait_for_next_poll) == ["partition_id", "last_debug_time"]
    assert "_wait_for_next_poll" in inspect.getsource(ReplayBufferAsync.wait_for_sampleable)


@pytest.mark.parametrize("module", ["trainer.hooks", "trainer.replay", "trainer.async_hooks"])
def test_adapters_may_be_imported_before_verl(module: str) -> None:
    """Their import of verl registers the trainers, which import them."""
    command = [sys.executable, "-W", "ignore", "-c", f"import recipe.prepo.{module}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_trainer_reads_the_attributes_that_the_mixin_uses() -> None:
    source = inspect.getsource(trainer_base)
    for name in ("global_steps", "total_training_steps", "timing_raw", "train_dataset", "tokenizer", "logger"):
        assert re.search(rf"self\.{name}\b", source), name
    assert "actor_rollout_wg" in source


def test_mode_is_still_compared_with_a_literal() -> None:
    """When none is left, PrepoMixin.verl_mode can go: verl then asks the class, not the name."""
    compared = re.findall(r'self\.trainer_mode [!=]= "sync"', inspect.getsource(trainer_base))
    assert len(compared) == 6
    assert PrepoTrainerSync.verl_mode == "sync"


def test_replay_buffer_still_polls_too_slowly() -> None:
    """When verl reads the interval from the configuration, or waits for an event, the mend can go."""
    assert inspect.signature(ReplayBuffer).parameters["poll_interval"].default == 2.0
    assert "time.sleep(self.poll_interval)" in inspect.getsource(ReplayBuffer)
    assert "poll_interval" not in inspect.getsource(PPOTrainer._build_replay_buffer)
    assert CPU_POLL_INTERVAL_S < GPU_POLL_INTERVAL_S < 2.0


def test_replay_buffer_hooks_are_as_expected() -> None:
    assert parameters(ReplayBuffer._clear_groups) == ["partition_id", "uids"]
    assert parameters(ReplayBuffer._sync_metadata_from_transfer_queue) == []
    assert parameters(ReplayBuffer._select_prompt_uids) == ["partition_id", "sampleable_keys", "batch_size"]
    assert parameters(ReplayBuffer._evict_terminal_groups) == ["global_steps", "partition_id", "eviction_reasons"]
    assert parameters(ReplayBuffer._terminal_eviction_reasons) == ["global_steps", "partition_id"]
    assert parameters(ReplayBuffer._materialize_batch) == ["partition_id", "selected_prompt_uids", "partition_snapshot"]
    assert parameters(ReplayBuffer.sample)[-3:] == ["global_steps", "partition_id", "batch_size"]
    # Whatever verl throws away goes through the one method that keeps the account.
    cleared = re.findall(r"tq\.kv_clear\(", inspect.getsource(ReplayBuffer))
    assert len(cleared) == 2  # there, and for the prompts' own keys of a batch that is handed out


def test_buffer_is_made_with_every_option_of_verls_own() -> None:
    """When verl adds an option, ``build_replay_buffer`` must hand it on."""
    options = set(inspect.signature(ReplayBuffer).parameters)
    source = inspect.getsource(build_replay_buffer)
    assert {name for name in options if f'"{name}"' in source} == options
    made = inspect.getsource(PPOTrainer._build_replay_buffer)
    assert {name for name in options - {"poll_interval"} if re.search(rf"\b{name}=", made)} == options - {
        "poll_interval"
    }


def test_engine_takes_a_temperature_for_each_row() -> None:
    """Why a column may stand in the place of verl's one temperature, and why fused kernels are refused with it."""
    source = inspect.getsource(transformer_impl)
    assert 'temperature = micro_batch["temperature"]' in source
    assert "if not isinstance(temperature, torch.Tensor):" in source
    assert "use_fused_kernels does not support per sample temperature yet" in source
    assert '"temperature": self.config.actor_rollout_ref.rollout.temperature' in inspect.getsource(PPOTrainer)


def test_agent_loop_hook_is_as_expected() -> None:
    assert parameters(plain_worker()._run_agent_loop) == [
        "sampling_params",
        "trajectory",
        "agent_name",
        "trace",
        "kwargs",
    ]
    assert "self._run_agent_loop(\n" in inspect.getsource(plain_worker()._run_prompt)
    assert "session_id=i, **prompt" in inspect.getsource(plain_worker()._run_prompt)
    assert '"__rollout_n__"' in inspect.getsource(plain_worker()._run_prompt)
    assert issubclass(PrepoAgentLoopWorker, plain_worker())


def test_agent_loop_manager_lets_the_worker_class_be_replaced() -> None:
    assert "self.agent_loop_workers_class" in inspect.getsource(agent_loop.AgentLoopManager._init_agent_loop_workers)
    assert "self.agent_loop_workers_class = AgentLoopWorkerTQ" in inspect.getsource(AgentLoopManagerTQ.__init__)
    assert issubclass(PrepoAgentLoopManager, AgentLoopManagerTQ)


def test_calls_into_verl_are_as_expected() -> None:
    generate = inspect.signature(LLMServerClient.generate)
    generate.bind(None, request_id="x", prompt_ids=[1], sampling_params={})
    assert inspect.iscoroutinefunction(LLMServerClient.generate)
    builder = inspect.signature(create_continuous_token_builder)
    builder.bind(None, hf_model_type="qwen2", chat_template_kwargs={})
    inspect.signature(marked_timer).bind("prompt_scoring", {})
    assert parameters(tensordict_utils.index_select_tensor_dict) == ["batch", "indices"]
    assert parameters(tensordict_utils.list_of_dict_to_tensordict) == ["list_of_dicts"]
    inspect.signature(tensordict_utils.assign_non_tensor_stack).bind({}, "key", [1])


def test_entropies_come_from_the_old_log_prob_pass() -> None:
    source = inspect.getsource(PPOTrainer._compute_old_log_prob)
    assert "calculate_entropy" in source
    assert "bypass_mode" in source
    step = inspect.getsource(PPOTrainer._step_once)
    assert step.index("_compute_old_log_prob(") < step.index("_compute_advantage(") < step.index("_update_actor(")


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
    template = tokenizer.apply_chat_template(CHATS[name], add_generation_prompt=True, return_dict=False)
    assert whole == list(template)


def test_agent_loop_still_cuts_on_the_left() -> None:
    cut = inspect.getsource(agent_loop.AgentLoopBase._cap_text_prompt_length)
    assert re.search(r"prompt_ids\[-\s*\w*\.?\w*prompt_length\s*:\]", cut)
