"""What :class:`RunLogs` hands on to verl's trackers. tests/e2e/test_training.py reads back what they kept of a run."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recipe.prepo.errors import ConfigError
from recipe.prepo.run.logs import RunLogs

NUMBERS = {
    "float": 0.5, "int": 7, "float32": np.float32(0.5), "int64": np.int64(7), "array": np.asarray(0.5),
    "tensor": torch.tensor(0.5), "nan": math.nan, "inf": np.float32("inf"),
}  # fmt: skip
OTHERS = {"text": "ab", "none": None, "vector": np.arange(3), "bool": True}


def run_logs(folder: Path, backends: list[str] | str, logger: list[str], log: object = None) -> RunLogs:
    logs = RunLogs(folder, resume_step=0, audit=False)
    tracking = SimpleNamespace(logger=dict.fromkeys(logger), log=log, finish=lambda exit_code: None)
    logs.track(tracking, backends, after_log=lambda: None)
    return logs


def test_trackers_get_plain_numbers_and_what_is_none_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logged: list[dict[str, object]] = []
    logs = run_logs(tmp_path, [], [], log=lambda data, step: logged.append(data))
    for step in (1, 2):
        logs.log(data=NUMBERS | OTHERS, step=step)
    logs.finish()
    for data in logged:
        assert {type(value) for value in data.values()} == {int, float}
        np.testing.assert_equal(data, {name: float(value) for name, value in NUMBERS.items()})
    (message,) = [record.getMessage() for record in caplog.records if "in no tracker" in record.getMessage()]
    assert message.endswith(": bool, none, text, vector")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    expected = {name: float(value) if math.isfinite(value) else None for name, value in NUMBERS.items()}
    assert lines == [{"step": step, "data": expected} for step in (1, 2)]


def test_a_tracker_that_did_not_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mlflow could not be started.*MLFLOW_TRACKING_URI"):
        run_logs(tmp_path, ["console", "mlflow"], ["console"])
    run_logs(tmp_path, "console", ["console"])


@pytest.mark.alarm
def test_verl_itself_goes_on_without_mlflow(tmp_path: Path) -> None:
    """The reason for the check above; once verl raises an error itself, the check can go."""
    code = "import verl.utils.tracking as t; t.MLFLOW_SLEEP_SECONDS = 0; "
    code += "print('backends:', list(t.Tracking('p', 'e', ['console', 'mlflow'], config={}).logger))"
    (tmp_path / "file").touch()
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "backends: ['console']" in done.stdout
