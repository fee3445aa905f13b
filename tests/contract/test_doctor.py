"""Each check of the doctor refuses the bad value, and says what to set; it accepts the values that e2e runs start."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composed import composed
from doctor_cases import ACCEPTED, ACTOR, MODEL, REWARD, ROLLOUT, TOOLS_PATH, overrides, write_files
from omegaconf import OmegaConf

from recipe.prepo.config import read_config
from recipe.prepo.doctor import diagnose
from recipe.prepo.errors import ConfigError, PrepoError
from recipe.prepo.preflight import NOT_ESTIMATED, OLD_SECTIONS, check_config, new_key
from recipe.prepo.verl_checks import KL_PENALTIES, LOSS_AGG_MODES

pytestmark = pytest.mark.filterwarnings("ignore:.* engine is not available")
TWO_GPUS, EIGHT_GPUS = "trainer.n_gpus_per_node=2", "trainer.n_gpus_per_node=8"
# What is refused, and what the message names. {} is the folder of files.
CASES: list[tuple[list[str], list[str]]] = [
    (["custom_reward_function.path={}/graders.py"], [f"{REWARD}.path={{}}/graders.py"]),
    (["reward_model.reward_manager=dapo"], ["reward.reward_manager.name=dapo"]),
    (["+reward_model.reward_kwargs.max_resp_len=9"], ["set reward.reward_kwargs.max_resp_len=9"]),
    (["sandbox_fusion.url=http://localhost"], ["reward.sandbox_fusion.url=http://localhost"]),
    (["trainer.v1.trainer_mode=colocate_async"], ["trainer.v1.trainer_mode=prepo_colocate_async"]),
    (["algorithm.adv_estimator=gae"], ["a critic", "algorithm.adv_estimator=grpo"]),
    (["algorithm.adv_estimator=gpro"], ["knows grpo", "Set algorithm.adv_estimator=grpo"]),
    (["critic.enable=true"], ["critic.enable=False"]),
    ([f"{ACTOR}.loss_agg_mode=tokenmean"], [f"{ACTOR}.loss_agg_mode=token-mean"]),
    ([f"{ACTOR}.policy_loss.loss_mode=gsp"], ["loss_mode=gspo"]),
    ([f"{ACTOR}.kl_loss_type=low_var"], ["kl_loss_type=low_var_kl"]),
    (["reward.reward_manager.name=naiv"], ["reward.reward_manager.name=naive"]),
    ([f"{ROLLOUT}.agent.default_agent_loop=single_turn"], ["single_turn_agent"]),
    (["trainer.resume_mode=Disable"], ["trainer.resume_mode=disable"]),
    ([f"{ROLLOUT}.mode=sync"], ["verl 0.9.1 refuses", "mode=async"]),
    ([f"{ACTOR}.optim.lr_scheduler_type=linear"], ["verl 0.9.1 refuses"]),
    (["data.train_batch_size=8"], [f"{ACTOR}.ppo_mini_batch_size=8"]),
    ([TWO_GPUS, "data.train_batch_size=3", f"{ACTOR}.ppo_mini_batch_size=3", f"{ROLLOUT}.n=3"], ["=6"]),
    ([f"{ROLLOUT}.tensor_model_parallel_size=16", EIGHT_GPUS], ["pool of 8"]),
    ([f"~{MODEL}.override_config.attn_implementation"], ["flash-attn", "attn_implementation=sdpa"]),
    ([f"{ROLLOUT}.tensor_model_parallel_size=8", EIGHT_GPUS, "ray_kwargs.ray_init.num_gpus=8"], ["attention heads"]),
    ([f"{ROLLOUT}.log_prob_use_dynamic_bsz=false"], ["log_prob_use_dynamic_bsz=True"]),
    (["data.max_response_length=4096"], ["4096 tokens", "data.max_response_length=4000"]),
    (["data.max_prompt_length=5000"], ["data.max_prompt_length=4048"]),
    ([f"{ROLLOUT}.max_model_len=100"], ["data.max_response_length=4"]),
    ([f"{ROLLOUT}.max_model_len=5000"], [f"{ROLLOUT}.max_model_len=4096"]),
    ([f"{MODEL}.path={{}}/no_template"], [f"{MODEL}.custom_chat_template="]),
    ([f"{MODEL}.path={{}}/no_tokenizer"], ["verl cannot load it"]),
    ([f"{MODEL}.path=nobody/has-this-model"], ["hub id", f"{MODEL}.path=<folder> (hf download nobody/has-this-model"]),
    (["ray_kwargs.ray_init.num_cpus=6"], ["at least 7", "ray_kwargs.ray_init.num_cpus=32"]),
    (["ray_kwargs.ray_init.num_gpus=0"], ["ray_kwargs.ray_init.num_gpus=1"]),
    ([f"{MODEL}.lora_rank=1024"], [f"{MODEL}.lora_rank=64"]),
    ([f"{REWARD}.path={{}}/broken.py"], ["nowhere_to_be_found", "broken.py:1"]),
    ([f"{REWARD}.path={{}}/graders.py"], ["no such function, only accepts, nothing"]),
    ([f"{REWARD}.path={{}}/graders.py", f"{REWARD}.name=nothing"], ["nothing of", "returned None"]),
    ([f"{REWARD}.path=null"], ["data_source='mini_math'", f"Set {REWARD}.path=<your file>"]),
    (["data.train_files={}/tool.parquet"], ["tool_agent", "prepo/selection=uniform"]),
    (
        ["data.train_files={}/tool.parquet", "prepo/selection=uniform", "prepo.score_candidates=always"],
        ["prepo.score_candidates=auto"],
    ),
    (["data.train_files={}/unknown_loop.parquet", "prepo/selection=uniform"], ["my_agent", "agent_loop_config_path"]),
    (["prepo/selection=uniform", f"{TOOLS_PATH}={{}}/broken.py"], ["the tools do not load", "nowhere_to_be_found"]),
    (["data.train_files={}/long.parquet"], ["150 of 200", "data.max_prompt_length=96", "50 prompts"]),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    write_files(folder)
    return folder


@pytest.mark.parametrize(("refused", "named"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_the_doctor_refuses(files: Path, refused: list[str], named: list[str]) -> None:
    with pytest.raises(PrepoError) as error:
        diagnose(overrides(files, refused))
    message = str(error.value)
    assert [text for text in named if text.replace("{}", str(files)) not in message] == [], message
    assert "\n" not in message


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_doctor_accepts(files: Path, name: str) -> None:
    lines = diagnose(overrides(files, ACCEPTED[name]))
    assert lines[-1] == "ok: this run would start"
    if name == "model":
        assert "dropped   100 of 200 training prompts are longer than data.max_prompt_length=96" in lines
        assert "data      100 training prompts, 2 steps an epoch" in lines


def test_a_tracker_needs_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n", encoding="utf-8")
    config = composed(changes={"trainer.logger": ["console", "wandb"]})
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"WANDB_API_KEY, or WANDB_MODE=offline"):
        check_config(config, read_config(config))
    key = {"WANDB_API_KEY": "k", "WANDB_MODE": "offline", "NETRC": f"{tmp_path}/netrc", "RAY_ADDRESS": "10.0.0.1:6379"}
    for name, value in key.items():
        with monkeypatch.context() as context:
            context.setenv(name, value)
            check_config(config, read_config(config))


def test_old_keys_have_the_names_to_which_verl_moves_them() -> None:
    from verl.experimental.reward_loop import migrate_legacy_reward_impl

    stock: Any = OmegaConf.create({key: composed()[key] for key in (*OLD_SECTIONS, "reward")})
    paths = [path for section in OLD_SECTIONS for path in _leaves(section, stock[section])]
    wrong = []
    for path in paths:
        config = OmegaConf.merge(stock, {"reward_model": {"reward_loop_source": "importlib"}})  # or no loop is moved
        OmegaConf.update(config, path, "moved")
        moved = migrate_legacy_reward_impl(config)
        if OmegaConf.select(moved, new_key(path), default=None) != "moved":
            wrong.append(path)
    # verl itself drops these two.
    assert wrong == ["reward_model.model.external_lib", "reward_model.model.trust_remote_code"]


def _leaves(path: str, node: Any) -> list[str]:
    if not OmegaConf.is_dict(node):
        return [path]
    return [leaf for key in node for leaf in _leaves(f"{path}.{key}", node[key])]


def test_estimators_that_are_refused_fail_on_what_verls_trainer_hands_them() -> None:
    from tensordict import TensorDict
    from verl.protocol import DataProto
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

    failed = set()
    for name in ADV_ESTIMATOR_REGISTRY:
        ones, rewards = torch.ones(4, 3), torch.eye(4)[:, :3]
        fields = {"response_mask": ones, "old_log_probs": -ones}
        fields |= {"token_level_rewards": rewards, "token_level_scores": rewards}
        data = DataProto(batch=TensorDict(fields, batch_size=4))
        data.non_tensor_batch["uid"] = np.array(["a", "a", "b", "b"], dtype=object)
        algorithm = OmegaConf.create(composed()["algorithm"])
        keys = ["a_0_0", "a_1_0", "b_0_0", "b_1_0"]
        try:
            compute_advantage_for_multi_trajectories(data, keys, name, num_repeat=2, config=algorithm)
        except (AssertionError, KeyError, TypeError, ValueError):
            failed.add(name)
    assert failed == set(NOT_ESTIMATED)


def test_names_are_those_that_verl_takes() -> None:
    from verl.trainer.ppo.core_algos import agg_loss, kl_penalty

    ones = torch.ones(2, 3)
    for call, names in ((agg_loss, LOSS_AGG_MODES), (kl_penalty, KL_PENALTIES)):
        for name in names:
            call(ones, ones, name)
    with pytest.raises(NotImplementedError):
        kl_penalty(ones, ones, "full")
