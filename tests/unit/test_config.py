"""Values that cannot work: each error names the value, the reason and the override that fixes it."""

import copy
import math

import pytest
from composed import composed

from recipe.prepo.config import check_data_size, check_val_samples, read_config, value_at
from recipe.prepo.errors import ConfigError
from recipe.prepo.preflight import check_config

ROLLOUT, ACTOR, MODEL = (f"actor_rollout_ref.{part}" for part in ("rollout", "actor", "model"))
MANAGER = f"{ROLLOUT}.agent.agent_loop_manager_class"


def checked(**changes):
    """Read and check the CPU experiment with these changes."""
    config = composed(changes=changes)
    prepo = read_config(config)
    check_config(config, prepo)
    return prepo


def test_a_good_configuration_is_read_and_not_changed():
    config = composed()
    before = copy.deepcopy(config)
    found = read_config(config)
    assert (found.num_selected, found.num_candidates, found.rollouts_per_prompt, found.min_prompts) == (16, 80, 8, 80)
    assert found.rules["weighting"] == {"name": "relative_entropy"}
    assert config == before


@pytest.mark.parametrize(("ratio", "num_selected", "num_candidates"), [(1, 7, 7), (1.5, 4, 6), (2.25, 4, 9)])
def test_number_of_candidates(ratio, num_selected, num_candidates):
    sizes = dict.fromkeys(("data.train_batch_size", f"{ACTOR}.ppo_mini_batch_size"), num_selected)
    assert checked(**{"prepo.candidate_ratio": ratio, **sizes}).num_candidates == num_candidates


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
def test_candidates_and_kept_scores(changes, expected):
    found = checked(**changes)
    assert (found.num_candidates, found.score_ratio, found.rescore_after, found.model) == expected


def test_scores_are_made_for_rules_that_read_them_and_on_request():
    found = checked(**{"prepo/selection": "all"})
    assert (found.num_candidates, found.score_prompts) == (16, False)
    assert not checked(**{"prepo/selection": "uniform"}).score_prompts
    assert checked(**{"prepo/selection": "uniform", "prepo.score_candidates": "always"}).score_prompts


