"""PREPO as hooks on verl 0.9.1's V1 trainers: read fields -> controller -> write fields -> super().

Mixed into any of verl's trainers in front of it; holds nothing that only one of them needs. ``fit()`` and
``_step_once()`` stay verl's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.utils.debug import marked_timer

from recipe.prepo.run.audit import rollout_lines, selection_line
from recipe.prepo.trainer import columns
from recipe.prepo.trainer.run_files import RunFilesMixin
from recipe.prepo.trainer.scoring import score_candidates
from recipe.prepo.types import Candidates, Decision, FloatArray, RolloutBatch, concatenate_rollouts


@dataclass(frozen=True)
class _Part:
    """What one local update of a step was trained on."""

    rollouts: RolloutBatch
    weight_R: FloatArray
    shaped_R: FloatArray | None


class PrepoMixin(RunFilesMixin):
    """Hooks shared by every ``prepo_<mode>`` trainer."""

    def __init__(self, config: DictConfig) -> None:
        self._parts: list[_Part] = []
        super().__init__(config)

    @property
    def first_round(self) -> int:
        """Prompts that a step asks for first."""
        return self.controller.first_round

    # ---- selection --------------------------------------------------------------------------------------------------

    def _next_train_batch(self, num_prompts: int | None = None) -> TensorDict:
        """Draw candidates, choose among them, and hand on the chosen ones. Every mode fetches prompts here."""
        num_selected = num_prompts or self.first_round
        if self.prepo.skips_prompts:
            batch, decision = self._choose_from_stream(num_selected)
        else:
            batch = super()._next_train_batch(self.controller.num_candidates_for(num_selected))
            candidates = self._candidates(batch)
            with marked_timer("prompt_selection", self.timing_raw):
                decision = self.controller.select(candidates, num_selected=num_selected, step=self.global_steps)
        with marked_timer("prompt_selection", self.timing_raw):
            self._logs.audit_selection(lambda: selection_line(decision))
            batch = columns.take_rows(batch, decision.selection.indices_P)
            columns.set_rollout_n(batch, decision.rollout_n_P, self.prepo.rollouts_per_prompt)
            if self.prepo.seed_rollouts:
                columns.set_call(batch, decision.call)
            if not self.controller.temperature.is_constant:
                columns.set_temperature(batch, decision.temperature)
        return batch

    def _choose_from_stream(self, num_selected: int) -> tuple[TensorDict, Decision]:
        drawn: list[TensorDict] = []

        def draw(num_prompts: int) -> tuple[str, ...]:
            drawn.append(super(PrepoMixin, self)._next_train_batch(num_prompts))
            return columns.prompt_ids_of(drawn[-1])

        with marked_timer("prompt_selection", self.timing_raw):
            decision = self.controller.select_from_stream(draw, num_selected=num_selected, step=self.global_steps)
            return columns.concatenated(drawn), decision

    def _submit_batch_to_rollout(self, batch: TensorDict) -> int:
        if self._account is not None:
            self._account.note_submitted(batch["uid"])
        return int(super()._submit_batch_to_rollout(batch))

    def _candidates(self, batch: TensorDict) -> Candidates:
        prompt_ids = columns.prompt_ids_of(batch)
        if not self.prepo.score_prompts:
            return Candidates(prompt_ids)
        with marked_timer("prompt_scoring", self.timing_raw):
            return score_candidates(prompt_ids, columns.messages_of(batch), self._tokenize, self._score_tokens)

    # ---- weighting --------------------------------------------------------------------------------------------------

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        """Weigh verl's advantages with the entropies that its old-log-prob pass left; no further forward pass."""
        with marked_timer("rollout_weighting", self.timing_raw):
            trained = columns.read_rollouts(
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
            with columns.shaped_rewards(batch, trained.rows_R, shaped_R):
                batch = super()._compute_advantage(batch, metrics)
        with marked_timer("rollout_weighting", self.timing_raw):
            batch = self._apply_weights(batch, trained, weight_R, shaped_R)
            metrics.update(self._finish_part(_Part(trained.rollouts, weight_R, shaped_R)))
        return batch

    def _finish_part(self, part: _Part) -> dict[str, float]:
        """Count a step once, after the last of its ``parameter_sync_step`` local updates."""
        self._parts.append(part)
        if self.local_trigger_step + 1 < self.parameter_sync_step:
            return {}
        parts, self._parts = self._parts, []
        shaped = [part.shaped_R for part in parts if part.shaped_R is not None]
        return self.controller.finish_step(
            concatenate_rollouts([part.rollouts for part in parts]),
            np.concatenate([part.weight_R for part in parts]),
            step=self.global_steps,
            shaped_R=np.concatenate(shaped) if shaped else None,
            discarded=() if self._account is None else self._account.take_discarded(),
        )

    def _apply_weights(
        self, batch: KVBatchMeta, trained: columns.TrainedRollouts, weight_R: FloatArray, shaped_R: FloatArray | None
    ) -> KVBatchMeta:
        advantages = before = columns.read_advantages(batch)
        if not self.controller.weighting.is_identity:
            advantages = columns.weighted(before, trained.rows_R, weight_R)
            batch = columns.write_advantages(batch, advantages)
        self._logs.audit_rollouts(
            lambda: rollout_lines(
                trained.rollouts,
                step=self.global_steps,
                rollout_R=trained.rollout_R,
                weight_R=weight_R,
                advantage_R=columns.scalar_advantages(before, trained),
                advantage_weighted_R=columns.scalar_advantages(advantages, trained),
                temperature_R=trained.temperature_R,
                base_temperature=self.prepo.temperature,
                shaped_R=shaped_R,
                policy_versions_R=trained.policy_versions_R,
                update=self.local_trigger_step if self.parameter_sync_step > 1 else None,
            )
        )
        return batch

    def _bypasses_old_log_prob(self) -> bool:
        correction = self.config.algorithm.get("rollout_correction")
        return bool(correction and correction.get("bypass_mode", False))
