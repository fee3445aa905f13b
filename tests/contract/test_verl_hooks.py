"""What this recipe overrides and calls in verl 0.9.1 has the signatures that it was written for."""

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
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder
from verl.utils.tracking import Tracking

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


@pytest.mark.parametrize("mode", MODES)
def test_mode_is_registered_with_its_hooks_in_front_of_verls_class(mode: str) -> None:
    ours, hooks, stock = MODES[mode]
    assert get_trainer_cls(mode) is ours
    assert get_trainer_cls(ours.verl_mode) is stock
    assert ours.verl_mode == mode.removeprefix("prepo_")
    order = [each for each in ours.__mro__ if each is not PPOTrainer.__mro__[1]]
    assert order[1 : order.index(stock)] == hooks
    assert ours.supervisor_class is Supervisor


def test_rooms_may_be_imported_before_verl() -> None:
    """Their import of verl registers the trainers, which import them."""
    code = "import os, sys, torch, transformers, ray\nfor name in sys.argv[1:]:\n    if os.fork() == 0:\n"
    code += "        __import__(f'recipe.prepo.{name}'); os._exit(0)\n    assert os.wait()[1] == 0, name\n"
    rooms = ["trainer.hooks", "trainer.replay_buffer", "trainer.rollout", "supervise.hung_rewards", "modes"]
    command = [sys.executable, "-W", "ignore", "-c", code, *rooms]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_workers_and_trackers_are_verls() -> None:
    assert PrepoWorker.__mro__[1:4] == (SupervisedRollouts, OwnSampling, PlainWorker)
    assert issubclass(PrepoAgentLoopManager, AgentLoopManagerTQ)
    # verl's task runner ends with ``tracking.finish(exit_code=…)``.
    assert parameters(RunLogs.finish) == parameters(Tracking.finish) == ["exit_code"]


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