GRESO, TEMPERATURES = {"prepo/selection": "greso"}, {"prepo/weighting": "none", "prepo/temperature": "entropy_target"}
BUDGET, FILTERS = {"prepo/budget": "difficulty"}, {"enable": True, "metric": "acc"}
SEPARATE = {
    **{"prepo.seed_rollouts": False, "trainer.v1.trainer_mode": "prepo_separate_async", "trainer.device": "cuda"},
    **{"trainer.v1.separate_async.parameter_sync_step": 2, f"{ACTOR}.ppo_mini_batch_size": 8},
    **{f"{ROLLOUT}.nnodes": 1, f"{ROLLOUT}.n_gpus_per_node": 8, f"{ROLLOUT}.checkpoint_engine.backend": "nccl"},
}
SAMPLER = "trainer.v1.sampler.custom_sampler.path"
ENGINE = f"{ROLLOUT}.checkpoint_engine"
# Changes, of which the last is at fault, and what the message must name: the value and an override that fixes it.
REFUSED = [
    *(({"prepo.candidate_ratio": x}, repr(x), "prepo.candidate_ratio=5") for x in (0.5, math.nan, 1e308, "5", True)),
    *(({"prepo.score_ratio": x}, repr(x), "prepo.score_ratio=5") for x in (0.5, "all", None)),
    ({"prepo.rescore_after": -1}, "-1", "prepo.rescore_after=0"),
    *(({"prepo.seed": x}, repr(x), "prepo.seed=0") for x in (-1, 1.5, True)),
    ({"prepo.audit": "off"}, "'off'", "prepo.audit=True"),
    ({"prepo.seed_rollouts": "no"}, "'no'", "prepo.seed_rollouts=False"),
    ({"prepo.report_every": -1}, "-1", "prepo.report_every=0"),
    *(({"prepo.val_samples": x}, repr(x), "prepo.val_samples={") for x in (16, {"aime24": 0})),
    ({"prepo.scorer": "teacher"}, "'teacher'", "rollout, actor"),
    ({"prepo.score_candidates": True}, "True", "auto, always"),
    *(({"prepo.reward_wait_limit_s": x}, repr(x), "reward_wait_limit_s=600.0") for x in (0, -1.0, math.nan, "5", None)),
    ({"prepo.grading_time_limit_s": math.inf}, "inf", "prepo.grading_time_limit_s=5.0"),
    ({"prepo.selection": "uniform"}, "'uniform'", "prepo/selection=uniform"),
    ({"prepo.selection": None}, "None", "prepo/selection="),
    ({"prepo.selection.name": "ppl_shedule"}, "ppl_shedule", "prepo/selection=<name>"),
    ({"prepo.selection.width": 3}, "width", "progress_end"),
    ({"prepo.selection.progress_end": 2.0}, "2.0", "prepo.selection"),
    ({"prepo.candidate_ration": 5}, "candidate_ration", "Did you mean candidate_ratio?"),
    ({"prepo": None}, "None", "conf/prepo_trainer.yaml"),
    *(({"data.train_batch_size": x}, repr(x), "data.train_batch_size=1") for x in (0, 2.5)),
    ({"data.train_batch_size": "???"}, "data.train_batch_size", "data.train_batch_size=<value>"),
    ({f"{ROLLOUT}.n": 0}, "0", f"{ROLLOUT}.n=1"),
    *(({f"{ROLLOUT}.temperature": x}, repr(x), f"{ROLLOUT}.temperature=1.0") for x in (0.0, math.nan, "hot", None)),
    ({ROLLOUT: {"name": "vllm", "n": 8}}, "temperature", f"{ROLLOUT}.temperature"),
    ({f"{ROLLOUT}.name": "sglang"}, "'sglang'", "prepo.scorer=actor"),
    ({f"{ROLLOUT}.agent.default_agent_loop": "tool_agent"}, "'tool_agent'", "prepo/selection=uniform"),
    ({f"{ROLLOUT}.enable_chunked_prefill": True}, "True", "enable_chunked_prefill=False, or prepo.seed_rollouts=False"),
    ({MANAGER: None}, "seeds of prepo.seed_rollouts=True", "recipe.prepo.modes.PrepoAgentLoopManager"),
    ({f"{MODEL}.use_fused_kernels": True}, "True", "=False, or another rule of prepo/weighting"),
    (
        {"algorithm.rollout_correction.bypass_mode": True},
        "True",
        "=False, or another rule of prepo/weighting",
    ),
    ({"trainer.v1.trainer_mode": "sync"}, "'sync'", "trainer.v1.trainer_mode=prepo_sync"),
    ({"trainer.v1.trainer_mode": "prepo_colocate_async"}, "prepo_colocate_async", "prepo.seed_rollouts=False"),
    ({"trainer.logger": ["console", "wandbb"]}, "wandbb", "wandb"),
    ({"trainer.logger": "trackio"}, "package trackio", "trainer.logger"),
    ({"trainer.use_v1": False}, "False", "trainer.use_v1=True"),
    ({"trainer.device": "cpu", f"{ACTOR}.strategy": "fsdp"}, "'fsdp'", f"{ACTOR}.strategy=fsdp2"),
    ({"trainer.device": "cpu", f"{ROLLOUT}.enable_sleep_mode": True}, "True", "enable_sleep_mode=False"),
    ({"trainer": {}}, "trainer.v1", "conf/prepo_trainer.yaml"),
    # Values that do not fit together.
    (
        TEMPERATURES | {"algorithm.rollout_correction.bypass_mode": True},
        "bypass_mode=False",
        "another rule of prepo/temp",
    ),
    (
        TEMPERATURES | {f"{MODEL}.use_fused_kernels": True},
        "use_fused_kernels=False",
        "another rule of prepo/temp",
    ),
    (TEMPERATURES | {f"{ACTOR}.strategy": "megatron"}, "strategy='megatron'", "another rule of prepo/temp"),
    (
        TEMPERATURES | {"prepo.seed_rollouts": False, MANAGER: "verl.experimental.agent_loop.AgentLoopManager"},
        *("temperatures of prepo/temperature=entropy_target", "recipe.prepo.modes.PrepoAgentLoopManager"),
    ),
    (BUDGET | {f"{ROLLOUT}.n": 16}, "rollout.n=16", "prepo.budget.highest=12"),
    (BUDGET | {"prepo.budget.lowest": 13}, "lowest=13", "highest=12"),
    (BUDGET | {"prepo.budget.allocation": "greedy"}, "allocation='greedy'", "published"),
    (GRESO | {"algorithm.filter_groups": FILTERS}, "metric='acc'", "metric=reward"),
    (GRESO | {SAMPLER: "mine.py"}, "mine.py", "custom_sampler.path=null"),
    (GRESO | {"reward.reward_model.enable": True}, "enable=True", "enable_resource_pool=True"),
    (GRESO | {"prepo.score_candidates": "always"}, "'always'", "score_candidates=auto"),
    # Pools of the trainer and of the servers.
    (SEPARATE | {f"{ROLLOUT}.nnodes": 0}, "nnodes=0", "cluster=separate"),
    (SEPARATE | {f"{ROLLOUT}.n_gpus_per_node": None}, "n_gpus_per_node=None", "cluster=separate"),
    *((SEPARATE | {ENGINE: {"backend": x}}, repr(x), "backend=nccl") for x in ("naive", "gloo")),
    (SEPARATE | {ENGINE: None}, "None", "backend=nccl"),
    (SEPARATE | {"trainer.device": "cpu"}, "'nccl'", "backend=gloo"),
    (SEPARATE | {f"{ACTOR}.ppo_mini_batch_size": 16}, "ppo_mini_batch_size=16", "data.train_batch_size=32"),
    (SEPARATE | {"trainer.v1.separate_async.parameter_sync_step": 4}, "step=4", "data.train_batch_size=32"),
    (SEPARATE | {"reward.reward_model": {"enable": True, "enable_resource_pool": False}}, "enable=True", "pool=True"),
    (SEPARATE | {"prepo.seed_rollouts": True}, "prepo_separate_async", "prepo.seed_rollouts=False"),
    (SEPARATE | {"prepo.scorer": "actor"}, "prepo_separate_async", "prepo.scorer=rollout"),
]


