"""Every key that an experiment sets is known to verl; a typo in a yaml would add a key that nothing reads."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from composed import names_in
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from recipe.prepo.doctor import compose_config
from recipe.prepo.preflight import set_paths

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


def paths(node: object, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from paths(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix


def container(config: DictConfig) -> object:
    return OmegaConf.to_container(config, resolve=False)


@pytest.fixture(scope="module")
def stock_keys() -> set[str]:
    set_paths()
    folder = os.environ["PREPO_VERL_CONFIG"].removeprefix("file://")
    with initialize_config_dir(folder, version_base=None):
        keys = set(paths(container(compose("ppo_trainer"))))
    # A key whose default is null or empty may hold a section.
    return keys | {key.rsplit(".", 1)[0] for key in keys}


@pytest.mark.parametrize("experiment", names_in("experiment"))
def test_no_experiment_invents_a_key(stock_keys: set[str], experiment: str) -> None:
    mine = set(paths(container(compose_config([f"experiment={experiment}"]))))
    invented = [key for key in sorted(mine - stock_keys) if not key.startswith(KNOWN_BEYOND_THE_DEFAULTS)]
    assert invented == []
