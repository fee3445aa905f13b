"""Values that cannot work: each error names the value, the reason and the override that fixes it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from composed import composed

from recipe.prepo.config import PrepoConfig, check_data_size, check_val_samples, read_config, value_at
from recipe.prepo.errors import ConfigError
from recipe.prepo.preflight import check_config

ROLLOUT = "actor_rollout_ref.rollout"
MANAGER = f"{ROLLOUT}.agent.agent_loop_manager_class"


def checked(**changes: Any) -> PrepoConfig:
    """Read and check the CPU experiment with these changes."""
    config = composed(changes=changes)
    prepo = read_config(config)
    check_config(config, prepo)
    return prepo


def test_a_good_configuration_is_read_and_not_changed() -> None:
    config = composed()
    before = copy.deepcopy(config)
    found = read_config(config)
    assert (found.num_selected, found.num_candidates, found.rollouts_per_prompt, found.min_prompts) == (16, 80, 8, 80)
    assert (found.score_prompts, found.seed, found.audit, found.scorer) == (True, 0, True, "rollout")
    assert (found.reward_wait_limit_s, found.grading_time_limit_s) == (600.0, 5.0)
    assert found.rules["weighting"] == {"name": "relative_entropy"}
    assert config == before


@pytest.mark.parametrize(
    ("ratio", "num_selected", "num_candidates"), [(1, 7, 7), (1.0, 7, 7), (1.5, 4, 6), (5, 1, 5), (2.25, 4, 9)]
)
def test_number_of_candidates(ratio: float, num_selected: int, num_candidates: int) -> None:
    sizes = dict.fromkeys(("data.train_batch_size", "actor_rollout_ref.actor.ppo_mini_batch_size"), num_selected)
    found = checked(**{"prepo.candidate_ratio": ratio, **sizes})
    assert found.num_candidates == num_candidates


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (80, None, None, None)),  # every candidate is scored at each choice, and nothing is kept
        ({"prepo.candidate_ratio": 20}, (320, 5.0, 0, "mini-math-qwen2")),
        ({"prepo.rescore_after": 7}, (80, 5.0, 7, "mini-math-qwen2")),
        ({"prepo.candidate_ratio": 20, "prepo.score_ratio": 20}, (320, None, None, None)),
        ({"prepo.candidate_ratio": "all"}, (None, 5.0, 0, "mini-math-qwen2")),
        ({"prepo.candidate_ratio": "all", "prepo/selection": "mopps"}, (None, None, None, None)),
        ({"prepo.candidate_ratio": "all", "prepo/selection": "greso"}, (16, None, None, None)),
    ],
)
def test_candidates_and_kept_scores(changes: dict[str, Any], expected: tuple[Any, ...]) -> None:
    found = checked(**changes)
    assert (found.num_candidates, found.score_ratio, found.rescore_after, found.model) == expected


@pytest.mark.parametrize(
    ("num_rows", "named"),
    [
        (15, "15 prompts.*K = 16.*data.train_batch_size"),
        (2_000_000, r"2000000 prompts.*candidate_ratio=all.*candidate_ratio=20"),
    ],
)
def test_a_pool_that_does_not_fit_is_refused(num_rows: int, named: str) -> None:
    found = checked(**{"prepo.candidate_ratio": "all"})
    with pytest.raises(ConfigError, match=named):
        check_data_size(num_rows, found)
    check_data_size(16, found)


def test_rules_that_take_every_prompt_draw_no_candidates_and_need_no_scores() -> None:
    found = checked(**{"prepo/selection": "all"})
    assert (found.num_candidates, found.score_prompts) == (16, False)


def test_scores_are_made_on_request_for_a_rule_that_reads_none() -> None:
    assert not checked(**{"prepo/selection": "uniform"}).score_prompts
    assert checked(**{"prepo/selection": "uniform", "prepo.score_candidates": "always"}).score_prompts


# Key, value, and what the message must name: the value and an override that fixes it.
VALUES: list[tuple[str, Any, str, str]] = [
    *(
        ("prepo.candidate_ratio", ratio, repr(ratio), "prepo.candidate_ratio=5")
        for ratio in (0.5, math.nan, math.inf, 1e308, "5", True, None)
    ),
    *(("prepo.score_ratio", ratio, repr(ratio), "prepo.score_ratio=5") for ratio in (0.5, "all", None)),
    ("prepo.rescore_after", -1, "-1", "prepo.rescore_after=0"),
    *(("prepo.seed", seed, repr(seed), "prepo.seed=0") for seed in (-1, 1.5, True)),
    ("prepo.audit", "off", "'off'", "prepo.audit=True"),
    ("prepo.seed_rollouts", "no", "'no'", "prepo.seed_rollouts=False"),
    ("prepo.report_every", -1, "-1", "prepo.report_every=0"),
    ("prepo.val_samples", 16, "16", "prepo.val_samples={"),
    ("prepo.val_samples", {"aime24": 0}, "{'aime24': 0}", "prepo.val_samples={"),
    ("prepo.scorer", "teacher", "'teacher'", "rollout, actor"),
    ("prepo.score_candidates", True, "True", "auto, always"),
    *(
        (key, limit, repr(limit), f"{key}={example}")
        for key, example in (("prepo.reward_wait_limit_s", 600.0), ("prepo.grading_time_limit_s", 5.0))
        for limit in (0, -1.0, math.inf, math.nan, "5", None, True)
    ),
    ("prepo.selection", "uniform", "'uniform'", "prepo/selection=uniform"),
    ("prepo.selection", None, "None", "prepo/selection="),
    ("prepo.selection.name", "ppl_shedule", "ppl_shedule", "prepo/selection=<name>"),
    ("prepo.selection.width", 3, "width", "progress_end"),
    ("prepo.selection.progress_end", 2.0, "2.0", "prepo.selection"),
    ("prepo.candidate_ration", 5, "candidate_ration", "Did you mean candidate_ratio?"),
    ("prepo", None, "None", "conf/prepo_trainer.yaml"),
    ("data.train_batch_size", 0, "0", "data.train_batch_size=1"),
    ("data.train_batch_size", 2.5, "2.5", "data.train_batch_size=1"),
    ("data.train_batch_size", "???", "data.train_batch_size", "data.train_batch_size=<value>"),
    (f"{ROLLOUT}.n", 0, "0", f"{ROLLOUT}.n=1"),
    *(
        (f"{ROLLOUT}.temperature", value, repr(value), f"{ROLLOUT}.temperature=1.0")
        for value in (0.0, math.nan, math.inf, "hot", None)
    ),
    (ROLLOUT, {"name": "vllm", "n": 8}, "temperature", f"{ROLLOUT}.temperature"),
    (f"{ROLLOUT}.name", "sglang", "'sglang'", "prepo.scorer=actor"),
    (f"{ROLLOUT}.agent.default_agent_loop", "tool_agent", "'tool_agent'", "prepo/selection=uniform"),
    (f"{ROLLOUT}.enable_chunked_prefill", True, "True", "enable_chunked_prefill=False, or prepo.seed_rollouts=False"),
    (MANAGER, None, "seeds of prepo.seed_rollouts=True", "recipe.prepo.modes.PrepoAgentLoopManager"),
    (
        "actor_rollout_ref.model.use_fused_kernels",
        True,
        "True",
        "use_fused_kernels=False, or another rule of prepo/weighting",
    ),
    ("algorithm.rollout_correction.bypass_mode", True, "True", "bypass_mode=False, or another rule of prepo/weighting"),
    ("trainer.v1.trainer_mode", "sync", "'sync'", "trainer.v1.trainer_mode=prepo_sync"),
    ("trainer.v1.trainer_mode", "prepo_colocate_async", "prepo_colocate_async", "prepo.seed_rollouts=False"),
    ("trainer.logger", ["console", "wandbb"], "wandbb", "wandb"),
    ("trainer.logger", "trackio", "package trackio", "trainer.logger"),
    ("trainer.use_v1", False, "False", "trainer.use_v1=True"),
    ("trainer", {}, "trainer.v1", "conf/prepo_trainer.yaml"),
]


@pytest.mark.parametrize(
    ("path", "value", "named", "fix"), VALUES, ids=[f"{path}={value}" for path, value, *_ in VALUES]
)
def test_a_bad_value_is_refused(path: str, value: Any, named: str, fix: str) -> None:
    with pytest.raises(ConfigError) as error:
        checked(**{path: value})
    assert named in str(error.value)
    assert fix in str(error.value)


GRESO, TEMPERATURES = {"prepo/selection": "greso"}, {"prepo/weighting": "none", "prepo/temperature": "entropy_target"}
BUDGET, FILTERS = {"prepo/budget": "difficulty"}, {"enable": True, "metric": "acc"}
SAMPLER = "trainer.v1.sampler.custom_sampler.path"
# Changes, and what the message must name.
TOGETHER: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    (
        {**TEMPERATURES, "algorithm.rollout_correction.bypass_mode": True},
        ("bypass_mode=False", "prepo/temperature=entropy_target", "another rule of prepo/temperature"),
    ),
    (
        {**TEMPERATURES, "actor_rollout_ref.model.use_fused_kernels": True},
        ("use_fused_kernels=False", "another rule of prepo/temperature"),
    ),
    (
        {**TEMPERATURES, "actor_rollout_ref.actor.strategy": "megatron"},
        ("strategy='megatron'", "strategy=fsdp2", "another rule of prepo/temperature"),
    ),
    (
        {**TEMPERATURES, "prepo.seed_rollouts": False, MANAGER: "verl.experimental.agent_loop.AgentLoopManager"},
        ("temperatures of prepo/temperature=entropy_target", "recipe.prepo.modes.PrepoAgentLoopManager"),
    ),
    ({**BUDGET, f"{ROLLOUT}.n": 16}, ("rollout.n=16", "prepo.budget.highest=12", "prepo.budget.lowest")),
    ({**BUDGET, "prepo.budget.lowest": 13}, ("lowest=13", "highest=12")),
    ({**BUDGET, "prepo.budget.allocation": "greedy"}, ("allocation='greedy'", "clip", "published")),
    ({**GRESO, "algorithm.filter_groups": FILTERS}, ("metric='acc'", "metric=reward", "enable=False")),
    ({**GRESO, SAMPLER: "mine.py"}, ("mine.py", "custom_sampler.path=null", "another rule of prepo/selection")),
    (
        {**GRESO, "reward.reward_model.enable": True},
        ("enable=True", "enable_resource_pool=True", "another rule of prepo/selection"),
    ),
    ({**GRESO, "prepo.selection.explore": 0}, ("explore=0", "0.01")),
    ({**GRESO, "prepo.score_candidates": "always"}, ("'always'", "prepo/selection=greso", "score_candidates=auto")),
    ({"prepo/shaping": "length_bias", "prepo.shaping.mu": 0}, ("mu=0",)),
]


@pytest.mark.parametrize(("changes", "named"), TOGETHER, ids=lambda value: " ".join(value))
def test_values_that_do_not_fit_together_are_refused(changes: dict[str, Any], named: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        checked(**changes)
    assert [text for text in named if text not in str(error.value)] == []


@pytest.mark.parametrize(
    "path", ["actor_rollout_ref.model.use_fused_kernels", "algorithm.rollout_correction.bypass_mode"]
)
def test_what_only_entropies_forbid_is_allowed_without_them(path: str) -> None:
    assert checked(**{path: True, "prepo/weighting": "none"}).rules["weighting"] == {"name": "none"}


def test_sections_of_verl_may_be_null() -> None:
    assert checked(**{"algorithm.rollout_correction": None, "reward.reward_model": None}).num_selected == 16


SEPARATE = {
    "prepo.seed_rollouts": False,
    "trainer.v1.trainer_mode": "prepo_separate_async",
    "trainer.v1.separate_async.parameter_sync_step": 2,
    "trainer.device": "cuda",
    "actor_rollout_ref.actor.ppo_mini_batch_size": 8,
    f"{ROLLOUT}.nnodes": 1,
    f"{ROLLOUT}.n_gpus_per_node": 8,
    f"{ROLLOUT}.checkpoint_engine.backend": "nccl",
}
POOLS: list[tuple[str, Any, str, str]] = [
    (f"{ROLLOUT}.nnodes", 0, "nnodes=0", "cluster=separate"),
    (f"{ROLLOUT}.n_gpus_per_node", None, "n_gpus_per_node=None", "cluster=separate"),
    (f"{ROLLOUT}.checkpoint_engine", {"backend": "naive"}, "'naive'", "backend=nccl"),
    (f"{ROLLOUT}.checkpoint_engine", None, "None", "backend=nccl"),
    (f"{ROLLOUT}.checkpoint_engine", {"backend": "gloo"}, "'gloo'", "backend=nccl"),
    ("trainer.device", "cpu", "'nccl'", "backend=gloo"),
    ("actor_rollout_ref.actor.ppo_mini_batch_size", 16, "ppo_mini_batch_size=16", "data.train_batch_size=32"),
    ("trainer.v1.separate_async.parameter_sync_step", 4, "parameter_sync_step=4", "data.train_batch_size=32"),
    ("reward.reward_model", {"enable": True, "enable_resource_pool": False}, "enable=True", "resource_pool=True"),
    ("prepo.seed_rollouts", True, "prepo_separate_async", "prepo.seed_rollouts=False"),
    ("prepo.scorer", "actor", "prepo_separate_async", "prepo.scorer=rollout"),
]


def test_separate_pools_are_accepted() -> None:
    assert checked(**SEPARATE).num_selected == 16


@pytest.mark.parametrize(("path", "value", "named", "fix"), POOLS, ids=[f"{path}={value}" for path, value, *_ in POOLS])
def test_pools_that_cannot_work_are_refused(path: str, value: Any, named: str, fix: str) -> None:
    with pytest.raises(ConfigError) as error:
        checked(**{**SEPARATE, path: value})
    assert named in str(error.value)
    assert fix in str(error.value)


def test_values_at_paths() -> None:
    config = {"a": {"b": 0, "must": "???", "empty": None}}
    assert (value_at(config, "a.b"), value_at(config, "a.empty"), value_at(config, "a.empty", 3)) == (0, None, 3)
    assert value_at(config, "a.b.deeper", 3) == 3
    with pytest.raises(ConfigError, match=r"a\.must must be set. Add a\.must=<value>"):
        value_at(config, "a.must")
    with pytest.raises(ConfigError, match=r"a\.b\.deeper is not in the configuration"):
        value_at(config, "a.b.deeper")


def test_the_training_set_must_fill_one_step() -> None:
    prepo = read_config(composed())
    check_data_size(80, prepo)
    with pytest.raises(ConfigError, match=r"79 prompts.*\|B\| = 80.*K = 16.*prepo\.candidate_ratio"):
        check_data_size(79, prepo)
    skipping = read_config(composed(changes=GRESO))
    with pytest.raises(ConfigError, match=r"23 prompts.*rolls out 24.*first round"):
        check_data_size(23, skipping)


def test_samples_of_a_missing_data_source_are_refused() -> None:
    check_val_samples({"gsm8k": 2}, ["gsm8k", "aime24"])
    with pytest.raises(ConfigError, match=r"names aime25.*aime24, gsm8k.*prepo\.val_samples=\{aime24: 16\}"):
        check_val_samples({"aime25": 2}, ["gsm8k", "aime24"])
