"""PREPO as hooks on verl 0.9.1's V1 trainers: read columns -> controller -> write columns -> ``super()``.

``fit``'s loop, ``step`` and ``_step_once`` stay verl's; only the checkpoint moves, from the middle of a step to its
end. By then the step's metrics are written, so a kill between two writes neither loses nor doubles a step.
"""

from __future__ import annotations

import functools
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf, open_dict
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.utils import tensordict_utils
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.debug import marked_timer

from recipe.prepo.candidates import Pool
from recipe.prepo.config import PrepoConfig, check_data_size, check_val_samples, read_config
from recipe.prepo.controller import Controller, RunIdentity, data_fingerprint
from recipe.prepo.errors import ConfigError
from recipe.prepo.maths.prompt_index import PromptIndex
from recipe.prepo.preflight import check_config
from recipe.prepo.reward.own import in_front_of
from recipe.prepo.run.audit import rollout_lines, selection_line
from recipe.prepo.run.checkpoint import load_state, save_state
from recipe.prepo.run.logs import RunLogs
from recipe.prepo.trainer import columns
from recipe.prepo.trainer.prompt_scoring import ActorScorer, PromptTokenizer, RolloutScorer, score_candidates
from recipe.prepo.types import Candidates, Decision, IntArray, RunFacts, concatenate_rollouts
from recipe.prepo.warm_start import read_warm_start

if TYPE_CHECKING:
    from verl.trainer.ppo.v1 import PPOTrainer as _Trainer

    from recipe.prepo.trainer.replay_buffer import PrepoReplayBuffer
else:
    _Trainer = object


