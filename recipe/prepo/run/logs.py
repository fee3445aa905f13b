"""The files that a run writes while it trains: configuration, metrics and audit lines."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from recipe.prepo.errors import ConfigError
from recipe.prepo.run.files import write_atomically
from recipe.prepo.run.jsonl import StepLog

logger = logging.getLogger(__name__)


class RunLogs:
    """The files of one run directory, and verl's trackers.

    All trackers get the same plain numbers, NaN and infinities among them; in ``metrics.jsonl`` those become null.
    Anything else ends the run in some of verl 0.9.1's adapters, or loses the step's metrics. Lines after
    ``resume_step`` are dropped, for those steps run again.
    """

    def __init__(self, run_dir: Path, *, resume_step: int, audit: bool) -> None:
        names = ["metrics.jsonl", *(["audit/selection.jsonl", "audit/rollouts.jsonl"] if audit else [])]
        self._run_dir = run_dir
        self._logs = {Path(name).stem: StepLog(run_dir / name, resume_step=resume_step) for name in names}
        self._not_numbers: set[str] = set()

    def write_config(self, config: Any) -> None:
        """``config.yaml``: the resolved configuration, as the user gave it."""
        write_atomically(self._run_dir / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def audit(self, name: str, lines: Callable[[], list[dict[str, Any]]]) -> None:
        """Append to ``audit/<name>.jsonl``; the lines are not built where auditing is off."""
        if name in self._logs:
            self._logs[name].append(lines())

    def track(self, tracking: Any, backends: str | Sequence[str], after_log: Callable[[], None]) -> None:
        """Log to verl's ``Tracking`` from now on, and call ``after_log`` after each time.

        Raises:
            ConfigError: a tracker did not start. verl 0.9.1 only logs this for mlflow, in a worker's log.
        """
        wanted = [backends] if isinstance(backends, str) else list(backends)
        if missing := [name for name in wanted if name != "tracking" and name not in tracking.logger]:
            raise ConfigError(
                f"trainer.logger={wanted}: {', '.join(missing)} could not be started. Its own message is in the log of "
                f"the task runner. Fix what it names (for mlflow most often "
                f"MLFLOW_TRACKING_URI={os.environ.get('MLFLOW_TRACKING_URI')!r}), or remove it from trainer.logger."
            )
        self._tracking, self._after_log = tracking, after_log

    def log(self, data: Mapping[str, Any], step: int) -> None:
        """Log one step's metrics, as verl's ``Tracking`` does."""
        plain = {name: value.item() if getattr(value, "ndim", None) == 0 else value for name, value in data.items()}
        numbers = {name: value for name, value in plain.items() if type(value) in (int, float)}
        if new := data.keys() - numbers.keys() - self._not_numbers:
            self._not_numbers |= new
            logger.warning("not single numbers, and so in no tracker: %s", ", ".join(sorted(new)))
        self._tracking.log(data=numbers, step=step)
        metrics = self._logs["metrics"]
        if step > metrics.last_step:  # a resumed run first validates a step that is already there
            finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
            metrics.append([{"step": step, "data": finite}])
        self._after_log()

    def finish(self, exit_code: int = 0) -> None:
        """Close ``metrics.jsonl`` and the trackers; verl calls it again when its task runner ends."""
        self._logs["metrics"].close()
        self._tracking.finish(exit_code=exit_code)
        if "wandb" in self._tracking.logger:
            sys.modules["wandb"].teardown()  # its service process, with its socket
