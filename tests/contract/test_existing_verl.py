"""The configuration is verl's: only the keys of docs/existing_verl.md differ, and no experiment invents a key."""

import functools
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from composed import names_in
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from recipe.prepo.doctor import compose_config
from recipe.prepo.errors import ConfigError
from recipe.prepo.preflight import set_paths

PAGE = Path(__file__).parents[2] / "docs/existing_verl.md"
# GRPO on GSM8K with LoRA, a KL loss, a reward of one's own and tools, after scripts in verl's examples.
SCRIPT = """
algorithm.adv_estimator=grpo algorithm.use_kl_in_reward=False
data.train_files=/data/gsm8k/train.parquet data.val_files=/data/gsm8k/test.parquet data.train_batch_size=256
data.max_prompt_length=1024 data.max_response_length=1024 data.filter_overlong_prompts=True data.truncation=error
actor_rollout_ref.model.path=Qwen/Qwen2.5-3B-Instruct actor_rollout_ref.model.use_remove_padding=True
actor_rollout_ref.model.lora_rank=64 actor_rollout_ref.actor.optim.lr=3e-6
actor_rollout_ref.actor.ppo_mini_batch_size=64
actor_rollout_ref.actor.use_kl_loss=True actor_rollout_ref.actor.kl_loss_type=low_var_kl
actor_rollout_ref.actor.entropy_coeff=0 actor_rollout_ref.actor.fsdp_config.param_offload=True
actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.n=5 actor_rollout_ref.rollout.load_format=safetensors
actor_rollout_ref.rollout.layered_summon=True actor_rollout_ref.rollout.tensor_model_parallel_size=2
actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent actor_rollout_ref.rollout.multi_turn.enable=True
actor_rollout_ref.rollout.multi_turn.tool_config_path=tools.yaml actor_rollout_ref.ref.fsdp_config.param_offload=True
reward.custom_reward_function.path=reward.py reward.custom_reward_function.name=score
trainer.critic_warmup=0 trainer.logger=[console] trainer.project_name=mine trainer.experiment_name=gsm8k_lora
trainer.n_gpus_per_node=8 trainer.nnodes=1 trainer.save_freq=20 trainer.test_freq=5 trainer.total_epochs=15
""".split()  # noqa: SIM905
# Read by verl 0.9.1, Ray or transformers, but not among verl's yaml defaults.
KNOWN_BEYOND_THE_DEFAULTS = (
    "prepo.",
    "actor_rollout_ref.rollout.agent.agent_loop_manager_class",
    "actor_rollout_ref.rollout.enable_sleep_mode",
    "actor_rollout_ref.model.override_config.attn_implementation",
    "actor_rollout_ref.actor.fsdp_config.mixed_precision.",
    "ray_kwargs.ray_init.",
    "transfer_queue.backend.SimpleStorage.",
)
MINIMAL = ["actor_rollout_ref.rollout.name=vllm"]


def leaves(node: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(node, dict) or not node:
        return {path: node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= leaves(value, f"{path}.{key}" if path else str(key))
    return found


@functools.cache
def stock(*overrides: str) -> dict[str, Any]:
    set_paths()
    with initialize_config_dir(os.environ["PREPO_VERL_CONFIG"].removeprefix("file://"), version_base=None):
        return leaves(OmegaConf.to_container(compose("ppo_trainer", overrides=list(overrides)), resolve=True))


def table() -> dict[str, tuple[Any, Any]]:
    """Key -> value with verl, value here, as the page says."""
    rows = re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \| `([^`]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {key: (yaml.safe_load(before), yaml.safe_load(after)) for key, before, after in rows}


@pytest.mark.parametrize("overrides", [SCRIPT, MINIMAL], ids=["script", "defaults"])
def test_only_the_documented_keys_differ_from_verls(overrides: list[str]) -> None:
    before = stock(*overrides)
    after = leaves(OmegaConf.to_container(compose_config([*overrides, "method=mopps"]), resolve=True))
    own = {key for key in after if key.startswith("prepo.")}
    differ = {key for key in (set(before) | set(after)) - own if before.get(key) != after.get(key)}
    assert {key: (before.get(key), after.get(key)) for key in differ} == table()


@pytest.mark.parametrize("experiment", names_in("experiment"))
def test_no_experiment_invents_a_key(experiment: str) -> None:
    """A typo in a yaml would add a key that nothing reads."""
    known = set(stock())
    known |= {key.rsplit(".", 1)[0] for key in known}  # a key whose default is null or empty may hold a section
    mine = leaves(OmegaConf.to_container(compose_config([f"experiment={experiment}"]), resolve=False))
    assert [key for key in mine if key not in known and not key.startswith(KNOWN_BEYOND_THE_DEFAULTS)] == []


def test_a_yaml_of_ones_own_needs_two_more_lines(tmp_path: Path) -> None:
    text = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    (tmp_path / "mine.yaml").write_text(f"{text}\ndata:\n  train_batch_size: 24\n", encoding="utf-8")
    arguments = ["--config-path", str(tmp_path), "--config-name", "mine", "method=mopps"]
    config = compose_config(arguments)
    assert (config.data.train_batch_size, config.prepo.selection.name) == (24, "mopps")
    (tmp_path / "mine.yaml").write_text(text.replace("- prepo_trainer", "- ppo_trainer"), encoding="utf-8")
    with pytest.raises(ConfigError, match="prepo_trainer in place of ppo_trainer"):
        compose_config(arguments)
    with pytest.raises(ConfigError, match="Use --config-path=/"):
        compose_config(["--config-path=conf", "--config-name=mine"])
