"""verl's own trackers behind :class:`RunLogs`: each backend's reader finds every metric of the contract."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tracker_records import CONTRACT, json_lines_history, mlflow_history, tensorboard_history, wandb_history
from verl.utils.tracking import Tracking

from recipe.prepo.doctor import compose_config
from recipe.prepo.errors import ConfigError
from recipe.prepo.run.logs import RunLogs

ROOT = Path(__file__).resolve().parents[2]
# verl's validation metrics have an @ in their names, which mlflow refuses.
VALIDATION = "val-core/mini_math/acc/mean@2"
KINDS: list[Callable[[float], object]] = [float, np.float32, np.float64, torch.tensor, lambda value: np.asarray(value)]


def step_data(step: int) -> dict[str, object]:
    """Every name of the contract, with a value of its own at each step, as the kinds of numbers that verl passes."""
    data = {name: KINDS[i % len(KINDS)](step + i / 4) for i, name in enumerate(CONTRACT)}
    strange = {"strange/nan": float("nan"), "strange/inf": np.float32("inf"), "strange/int": np.int64(7 + step)}
    dropped = {"dropped/text": "ab", "dropped/none": None, "dropped/array": np.arange(3), "dropped/bool": True}
    return {**data, **strange, **dropped, VALIDATION: 0.5 * step}


ALL = ["console", "tensorboard", "wandb", "mlflow", "file"]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps through all of verl's trackers at once, offline, in a process of their own (wandb has global state)."""
    folder = tmp_path_factory.mktemp("trackers")
    code = f"import runpy; runpy.run_path({__file__!r})['log_two_steps']({str(folder)!r})"
    environment = {
        "TENSORBOARD_DIR": str(folder / "tensorboard"),
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "VERL_FILE_LOGGER_PATH": str(folder / "file.jsonl"),
        "PREPO_ASSETS": str(ROOT / "assets"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def run_logs(folder: Path) -> RunLogs:
    return RunLogs(folder, resume_step=0, audit=False)


def log_two_steps(folder: str) -> None:
    config = OmegaConf.to_container(compose_config(["experiment=tiny_cpu"]), resolve=True)
    tracking = Tracking("prepo", "trackers", ALL, config=config)
    logs = run_logs(Path(folder))
    logs.track(tracking, ALL, after_log=lambda: None)
    for step in (1, 2):
        logs.log(data=step_data(step), step=step)
    logs.finish()


def expected(step: int) -> dict[str, float]:
    return {name: float(value) for name, value in step_data(step).items() if not name.startswith("dropped/")}  # type: ignore[arg-type]


def assert_read_back(found: dict[int, dict[str, float]], *, rename: Callable[[str], str] = lambda name: name) -> None:
    assert sorted(found) == [1, 2]
    for step in (1, 2):
        want = {rename(name): value for name, value in expected(step).items()}
        assert set(want) <= set(found[step]), step
        assert not [name for name in found[step] if name.startswith("dropped/")]
        for name, value in want.items():
            if name not in ("strange/nan", "strange/inf"):
                assert found[step][name] == pytest.approx(value, rel=1e-6), (step, name)
        assert math.isnan(found[step]["strange/nan"])
        assert found[step]["strange/inf"] > 1e308


def test_tensorboard_and_wandb_offline_have_every_metric(logged: Path) -> None:
    assert_read_back(tensorboard_history(logged / "tensorboard"))
    assert_read_back(wandb_history(logged))


def test_mlflow_has_every_metric_with_at_signs_spelled_out(logged: Path) -> None:
    run, found = mlflow_history(f"sqlite:///{logged / 'mlflow.db'}", "prepo")
    assert (run.info.run_name, run.info.status) == ("trackers", "FINISHED")
    # The whole configuration, of verl's several hundred keys.
    assert run.data.params["data/train_batch_size"] == "16"
    assert run.data.params["prepo/candidate_ratio"] == "5.0"
    assert_read_back(found, rename=lambda name: name.replace("@", "_at_"))


@pytest.mark.parametrize("name", ["file.jsonl", "metrics.jsonl"])
def test_json_lines_have_every_metric(logged: Path, name: str) -> None:
    """JSON has no NaN and no infinity: both become null."""
    found = json_lines_history(logged / name)
    for data in found.values():
        assert data["strange/nan"] is None and data["strange/inf"] is None
        data.update({"strange/nan": math.nan, "strange/inf": math.inf})
    assert_read_back(found)


def test_a_tracker_that_did_not_start_is_named(tmp_path: Path) -> None:
    tracking = SimpleNamespace(logger={"console": object()})
    with pytest.raises(ConfigError, match=r"mlflow could not be started.*MLFLOW_TRACKING_URI"):
        run_logs(tmp_path).track(tracking, ["console", "mlflow"], after_log=lambda: None)
    run_logs(tmp_path).track(tracking, "console", after_log=lambda: None)


@pytest.mark.alarm
def test_verl_itself_goes_on_without_mlflow(tmp_path: Path) -> None:
    """The reason for the check above; once verl raises an error itself, the check can go."""
    code = (
        "import verl.utils.tracking as t; t.MLFLOW_SLEEP_SECONDS = 0; "
        "print('backends:', list(t.Tracking('p', 'e', ['console', 'mlflow'], config={}).logger))"
    )
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "backends: ['console']" in done.stdout


def test_a_metric_that_is_no_number_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracking = SimpleNamespace(logger={}, log=lambda **_: None)
    logs = run_logs(tmp_path)
    logs.track(tracking, [], after_log=lambda: None)
    for step in (1, 2):
        logs.log(data=step_data(step), step=step)
    (message,) = [record.getMessage() for record in caplog.records if "in no tracker" in record.getMessage()]
    assert "dropped/array, dropped/bool, dropped/none, dropped/text" in message