class PrepoHooks(_Trainer):
    """Chooses prompts, weighs rollouts and keeps the run's files. Methods follow the life of a run."""

    verl_mode: str  # the mode of verl that a subclass extends
    supervisor_class: Callable[[Any], Any]  # of what watches the run: recipe.prepo.supervise.supervisor
    _own_buffer: PrepoReplayBuffer | None = None  # stays None with a replay buffer of the user's own
    _in_step = False
    _checkpoint_due = False
    _saving_s = 0.0
    _samples_dir = ""  # of validations whose generations are kept in part

    def __init__(self, config: DictConfig) -> None:
        plain: Any = OmegaConf.to_container(config, resolve=True)
        self._user_config = plain
        self.prepo: PrepoConfig = read_config(plain)
        check_config(plain, self.prepo)
        self.supervisor = self.supervisor_class(self)
        self.timing_raw: dict[str, float] = {}  # the asynchronous modes fetch prompts before the first step
        self._updates: list[columns.TrainedRollouts] = []
        with open_dict(config):
            # verl 0.9.1 compares the mode with its own names in several places.
            config.trainer.v1.trainer_mode = self.verl_mode
            if self.prepo.val_generations and not config.trainer.get("validation_data_dir"):
                self._samples_dir = str(Path(config.trainer.default_local_dir).absolute() / "validation")
                config.trainer.validation_data_dir = self._samples_dir
            if self.prepo.skips_prompts:
                config.algorithm.filter_groups.update({"enable": True, "metric": "reward"})
            # One fetch of the dataloader is one step's candidates, except where verl 0.9.1 refills prompt by prompt.
            refills_prompts = (
                self.verl_mode != "sync"
                or (config.algorithm.get("filter_groups") or {}).get("enable", False)
                or config.trainer.v1.sampler.get("sync_refill_failed_groups", False)
            )
            config.data.gen_batch_size = 1 if refills_prompts else self.prepo.num_candidates or 1
            config.reward.custom_reward_function = in_front_of(plain["reward"]["custom_reward_function"])
        super().__init__(config)

    def _build_replay_buffer(self) -> Any:
        # Not at the top: importing verl's replay buffer registers the trainers that are built from this very module.
        from recipe.prepo.trainer.replay_buffer import extend_replay_buffer

        stock = super()._build_replay_buffer()
        self._own_buffer = extend_replay_buffer(self, stock)
        return self._own_buffer or stock

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        check_data_size(len(self.train_dataset), self.prepo)
        # verl counts K prompts a step, but a step consumes |B|. Schedules must end where the data do.
        self.steps_per_epoch: int = self.prepo.steps_per_epoch(len(self.train_dataset))
        steps = self.steps_per_epoch * self.config.trainer.total_epochs
        if self.total_training_steps > steps:
            self.total_training_steps: int = steps
            with open_dict(self.config):
                for optim in (self.config.actor_rollout_ref.actor.optim, self.config.critic.optim):
                    optim.total_training_steps = steps * self.parameter_sync_step
        default_samples = self.config.actor_rollout_ref.rollout.val_kwargs.n
        set_val_samples(self.val_dataset, self.prepo.val_samples, default=default_samples)
        table, prompt_ids = columns.with_prompt_ids(self.train_dataset.dataframe, self.config.data.prompt_key)
        self.train_dataset.dataframe = table
        self._warm_ids = prompt_ids if self.prepo.warm_start else []
        pool = None
        if self.prepo.num_candidates is None:
            pool = Pool(prompt_ids, shuffle_seed=self.config.data.seed if self.config.data.shuffle else None)
            self.train_dataloader: Any = columns.RowLoader(self.train_dataset, self.train_dataloader.collate_fn)
        self._model = omega_conf_to_dataclass(self.config.actor_rollout_ref.model)
        self.controller = Controller(
            self.prepo.rules,
            identity=RunIdentity(data_sha256=data_fingerprint(prompt_ids), **self.prepo.identity),
            run=RunFacts(
                prompts=PromptIndex(prompt_ids),
                vocab_size=self._model.hf_config.get_text_config().vocab_size,
                rollouts_per_prompt=self.prepo.rollouts_per_prompt,
                total_steps=self.total_training_steps,
                steps_per_epoch=self.steps_per_epoch,
            ),
            base_temperature=self.prepo.temperature,
            pool=pool,
        )

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.global_steps > 0:
            by_path = self.config.trainer.resume_mode == "resume_path"
            folder = Path(self.config.trainer.resume_from_path) if by_path else self.checkpoint_dir
            self.controller.load_state_dict(load_state(folder.absolute()))
        elif self.prepo.warm_start:
            self.controller.selection.start_from(read_warm_start(self._warm_ids, **self.prepo.warm_start))
        self._warm_ids = []

    def on_init_end(self) -> None:
        """Workers and servers are up and a checkpoint is loaded: open the run's files and build the scorer."""
        self._logs = RunLogs(self.run_dir, resume_step=self.global_steps, audit=self.prepo.audit)
        self._logs.write_config(self._user_config)
        self._tokenize = PromptTokenizer(
            self._model.tokenizer,
            model_type=self._model.hf_config.model_type,
            chat_template_kwargs=OmegaConf.to_container(self.config.data.get("apply_chat_template_kwargs", {})),
            max_prompt_tokens=self.config.actor_rollout_ref.rollout.prompt_length,
        )
        group = self.actor_rollout_wg
        self._score_tokens: Any = RolloutScorer(self.scoring_client)
        if self.prepo.scorer == "actor":
            self._score_tokens = ActorScorer(group.compute_log_prob, lambda: data_parallel_size(group))
        if not self.controller.temperature.is_constant:
            use_row_temperatures([group, *([self.ref_policy_wg] if self.use_reference_policy else [])])
        super().on_init_end()

    def scoring_client(self) -> Any:
        """A client of the servers that generate rollouts."""
        return self.llm_server_manager.get_client()

    @property
    def run_dir(self) -> Path:
        return Path(self.config.trainer.default_local_dir).absolute()

    @property
    def checkpoint_dir(self) -> Path:
        """Where the current step's checkpoint is."""
        return self.run_dir / f"global_step_{self.global_steps}"

    def fit(self, agent_loop_manager: Any) -> None:
        if self.supervisor.stop_requested():
            self._shutdown_dump_executor()
            self.supervisor.stopped()
            return
        with self.supervisor.training(agent_loop_manager):
            super().fit(agent_loop_manager)
            self._logs.finish()  # here, so that a failure to close the files is a failure of the training

    @property
    def logger(self) -> Any:
        """verl's tracker. ``fit`` sets it, and calls it once at the end of each step."""
        return self._logs

    @logger.setter
    def logger(self, tracking: Any) -> None:
        self._logs.track(tracking, self.config.trainer.logger, after_log=self._end_step)

    def on_step_begin(self) -> None:
        self._in_step = True
        if self._saving_s:
            # Of the step before, whose own metrics were already written.
            self.timing_raw["save_checkpoint"], self._saving_s = self._saving_s, 0.0
        super().on_step_begin()

    @property
    def first_round(self) -> int:
        return self.controller.first_round

    def _next_train_batch(self, num_prompts: int | None = None) -> TensorDict:
        """Draw candidates and return the chosen ones. Every mode of verl fetches its prompts here."""
        choose = self._choose_from_stream if self.prepo.skips_prompts else self._choose
        batch, decision = choose(num_prompts or self.first_round)
        with marked_timer("prompt_selection", self.timing_raw):
            self._logs.audit("selection", lambda: [selection_line(decision)])
            call = decision.call if self.prepo.seed_rollouts else 0
            columns.set_sizes_and_call(batch, decision.rollout_n_P, self.prepo.rollouts_per_prompt, call)
            if not self.controller.temperature.is_constant:
                columns.set_temperature(batch, decision.temperature)
        return batch

    def _choose(self, num_selected: int) -> tuple[TensorDict, Decision]:
        """Choose among candidates, and return the rows of the chosen ones."""
        pool, step = self.controller.pool, self.global_steps
        if pool is None:
            drawn = super()._next_train_batch(self.controller.num_candidates_for(num_selected))
            prompt_ids = columns.prompt_ids_of(drawn)
        else:
            with marked_timer("prompt_selection", self.timing_raw):
                rows_C, prompt_ids = pool.draw(num_selected)
        candidates, places_C = Candidates(prompt_ids), np.arange(len(prompt_ids))
        if self.prepo.score_prompts:

            def score(places: IntArray) -> Candidates:
                if pool is None:
                    messages_C = columns.messages_of(drawn)
                    messages = [messages_C[i] for i in places.tolist()]
                else:
                    messages = [self.train_dataset[row]["raw_prompt"] for row in rows_C[places].tolist()]
                ids = tuple(prompt_ids[i] for i in places.tolist())
                return score_candidates(ids, messages, self._tokenize, self._score_tokens)

            with marked_timer("prompt_scoring", self.timing_raw):
                candidates, places_C = self.controller.with_scores(
                    prompt_ids, num_selected=num_selected, step=step, score=score
                )
        with marked_timer("prompt_selection", self.timing_raw):
            decision = self.controller.select(candidates, num_selected=num_selected, step=step)
            places_P = places_C[decision.selection.indices_P]
            if pool is None:
                return columns.take_rows(drawn, places_P), decision
            self.train_dataloader_it: Any = self.train_dataloader.load(rows_C[places_P])
            batch = self._fetch_one_gen_batch()
            tensordict_utils.assign_non_tensor_data(batch, "global_steps", step)
            return batch, decision

    def _choose_from_stream(self, num_selected: int) -> tuple[TensorDict, Decision]:
        drawn: list[TensorDict] = []

        def draw(num_prompts: int) -> tuple[str, ...]:
            drawn.append(super(PrepoHooks, self)._next_train_batch(num_prompts))
            return columns.prompt_ids_of(drawn[-1])

        with marked_timer("prompt_selection", self.timing_raw):
            decision = self.controller.select_from_stream(draw, num_selected=num_selected, step=self.global_steps)
            batch = drawn[0] if len(drawn) == 1 else tensordict_utils.concat_tensordict(drawn)
            return columns.take_rows(batch, decision.selection.indices_P), decision

    def _val_metrics_update(
        self,
        data_sources: Any,
        sample_uids: Any,
        reward_extra_infos_dict: dict[str, list[Any]],
        sample_turns: Any,
        expected_acc_counts: Any = None,
    ) -> Any:
        infos = columns.of_one_kind(reward_extra_infos_dict)
        return super()._val_metrics_update(data_sources, sample_uids, infos, sample_turns, expected_acc_counts)

    def _submit_batch_to_rollout(self, batch: TensorDict) -> int:
        if self._own_buffer is not None:
            self._own_buffer.note_submitted(batch["uid"])
        return int(super()._submit_batch_to_rollout(batch))

    def on_poll(self) -> None:
        """Called again and again while the replay buffer waits for rollouts. An error ends the wait."""
        self.supervisor.polling()

    def wait_for_dispatch(self) -> None:
        """Wait until prompts that were asked for are submitted. Here that has happened; see ``async_hooks``."""

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Weigh verl's advantages with the entropies of its old-log-prob pass; no further forward pass."""
        self.supervisor.before_advantages(batch, metrics)
        self.wait_for_dispatch()
        with marked_timer("rollout_weighting", self.timing_raw):
            correction = self.config.algorithm.get("rollout_correction") or {}
            trained = columns.read_rollouts(
                batch,
                with_entropy=not correction.get("bypass_mode", False),  # which skips the old-log-prob pass
                with_temperature=not self.controller.temperature.is_constant,
            )
            trained.weight_R = self.controller.weigh(trained.rollouts, step=self.global_steps)
        shaping: AbstractContextManager[None] = nullcontext()
        if not self.controller.shaping.is_identity:
            trained.shaped_R = self.controller.shape(trained.rollouts)
            shaping = columns.shaped_rewards(batch, trained.rows_R, trained.shaped_R)
        with shaping:
            batch = super()._compute_advantage(batch, metrics)
        with marked_timer("rollout_weighting", self.timing_raw):
            batch = self._apply_weights(batch, trained)
            self._updates.append(trained)
            if self.local_trigger_step + 1 == self.parameter_sync_step:  # the step's last update
                metrics.update(self._finish_step())
        return batch

    def _apply_weights(self, batch: KVBatchMeta, trained: columns.TrainedRollouts) -> KVBatchMeta:
        advantages = before = columns.get_column(batch, "advantages")
        if not self.controller.weighting.is_identity:
            advantages = columns.scaled(before, trained.rows_R, trained.weight_R)
            batch = columns.put_column(batch, "advantages", advantages)
        self._logs.audit(
            "rollouts",
            lambda: rollout_lines(
                trained.rollouts,
                step=self.global_steps,
                rollout_R=trained.rollout_R,
                weight_R=trained.weight_R,
                advantage_R=trained.scalar_advantages(before),
                advantage_weighted_R=trained.scalar_advantages(advantages),
                temperature_R=trained.temperature_R,
                base_temperature=self.prepo.temperature,
                shaped_R=trained.shaped_R,
                policy_versions_R=trained.policy_versions_R,
                update=self.local_trigger_step if self.parameter_sync_step > 1 else None,
            ),
        )
        return batch

    def _finish_step(self) -> dict[str, float]:
        updates, self._updates = self._updates, []
        shaped = [each.shaped_R for each in updates if each.shaped_R is not None]
        metrics = self.controller.finish_step(
            concatenate_rollouts([each.rollouts for each in updates]),
            np.concatenate([each.weight_R for each in updates]),
            step=self.global_steps,
            shaped_R=np.concatenate(shaped) if shaped else None,
            discarded=() if self._own_buffer is None else self._own_buffer.take_discarded(),
        )
        if self.controller.remark:
            self.supervisor.tell(self.controller.remark)
        return metrics

    def _dump_generations(
        self, inputs: Any, outputs: Any, gts: Any, scores: Any, reward_extra_infos_dict: Any, dump_path: Any
    ) -> None:
        """verl writes all generations where ``trainer.validation_data_dir`` is set; else a few, of the same prompts."""
        values = {"inputs": inputs, "outputs": outputs, "gts": gts, "scores": scores}
        if dump_path == self._samples_dir:
            kept = first_of_some(inputs, self.prepo.val_generations)
            values, reward_extra_infos_dict = (
                {name: [each[i] for i in kept] for name, each in group.items()}
                for group in (values, reward_extra_infos_dict)
            )
        super()._dump_generations(**values, reward_extra_infos_dict=reward_extra_infos_dict, dump_path=dump_path)

    def _save_checkpoint(self) -> None:
        """verl calls this before the step's metrics are known, so it is only noted here."""
        self._checkpoint_due = True

    def _end_step(self) -> None:
        if not self._in_step:
            return  # the validation before the first step
        self._in_step = False
        stops = self.global_steps < self.total_training_steps and self.supervisor.stop_requested()
        if self._checkpoint_due or stops:
            self._checkpoint_due = False
            with self.supervisor.saving():
                begin = time.perf_counter()
                # This recipe's state first: verl ends by naming the checkpoint as the latest one.
                save_state(self.checkpoint_dir, self.controller.state_dict())
                super()._save_checkpoint()
                self._saving_s = time.perf_counter() - begin
        if stops:
            self.supervisor.stopped()
            self.total_training_steps = self.global_steps  # ends verl's loop


