"""What a run leaves in its directory while it goes on: configuration, metrics and audit lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from recipe.prepo.state.checkpoint import write_atomically
from recipe.prepo.state.jsonl import StepLog


class RunLogs:
    """The files of one run directory.

    Args:
        run_dir: ``trainer.default_local_dir``.
        resume_step: last step of the resumed checkpoint; lines after it are dropped, for those steps run again.
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
        """Append the line of one choice; not even built when auditing is off."""
        if self._selection is not None:
            self._selection.append([line()])

    def audit_rollouts(self, lines: Callable[[], list[dict[str, Any]]]) -> None:
        """Append the lines of a step's rollouts; not even built when auditing is off."""
        if self._rollouts is not None:
            self._rollouts.append(lines())


def _numbers(data: Mapping[str, Any]) -> dict[str, float | int | None]:
    """The numbers among the metrics; those that are not finite become null, which every JSON reader takes."""
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in data.items()}
    return {
        name: value if math.isfinite(value) else None
        for name, value in plain.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


class TrackingTee:
    """Passes verl's metrics on to its tracker and writes ``metrics.jsonl``."""

    def __init__(self, tracking: Any, metrics_log: StepLog) -> None:
        self._tracking = tracking
        self._metrics_log = metrics_log

    def log(self, data: Mapping[str, Any], step: int) -> None:
        """Log one step. The validation that a resumed run starts with belongs to a step that stands already."""
        self._tracking.log(data=data, step=step)
        if step > self._metrics_log.last_step:
            self._metrics_log.append([{"step": step, "data": _numbers(data)}])

    def finish(self, *args: Any, **kwargs: Any) -> None:
        self._metrics_log.close()
        self._tracking.finish(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracking, name)