@pytest.mark.parametrize(("changes", "named", "fix"), REFUSED, ids=[f"{[*each[0].items()][-1]}" for each in REFUSED])
def test_what_cannot_work_is_refused(changes, named, fix):
    with pytest.raises(ConfigError) as error:
        checked(**changes)
    assert named in str(error.value) and fix in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        SEPARATE,
        {f"{MODEL}.use_fused_kernels": True, "prepo/weighting": "none"},
        {"algorithm.rollout_correction.bypass_mode": True, "prepo/weighting": "none"},
        {"algorithm.rollout_correction": None, "reward.reward_model": None},  # sections of verl may be null
    ],
)
def test_what_can_work_is_accepted(changes):
    assert checked(**changes).num_selected == 16


def test_values_at_paths():
    config = {"a": {"b": 0, "must": "???", "empty": None}}
    assert (value_at(config, "a.b"), value_at(config, "a.empty"), value_at(config, "a.empty", 3)) == (0, None, 3)
    assert value_at(config, "a.b.deeper", 3) == 3
    with pytest.raises(ConfigError, match=r"a\.must must be set. Add a\.must=<value>"):
        value_at(config, "a.must")
    with pytest.raises(ConfigError, match=r"a\.b\.deeper is not in the configuration"):
        value_at(config, "a.b.deeper")


@pytest.mark.parametrize(
    ("changes", "num_rows", "enough", "named"),
    [
        ({}, 79, 80, r"79 prompts.*\|B\| = 80.*K = 16.*prepo\.candidate_ratio"),
        (GRESO, 23, 24, r"23 prompts.*rolls out 24.*first round"),
        ({"prepo.candidate_ratio": "all"}, 15, 16, "15 prompts.*K = 16.*data.train_batch_size"),
        ({"prepo.candidate_ratio": "all"}, 2_000_000, 16, r"2000000 prompts.*candidate_ratio=all.*candidate_ratio=20"),
    ],
)
def test_the_training_set_must_fill_one_step(changes, num_rows, enough, named):
    prepo = read_config(composed(changes=changes))
    check_data_size(enough, prepo)
    with pytest.raises(ConfigError, match=named):
        check_data_size(num_rows, prepo)


def test_samples_of_a_missing_data_source_are_refused():
    check_val_samples({"gsm8k": 2}, ["gsm8k", "aime24"])
    with pytest.raises(ConfigError, match=r"names aime25.*aime24, gsm8k.*prepo\.val_samples=\{aime24: 16\}"):
        check_val_samples({"aime25": 2}, ["gsm8k", "aime24"])
