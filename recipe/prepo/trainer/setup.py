"""What a trainer of this recipe is built from: configuration, replay buffer, data, controller, scorer (verl 0.9.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf, open_dict
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import HFModelConfig

from recipe.prepo.config import PrepoConfig, check_data_size, read_config
from recipe.prepo.controller import Controller, RunIdentity, data_fingerprint
from recipe.prepo.cpu import is_cpu_platform
from recipe.prepo.maths.prompt_index import PromptIndex
from recipe.prepo.maths.skipping import Refill
from recipe.prepo.preflight import check_config
from recipe.prepo.trainer import columns
from recipe.prepo.trainer.scoring import ActorScorer, PromptTokenizer, RolloutScorer
from recipe.prepo.trainer.validation import set_val_samples
from recipe.prepo.types import RunFacts

if TYPE_CHECKING:
    from verl.trainer.ppo.v1 import PPOTrainer as _Trainer

    from recipe.prepo.trainer.replay import AccountingReplayBuffer
else:
    _Trainer = object

# verl 0.9.1's ReplayBuffer polls every 2 s, which is a floor under every short step. A poll lists every key, so the
# long steps of a GPU run, with many more keys, are polled less often.
CPU_POLL_INTERVAL_S, GPU_POLL_INTERVAL_S = 0.05, 0.25


class SetupMixin(_Trainer):
    """Builds what the hooks need. A subclass sets ``verl_mode`` to the mode of verl that it extends."""

    verl_mode: str
    _account: AccountingReplayBuffer | None = None  # None for a replay buffer of the user's own

    def __init__(self, config: DictConfig) -> None:
        plain: Any = OmegaConf.to_container(config, resolve=True)
        self._user_config = plain
        self.prepo: PrepoConfig = read_config(plain)
        check_config(plain, self.prepo)
        with open_dict(config):
            # verl 0.9.1 compares the mode with its own names in several places, so it must read its own name.
            config.trainer.v1.trainer_mode = self.verl_mode
            if self.prepo.skips_prompts:
                # verl's machinery for groups without reward variance.
                config.algorithm.filter_groups.update({"enable": True, "metric": "reward"})
            # One dataloader fetch is one step's candidates: none is ever left over.
            single = _refills_single_prompts(config, self.verl_mode)
            config.data.gen_batch_size = 1 if single else self.prepo.num_candidates
        self.timing_raw: dict[str, float] = {}  # the asynchronous modes fetch prompts before the first step
        super().__init__(config)

    def _build_replay_buffer(self) -> Any:
        """verl's own buffer for its mode, which also accounts for what it throws away."""
        if (self.config.trainer.v1.sampler.get("custom_sampler") or {}).get("path"):
            return super()._build_replay_buffer()
        # Not at the top: it subclasses what verl.trainer defines, whose import registers this very class.
        from recipe.prepo.trainer.replay import build_replay_buffer

        self._account = build_replay_buffer(
            self.config,
            trainer_mode=self.trainer_mode,
            filter_groups_metric=self._resolve_filter_groups_metric(),
            refill_fn=self._add_prompts_to_generate,
            max_rollouts=self.prepo.num_selected * self.prepo.rollouts_per_prompt // self.parameter_sync_step,
            poll_interval_s=CPU_POLL_INTERVAL_S if is_cpu_platform() else GPU_POLL_INTERVAL_S,
            next_round=self._next_round if self.prepo.skips_prompts else None,
            on_poll=self.on_poll,
        )
        return self._account

    def on_poll(self) -> None:
        """Called again and again while the trainer waits for rollouts; raises what must end the wait."""

    def _next_round(self, num_missing: int, *, zero_variance_frac: float, refills: tuple[Refill, ...]) -> Refill | None:
        return self.controller.next_round(num_missing, zero_variance_frac=zero_variance_frac, refills=refills)

    def _init_dataloader(self) -> None:
        """verl counts steps, epochs and the learning-rate horizon in train batches; a step consumes |B| prompts."""
        data = self.config.data
        data.train_batch_size = self.prepo.num_candidates
        try:
            super()._init_dataloader()
        finally:
            data.train_batch_size = self.prepo.num_selected
        check_data_size(len(self.train_dataset), self.prepo)
        set_val_samples(
            self.val_dataset, self.prepo.val_samples, default=self.config.actor_rollout_ref.rollout.val_kwargs.n
        )
        self._end_with_the_data()
        model: HFModelConfig = omega_conf_to_dataclass(self.config.actor_rollout_ref.model)
        prompt_ids = columns.training_prompt_ids(self.train_dataset.dataframe)
        self.controller = Controller(
            self.prepo.rules,
            identity=RunIdentity(
                seed=self.prepo.seed,
                num_selected=self.prepo.num_selected,
                num_candidates=self.prepo.num_candidates,
                data_sha256=data_fingerprint(prompt_ids),
            ),
            run=RunFacts(
                prompts=PromptIndex(prompt_ids),
                vocab_size=model.hf_config.get_text_config().vocab_size,
                rollouts_per_prompt=self.prepo.rollouts_per_prompt,
                total_steps=self.total_training_steps,
                steps_per_epoch=self.steps_per_epoch,
            ),
            base_temperature=self.prepo.temperature,
        )

    def _end_with_the_data(self) -> None:
        """verl stops at the last epoch; the schedule, the learning rate and the last checkpoint must end there too."""
        steps = self.steps_per_epoch * self.config.trainer.total_epochs
        if self.total_training_steps > steps:
            self.total_training_steps: int = steps
            with open_dict(self.config):
                for optim in (self.config.actor_rollout_ref.actor.optim, self.config.critic.optim):
                    optim.total_training_steps = steps * self.parameter_sync_step

    def _make_scorer(self) -> None:
        config = self.config
        model: HFModelConfig = omega_conf_to_dataclass(config.actor_rollout_ref.model)
        self._tokenize = PromptTokenizer(
            model.tokenizer,
            model_type=model.hf_config.model_type,
            chat_template_kwargs=OmegaConf.to_container(config.data.get("apply_chat_template_kwargs", {})),
            max_prompt_tokens=config.actor_rollout_ref.rollout.prompt_length,
        )
        if self.prepo.scorer == "actor":
            group = self.actor_rollout_wg
            self._score_tokens: Any = ActorScorer(group.compute_log_prob, lambda: data_parallel_size(group))
        else:
            self._score_tokens = RolloutScorer(self.scoring_client)

    def scoring_client(self) -> Any:
        """A client of the servers that roll out."""
        return self.llm_server_manager.get_client()


def _refills_single_prompts(config: DictConfig, verl_mode: str) -> bool:
    """Whether verl 0.9.1 needs ``data.gen_batch_size`` to be 1, to refill evicted prompts one by one."""
    filter_groups = config.algorithm.get("filter_groups")
    return (
        verl_mode != "sync"
        or bool(filter_groups and filter_groups.enable)
        or bool(config.trainer.v1.sampler.get("sync_refill_failed_groups", False))
    )


def data_parallel_size(worker_group: Any) -> int:
    """Data-parallel ranks of the actor, as verl 0.9.1's ``_balance_batch`` finds them."""
    if "actor" not in worker_group._dispatch_info:
        worker_group._dispatch_info["actor"] = worker_group._query_dispatch_info("actor")
    return int(np.max(worker_group._dispatch_info["actor"])) + 1
