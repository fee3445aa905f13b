"""PREPO as hooks on verl 0.9.1's V1 trainers: read fields -> controller -> write fields -> super().

Mixed into any of verl's trainers in front of it; holds nothing that only one of them needs. ``fit()`` and
``_step_once()`` stay verl's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf, open_dict
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.debug import marked_timer
from verl.workers.config import HFModelConfig

from recipe.prepo.adapters import fields
from recipe.prepo.adapters.run_logs import RunLogs, TrackingTee
from recipe.prepo.adapters.scoring import ActorScorer, PromptTokenizer, RolloutScorer, score_candidates
from recipe.prepo.adapters.temperature import read_temperatures_by_row
from recipe.prepo.config import PrepoConfig, check_data_size, read_config
from recipe.prepo.cpu import is_cpu_platform
from recipe.prepo.maths.prompt_index import PromptIndex
from recipe.prepo.maths.skipping import Refill
from recipe.prepo.notation import Candidates, Decision, FloatArray, RunFacts
from recipe.prepo.state.audit import rollout_lines, selection_line
from recipe.prepo.state.checkpoint import load_state, save_state
from recipe.prepo.state.controller import Controller, RunIdentity, data_fingerprint

if TYPE_CHECKING:
    from verl.trainer.ppo.v1 import PPOTrainer as _Trainer

    from recipe.prepo.adapters.replay import AccountingReplayBuffer
else:
    _Trainer = object

# verl 0.9.1's ReplayBuffer polls every 2 s, which is a floor under every short step. A poll lists every key, so the
# long steps of a GPU run, with many more keys, are polled less often.
CPU_POLL_INTERVAL_S, GPU_POLL_INTERVAL_S = 0.05, 0.25


class PrepoMixin(_Trainer):
    """Hooks shared by every ``prepo_<mode>`` trainer; a subclass sets ``verl_mode`` to the mode it extends."""

    verl_mode: str
    _account: AccountingReplayBuffer | None = None  # None for a replay buffer of the user's own

    def __init__(self, config: DictConfig) -> None:
        plain: Any = OmegaConf.to_container(config, resolve=True)
        self._user_config = plain
        self.prepo: PrepoConfig = read_config(plain)
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

    # ---- set-up -----------------------------------------------------------------------------------------------------

    def _build_replay_buffer(self) -> Any:
        """verl's own buffer for its mode, which also accounts for what it throws away."""
        if (self.config.trainer.v1.sampler.get("custom_sampler") or {}).get("path"):
            return super()._build_replay_buffer()
        # Not at the top: it subclasses what verl.trainer defines, whose import registers this very class.
        from recipe.prepo.adapters.replay import build_replay_buffer

        self._account = build_replay_buffer(
            self.config,
            trainer_mode=self.trainer_mode,
            filter_groups_metric=self._resolve_filter_groups_metric(),
            refill_fn=self._add_prompts_to_generate,
            max_rollouts=self.prepo.num_selected * self.prepo.rollouts_per_prompt // self.parameter_sync_step,
            poll_interval_s=CPU_POLL_INTERVAL_S if is_cpu_platform() else GPU_POLL_INTERVAL_S,
            next_round=self._next_round if self.prepo.skips_prompts else None,
        )
        return self._account

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
        self._end_with_the_data()
        model: HFModelConfig = omega_conf_to_dataclass(self.config.actor_rollout_ref.model)
        prompt_ids = [info["prompt_id"] for info in self.train_dataset.dataframe["extra_info"]]
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
            self._score_tokens = RolloutScorer(self.get_llm_client)

    # ---- selection --------------------------------------------------------------------------------------------------

    def _next_train_batch(self, num_prompts: int | None = None) -> TensorDict:
        """Draw candidates, choose among them, and hand on the chosen ones. Every mode fetches prompts here."""
        num_selected = num_prompts or self.controller.first_round
        if self.prepo.skips_prompts:
            batch, decision = self._choose_from_stream(num_selected)
        else:
            batch = super()._next_train_batch(self.controller.num_candidates_for(num_selected))
            candidates = self._candidates(batch)
            with marked_timer("prompt_selection", self.timing_raw):
                decision = self.controller.select(candidates, num_selected=num_selected, step=self.global_steps)
        with marked_timer("prompt_selection", self.timing_raw):
            self._logs.audit_selection(lambda: selection_line(decision))
            batch = fields.take_rows(batch, decision.selection.indices_P)
            fields.set_rollout_n(batch, decision.rollout_n_P, self.prepo.rollouts_per_prompt)
            if self.prepo.seed_rollouts:
                fields.set_call(batch, decision.call)
            if not self.controller.temperature.is_constant:
                fields.set_temperature(batch, decision.temperature)
        return batch

    def _choose_from_stream(self, num_selected: int) -> tuple[TensorDict, Decision]:
        drawn: list[TensorDict] = []

        def draw(num_prompts: int) -> tuple[str, ...]:
            drawn.append(super(PrepoMixin, self)._next_train_batch(num_prompts))
            return fields.prompt_ids_of(drawn[-1])

        with marked_timer("prompt_selection", self.timing_raw):
            decision = self.controller.select_from_stream(draw, num_selected=num_selected, step=self.global_steps)
            return fields.concatenated(drawn), decision

    def _submit_batch_to_rollout(self, batch: TensorDict) -> int:
        if self._account is not None:
            self._account.note_submitted(batch["uid"])
        return int(super()._submit_batch_to_rollout(batch))

    def _candidates(self, batch: TensorDict) -> Candidates:
        prompt_ids = fields.prompt_ids_of(batch)
        if not self.prepo.score_prompts:
            return Candidates(prompt_ids)
        with marked_timer("prompt_scoring", self.timing_raw):
            return score_candidates(prompt_ids, fields.messages_of(batch), self._tokenize, self._score_tokens)

    # ---- weighting --------------------------------------------------------------------------------------------------

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Weigh verl's advantages with the entropies that its old-log-prob pass left; no further forward pass."""
        with marked_timer("rollout_weighting", self.timing_raw):
            trained = fields.read_rollouts(
                batch,
                with_entropy=not self._bypasses_old_log_prob(),
                with_temperature=not self.controller.temperature.is_constant,
            )
            weight_R = self.controller.weigh(trained.rollouts, step=self.global_steps)
        shaped_R = None
        if self.controller.shaping.is_identity:
            batch = super()._compute_advantage(batch, metrics)
        else:
            shaped_R = self.controller.shape(trained.rollouts)
            with fields.shaped_rewards(batch, trained.rows_R, shaped_R):
                batch = super()._compute_advantage(batch, metrics)
        with marked_timer("rollout_weighting", self.timing_raw):
            batch = self._apply_weights(batch, trained, weight_R, shaped_R)
            discarded = () if self._account is None else self._account.take_discarded()
            metrics.update(
                self.controller.finish_step(
                    trained.rollouts, weight_R, step=self.global_steps, shaped_R=shaped_R, discarded=discarded
                )
            )
        return batch

    def _apply_weights(
        self, batch: KVBatchMeta, trained: fields.TrainedRollouts, weight_R: FloatArray, shaped_R: FloatArray | None
    ) -> KVBatchMeta:
        advantages = before = fields.read_advantages(batch)
        if not self.controller.weighting.is_identity:
            advantages = fields.weighted(before, trained.rows_R, weight_R)
            batch = fields.write_advantages(batch, advantages)
        self._logs.audit_rollouts(
            lambda: rollout_lines(
                trained.rollouts,
                step=self.global_steps,
                rollout_R=trained.rollout_R,
                weight_R=weight_R,
                advantage_R=fields.scalar_advantages(before, trained),
                advantage_weighted_R=fields.scalar_advantages(advantages, trained),
                temperature_R=trained.temperature_R,
                base_temperature=self.prepo.temperature,
                shaped_R=shaped_R,
            )
        )
        return batch

    def _bypasses_old_log_prob(self) -> bool:
        correction = self.config.algorithm.get("rollout_correction")
        return bool(correction and correction.get("bypass_mode", False))

    # ---- checkpoints and logs ---------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        """This project's state first: verl ends by naming the checkpoint as the latest one."""
        save_state(self._run_dir / f"global_step_{self.global_steps}", self.controller.state_dict())
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        step: int = self.global_steps
        if step > 0:
            self.controller.load_state_dict(load_state(self._checkpoint_dir(step)))
        self._logs = RunLogs(self._run_dir, resume_step=step, audit=self.prepo.audit)
        self._logs.write_config(self._user_config)
        self._make_scorer()
        if not self.controller.temperature.is_constant:
            reference = [self.ref_policy_wg] if self.use_reference_policy else []
            read_temperatures_by_row([self.actor_rollout_wg, *reference])

    @property
    def _run_dir(self) -> Path:
        return Path(self.config.trainer.default_local_dir).absolute()

    def _checkpoint_dir(self, step: int) -> Path:
        trainer = self.config.trainer
        if trainer.resume_mode == "resume_path":
            return Path(trainer.resume_from_path).absolute()
        return self._run_dir / f"global_step_{step}"

    @property
    def logger(self) -> Any:
        """verl's tracker, which ``fit`` sets; every metric also goes to ``metrics.jsonl``."""
        return self._tracking

    @logger.setter
    def logger(self, tracking: Any) -> None:
        self._tracking = TrackingTee(tracking, self._logs.metrics)


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