def set_val_samples(dataset: Any, samples: Mapping[str, int], *, default: int) -> None:
    """Give each row of verl's validation dataset its number of samples (``prepo.val_samples``, else ``default``).

    verl 0.9.1 has one number for all sets (``val_kwargs.n``), but its ``_validate`` and agent loop read a column where
    there is one. It names its metrics after each set's number (``val-core/<data_source>/acc/mean@<n>``).
    """
    if not samples:
        return
    table = dataset.dataframe
    if columns.ROLLOUT_N in table.column_names:
        raise ConfigError(
            f"data.val_files have a column {columns.ROLLOUT_N} of their own, which prepo.val_samples would replace. "
            f"Drop the column, or set prepo.val_samples=null."
        )
    data_sources = list(table["data_source"])
    check_val_samples(samples, data_sources)
    num_samples = [int(samples.get(source, default)) for source in data_sources]
    dataset.dataframe = table.add_column(columns.ROLLOUT_N, num_samples)


def first_of_some(texts: Sequence[str], number: int) -> list[int]:
    """Where ``number`` of the different texts first occur. Which ones depends on the texts alone, not on their order.

    >>> first_of_some(["b", "a", "b", "c"], 2), first_of_some(["c", "b", "b", "a"], 2)
    ([0, 3], [0, 1])
    """
    first = {text: i for i, text in reversed(list(enumerate(texts)))}
    chosen = sorted(first, key=lambda text: (zlib.crc32(text.encode(errors="replace")), text))[:number]
    return sorted(first[text] for text in chosen)


def use_row_temperatures(worker_groups: Iterable[Any]) -> None:
    """Let log-prob passes and updates read the temperature that each rollout was sampled at.

    verl 0.9.1 lays ``rollout.temperature`` over each batch. Its FSDP engine takes a column of temperatures, one for
    each row, where there is no such scalar.
    """

    def without_batch_temperature(method: Callable[[KVBatchMeta], Any], batch: KVBatchMeta) -> Any:
        if batch.partition_id == columns.TRAIN_PARTITION:
            batch.extra_info.pop(columns.TEMPERATURE, None)
        return method(batch)

    for group in worker_groups:
        for name in ("compute_log_prob", "compute_ref_log_prob", "update_actor"):
            if hasattr(group, name):
                setattr(group, name, functools.partial(without_batch_temperature, getattr(group, name)))


def data_parallel_size(worker_group: Any) -> int:
    """Data-parallel ranks of the actor, as verl 0.9.1's ``_balance_batch`` finds them."""
    if "actor" not in worker_group._dispatch_info:
        worker_group._dispatch_info["actor"] = worker_group._query_dispatch_info("actor")
    return int(np.max(worker_group._dispatch_info["actor"])) + 1
