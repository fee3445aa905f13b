"""What a run keeps: verl's checkpoint with this recipe's state beside it, metrics, audit lines, configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recipe.prepo.run.checkpoint import load_state, save_state
from recipe.prepo.run.logs import RunLogs, TrackingTee
from recipe.prepo.trainer.setup import SetupMixin
from recipe.prepo.trainer.temperature import read_temperatures_by_row


class RunFilesMixin(SetupMixin):
    """Saves and restores the controller with verl's checkpoints, and writes the run directory's files."""

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
        self._tracking = TrackingTee(tracking, self._logs.metrics, backends=self.config.trainer.logger)
