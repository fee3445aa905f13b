"""Configurations that cannot work: each error names the value, the reason and the override."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from recipe.prepo.config import check_data_size, read_config
from recipe.prepo.errors import ConfigError
from recipe.prepo.requirements import value_at

GOOD: dict[str, Any] = {
    "prepo": {
        "candidate_ratio": 5.0,
        "seed": 0,
        "audit": True,
        "scorer": "rollout",
        "score_candidates": "auto",
        "seed_rollouts": False,
        "report_every": 0,
        "val_samples": None,
        "selection": {"name": "ppl_schedule", "progress_start": 0.0, "progress_end": 1.0},
        "weighting": {"name": "relative_entropy"},
        "budget": {"name": "fixed"},
        "temperature": {"name": "constant"},
        "shaping": {"name": "none"},
    },
    "data": {"train_batch_size": 32, "must": "???"},
    "actor_rollout_ref": {
        "rollout": {
            "name": "vllm",
            "n": 8,
            "temperature": 1.0,
            "enable_chunked_prefill": False,
            "agent": {
                "default_agent_loop": "single_turn_agent",
                "agent_loop_manager_class": "recipe.prepo.trainer.rollout.PrepoAgentLoopManager",
            },
        },
        "model": {"use_fused_kernels": False},
    },
    "algorithm": {"rollout_correction": {"bypass_mode": False}},
    "trainer": {"device": "cpu", "use_v1": True, "v1": {"trainer_mode": "prepo_sync"}},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(GOOD)
    node = config
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    node[last] = value
    return config


def test_good_configuration_is_read() -> None:
    found = read_config(GOOD)
    assert (found.num_selected, found.num_candidates, found.rollouts_per_prompt) == (32, 160, 8)
    assert (found.score_prompts, found.seed, found.audit, found.scorer) == (True, 0, True, "rollout")
    assert found.rules["selection"] == {"name": "ppl_schedule", "progress_start": 0.0, "progress_end": 1.0}


@pytest.mark.parametrize(
    ("ratio", "num_selected", "num_candidates"), [(1, 7, 7), (1.0, 7, 7), (1.5, 4, 6), (5, 1, 5), (2.25, 4, 9)]
)
def test_number_of_candidates(ratio: float, num_selected: int, num_candidates: int) -> None:
    config = changed("prepo.candidate_ratio", ratio)
    config["data"]["train_batch_size"] = num_selected
    assert read_config(config).num_candidates == num_candidates


def test_rules_that_take_every_prompt_draw_no_candidates_and_need_no_scores() -> None:
    found = read_config(changed("prepo.selection", {"name": "all"}))
    assert (found.num_candidates, found.score_prompts) == (32, False)


def test_scores_for_a_rule_that_reads_none_when_asked_for() -> None:
    config = changed("prepo.selection", {"name": "uniform"})
    assert not read_config(config).score_prompts
    config["prepo"]["score_candidates"] = "always"
    assert read_config(config).score_prompts


# Path, value, and the parts that the message must hold: the value, and the override that mends it.
BAD: list[tuple[str, Any, str, str]] = [
    ("prepo.candidate_ratio", 0.5, "0.5", "prepo.candidate_ratio=5"),
    ("prepo.candidate_ratio", math.nan, "nan", "prepo.candidate_ratio=5"),
    ("prepo.candidate_ratio", math.inf, "inf", "prepo.candidate_ratio=5"),
    ("prepo.candidate_ratio", 1e308, "1e+308", "prepo.candidate_ratio"),
    ("prepo.candidate_ratio", "5", "'5'", "prepo.candidate_ratio=5"),
    ("prepo.candidate_ratio", True, "True", "prepo.candidate_ratio=5"),
    ("prepo.candidate_ratio", None, "None", "prepo.candidate_ratio=5"),
    ("prepo.seed", -1, "-1", "prepo.seed=0"),
    ("prepo.seed", 1.5, "1.5", "prepo.seed=0"),
    ("prepo.seed", True, "True", "prepo.seed=0"),
    ("prepo.audit", "off", "off", "prepo.audit="),
    ("prepo.seed_rollouts", "no", "no", "prepo.seed_rollouts="),
    ("prepo.report_every", -1, "-1", "prepo.report_every=0"),
    ("prepo.val_samples", 16, "16", "prepo.val_samples={"),
    ("prepo.val_samples", {"aime24": 0}, "0", "prepo.val_samples.aime24=1"),
    ("prepo.scorer", "teacher", "teacher", "rollout, actor"),
    ("prepo.score_candidates", True, "True", "auto, always"),
    ("prepo.selection", "uniform", "uniform", "prepo/selection=uniform"),
    ("prepo.selection", None, "None", "prepo/selection="),
    ("prepo.selection.name", "ppl_shedule", "ppl_shedule", "prepo/selection=<name>"),
    ("prepo.selection.width", 3, "width", "progress_end"),
    ("prepo.selection.progress_end", 2.0, "2.0", "prepo.selection"),
    ("prepo.candidate_ration", 5, "candidate_ration", "candidate_ratio"),
    ("prepo", None, "None", "prepo"),
    ("data.train_batch_size", 0, "0", "data.train_batch_size=1"),
    ("data.train_batch_size", 2.5, "2.5", "data.train_batch_size=1"),
    ("data.train_batch_size", "???", "data.train_batch_size", "data.train_batch_size=<value>"),
    ("actor_rollout_ref.rollout.n", 0, "0", "actor_rollout_ref.rollout.n=1"),
    ("actor_rollout_ref.rollout.temperature", 0.0, "0.0", "actor_rollout_ref.rollout.temperature=1.0"),
    ("actor_rollout_ref.rollout.temperature", math.nan, "nan", "actor_rollout_ref.rollout.temperature=1.0"),
    ("actor_rollout_ref.rollout.temperature", math.inf, "inf", "actor_rollout_ref.rollout.temperature=1.0"),
    ("actor_rollout_ref.rollout.temperature", "hot", "hot", "actor_rollout_ref.rollout.temperature=1.0"),
    ("actor_rollout_ref.rollout.temperature", None, "None", "actor_rollout_ref.rollout.temperature=1.0"),
    ("actor_rollout_ref.rollout", {"name": "vllm", "n": 8}, "temperature", "actor_rollout_ref.rollout.temperature"),
    ("actor_rollout_ref.rollout.name", "sglang", "'sglang'", "prepo.scorer=actor"),
    ("actor_rollout_ref.rollout.agent.default_agent_loop", "tool_agent", "'tool_agent'", "prepo/selection=uniform"),
    ("actor_rollout_ref.model.use_fused_kernels", True, "True", "use_fused_kernels=False"),
    ("algorithm.rollout_correction.bypass_mode", True, "True", "bypass_mode=False"),
    ("trainer.v1.trainer_mode", "sync", "'sync'", "trainer.v1.trainer_mode=prepo_sync"),
    ("trainer.logger", ["console", "wandbb"], "wandbb", "wandb"),
    ("trainer.logger", "trackio", "package trackio", "trainer.logger"),
    ("trainer.use_v1", False, "False", "trainer.use_v1=True"),
    ("trainer", {}, "trainer.v1", "conf/prepo.yaml"),
]


@pytest.mark.parametrize(("path", "value", "named", "mend"), BAD, ids=[f"{path}={value}" for path, value, _, _ in BAD])
def test_bad_value_is_refused_with_value_and_mend(path: str, value: Any, named: str, mend: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_config(changed(path, value))
    assert named in str(error.value)
    assert mend in str(error.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("actor_rollout_ref.model.use_fused_kernels", True),
        ("algorithm.rollout_correction.bypass_mode", True),
    ],
)
def test_what_only_entropies_forbid_is_allowed_without_them(path: str, value: Any) -> None:
    config = changed(path, value)
    config["prepo"]["weighting"] = {"name": "none"}
    assert read_config(config).rules["weighting"] == {"name": "none"}


def separate(path: str = "data.must", value: Any = None) -> dict[str, Any]:
    """A configuration of two pools, with one value changed."""
    config = changed("trainer.v1", {"trainer_mode": "prepo_separate_async"})
    config["trainer"]["v1"]["separate_async"] = {"parameter_sync_step": 2}
    config["trainer"]["device"] = "cuda"
    config["actor_rollout_ref"]["actor"] = {"ppo_mini_batch_size": 16}
    config["actor_rollout_ref"]["rollout"] |= {
        "nnodes": 1,
        "n_gpus_per_node": 8,
        "checkpoint_engine": {"backend": "nccl"},
    }
    config["reward"] = {"reward_model": {"enable": False}}
    *parents, last = path.split(".")
    node = config
    for key in parents:
        node = node[key]
    node[last] = value
    return config


def test_separate_pools_are_read() -> None:
    assert read_config(separate()).num_selected == 32


POOLS: list[tuple[str, Any, str, str]] = [
    ("actor_rollout_ref.rollout.nnodes", 0, "nnodes=0", "cluster=separate"),
    ("actor_rollout_ref.rollout.n_gpus_per_node", None, "n_gpus_per_node=None", "cluster=separate"),
    ("actor_rollout_ref.rollout.checkpoint_engine", {"backend": "naive"}, "'naive'", "backend=nccl"),
    ("actor_rollout_ref.rollout.checkpoint_engine", None, "None", "backend=nccl"),
    ("actor_rollout_ref.rollout.checkpoint_engine", {"backend": "gloo"}, "'gloo'", "backend=nccl"),
    ("trainer.device", "cpu", "'nccl'", "backend=gloo"),
    ("actor_rollout_ref.actor.ppo_mini_batch_size", 32, "=32", "data.train_batch_size=32"),
    ("trainer.v1.separate_async.parameter_sync_step", 4, "=4", "parameter_sync_step=4"),
    (
        "reward.reward_model",
        {"enable": True, "enable_resource_pool": False},
        "enable=True",
        "enable_resource_pool=True",
    ),
    ("prepo.seed_rollouts", True, "prepo_separate_async", "prepo.seed_rollouts=False"),
    ("prepo.scorer", "actor", "prepo_separate_async", "prepo.scorer=rollout"),
]


@pytest.mark.parametrize(
    ("path", "value", "named", "mend"), POOLS, ids=[f"{path}={value}" for path, value, *_ in POOLS]
)
def test_pools_that_cannot_work_are_refused(path: str, value: Any, named: str, mend: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_config(separate(path, value))
    assert named in str(error.value)
    assert mend in str(error.value)


def test_rollout_correction_may_be_null() -> None:
    assert read_config(changed("algorithm.rollout_correction", None)).num_selected == 32


def test_values_at_paths() -> None:
    assert value_at(GOOD, "prepo.seed") == 0
    with pytest.raises(ConfigError, match=r"data\.must must be set: add data\.must=<value>"):
        value_at(GOOD, "data.must")
    with pytest.raises(ConfigError, match=r"data\.none is not in the configuration"):
        value_at(GOOD, "data.none")
    with pytest.raises(ConfigError, match=r"prepo\.seed\.deeper"):
        value_at(GOOD, "prepo.seed.deeper")


def test_training_set_must_fill_one_step() -> None:
    prepo = read_config(GOOD)
    check_data_size(160, prepo)
    with pytest.raises(ConfigError, match=r"159 prompts.*\|B\| = 160.*K = 32.*prepo\.candidate_ratio"):
        check_data_size(159, prepo)


def test_reading_changes_nothing() -> None:
    config = copy.deepcopy(GOOD)
    read_config(config)
    assert config == GOOD
