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
    """The files of one run directory.

    Args:
        run_dir: ``trainer.default_local_dir``.
        resume_step: last step of the resumed checkpoint; later lines are dropped, for those steps run again.
        audit: whether to write audit lines.
    """

    def __init__(self, run_dir: Path, *, resume_step: int, audit: bool) -> None:
        self._run_dir = run_dir
        self.metrics = StepLog(run_dir / "metrics.jsonl", resume_step=resume_step)
        self._selection = StepLog(run_dir / "audit" / "selection.jsonl", resume_step=resume_step) if audit else None
        self._rollouts = StepLog(run_dir / "audit" / "rollouts.jsonl", resume_step=resume_step) if audit else None

    def write_config(self, config: Any) -> None:
        """``config.yaml``: the resolved configuration, as the user gave it."""
        write_atomically(self._run_dir / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def audit_selection(self, line: Callable[[], dict[str, Any]]) -> None:
        """Append the line of one choice; it is not built where auditing is off."""
        if self._selection is not None:
            self._selection.append([line()])

    def audit_rollouts(self, lines: Callable[[], list[dict[str, Any]]]) -> None:
        """Append the lines of a step's rollouts; they are not built where auditing is off."""
        if self._rollouts is not None:
            self._rollouts.append(lines())


class RunTracker:
    """Passes verl's metrics on to its trackers, writes ``metrics.jsonl``, and then calls ``after_log``.

    All trackers get the same plain numbers, NaN and infinities among them. Anything else ends the run in some of verl
    0.9.1's adapters (tensorboard: None, texts, arrays; file: tensors) or loses the step's metrics (mlflow).

    Args:
        tracking: verl's ``Tracking``.
        metrics_log: ``metrics.jsonl``, where numbers that are not finite become null.
        backends: ``trainer.logger``.
        after_log: called whenever metrics were logged.

    Raises:
        ConfigError: a backend did not start. verl 0.9.1 only logs this for mlflow, in a worker's log, and goes on.
    """

    def __init__(
        self,
        tracking: Any,
        metrics_log: StepLog,
        *,
        backends: str | Sequence[str] = (),
        after_log: Callable[[], None] = lambda: None,
    ) -> None:
        wanted = [backends] if isinstance(backends, str) else list(backends)
        if missing := [name for name in wanted if name != "tracking" and name not in tracking.logger]:
            raise ConfigError(
                f"trainer.logger={wanted}: {', '.join(missing)} could not be started, so its metrics would be lost. "
                f"Its own message is in the log of the task runner. Fix what it names (for mlflow most often "
                f"MLFLOW_TRACKING_URI={os.environ.get('MLFLOW_TRACKING_URI')!r}), or remove it from trainer.logger."
            )
        self._tracking = tracking
        self._metrics_log = metrics_log
        self._after_log = after_log
        self._not_numbers: set[str] = set()

    def log(self, data: Mapping[str, Any], step: int) -> None:
        """Log one step's metrics."""
        numbers = _numbers(data)
        if new := data.keys() - numbers.keys() - self._not_numbers:
            self._not_numbers |= new
            logger.warning("not single numbers, and so in no tracker: %s", ", ".join(sorted(new)))
        self._tracking.log(data=numbers, step=step)
        if step > self._metrics_log.last_step:  # a resumed run first validates a step that is already there
            finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
            self._metrics_log.append([{"step": step, "data": finite}])
        self._after_log()

    def finish(self, *args: Any, **kwargs: Any) -> None:
        self._metrics_log.close()
        self._tracking.finish(*args, **kwargs)
        if "wandb" in self._tracking.logger:
            sys.modules["wandb"].teardown()  # its service process, with its socket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracking, name)


def _numbers(data: Mapping[str, Any]) -> dict[str, float | int]:
    """The metrics that are single numbers, NumPy's and torch's among them, as plain Python ones."""
    plain = {name: value.item() if getattr(value, "ndim", None) == 0 else value for name, value in data.items()}
    return {
        name: value for name, value in plain.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
