"""What the entry point decides before anything is started: which Ray, which checkpoint, and how a stop is reported."""

import os
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from recipe.prepo.errors import ConfigError, StateError
from recipe.prepo.main import (
    _report_stop,
    archive_earlier,
    choose_platform,
    choose_ray,
    ray_logs,
    resume_step,
    worker_log,
)
from recipe.prepo.run.checkpoint import save_state

CLUSTER = {"num_cpus": 4, "num_gpus": 1, "include_dashboard": False}


def config_with(**ray_init):
    return OmegaConf.create({"ray_kwargs": {"ray_init": {**CLUSTER, **ray_init}}})


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    names = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_enable_metrics_collection")
    for name in (*names, "PREPO_RUN_ID", "PREPO_GRADING_TIME_LIMIT_S"):
        monkeypatch.setenv(name, "before")


@pytest.mark.parametrize(
    ("own", "variable", "expected"),
    [
        ({}, "", {**CLUSTER, "address": "local", "logging_level": "WARNING"}),  # not what an earlier run left
        ({}, "10.0.0.1:6379", {}),  # a joined cluster has its own sizes
        ({"address": "auto"}, "", {"address": "auto"}),
    ],
)
def test_which_ray_a_run_starts_or_joins(own, variable, expected, monkeypatch):
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    config = config_with(**own)
    choose_ray(config)
    assert config.ray_kwargs.ray_init == expected


def test_every_worker_gets_the_run_id_and_the_grading_limit():
    config = OmegaConf.create({"prepo": {"grading_time_limit_s": 2.5}, "trainer": {"device": "cuda"}})
    config.merge_with(config_with(runtime_env={"env_vars": {"OWN": "1"}}))
    choose_platform(config)
    environment = config.ray_kwargs.ray_init.runtime_env.env_vars
    assert environment.OWN == "1"
    assert environment.PREPO_GRADING_TIME_LIMIT_S == os.environ["PREPO_GRADING_TIME_LIMIT_S"] == "2.5"
    assert environment.PREPO_RUN_ID == os.environ["PREPO_RUN_ID"] != "before"


@pytest.mark.parametrize(
    ("step", "mode", "status", "text"),
    [
        (4, "auto", 75, "after step 4 of 9 (SIGTERM); the same command resumes"),
        (4, "disable", 143, "after step 4 of 9 (SIGTERM); trainer.resume_mode=auto resumes"),
        (2, "auto", 143, "before the first step was done (SIGTERM)"),
    ],
)
def test_a_stop_says_how_to_resume(step, mode, status, text, capsys):
    """Status 75 only where a batch system that starts the run again gets further."""
    assert _report_stop(step, "SIGTERM", mode, first_step=2, total_steps=9) == status
    assert text in capsys.readouterr().out


def trainer(mode, folder, path=None):
    values = {"resume_mode": mode, "default_local_dir": str(folder), "resume_from_path": path, "val_only": False}
    return OmegaConf.create(values)


def prepo(**changes):
    identity = {"seed": 1, "num_selected": 2, "num_candidates": 10, **changes}
    return SimpleNamespace(identity=identity, rules={})


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    save_state(tmp_path / "global_step_3", {"identity": prepo(model="a").identity, "options": {}})
    with pytest.raises(StateError, match=r"run\.model='a', this run has 'b'"):
        resume_step(trainer("resume_path", tmp_path, tmp_path / "global_step_3"), prepo(model="b"))


@pytest.mark.parametrize("path", [None, "", "checkpoints/last", "global_step_x"])
def test_a_path_that_names_no_checkpoint_is_refused(path, tmp_path):
    with pytest.raises(ConfigError, match=r"trainer\.resume_from_path=.*global_step_<N>.*trainer\.resume_mode=auto"):
        resume_step(trainer("resume_path", tmp_path, path), prepo())


def test_the_step_of_a_path_is_that_of_its_name(tmp_path):
    assert resume_step(trainer("auto", tmp_path), prepo()) == 0
    assert resume_step(trainer("resume_path", tmp_path, "/on/another/node/global_step_12"), prepo()) == 12
    (tmp_path / "global_step_7").mkdir()
    assert resume_step(trainer("disable", tmp_path), prepo()) == 0
    with pytest.raises(StateError):  # it is there, and lacks its state
        resume_step(trainer("resume_path", tmp_path, tmp_path / "global_step_7"), prepo())


@pytest.mark.parametrize(
    ("mode", "path", "left"),
    [
        ("auto", None, [2, 4]),
        ("disable", None, []),
        ("resume_path", "global_step_2", [2]),
        ("resume_path", "elsewhere/global_step_2", []),
    ],
)
def test_checkpoints_of_an_earlier_course_are_archived(mode, path, left, tmp_path):
    for step in (2, 4):
        (tmp_path / f"global_step_{step}").mkdir()
    archive_earlier(trainer(mode, tmp_path, path and str(tmp_path / path)), 2 if path else 0)
    assert [step for step in (2, 4) if (tmp_path / f"global_step_{step}").exists()] == left


def test_the_named_logs_are_those_of_this_run(tmp_path, monkeypatch):
    monkeypatch.delenv("PREPO_RAY_LOGS", raising=False)
    config = config_with(_temp_dir=str(tmp_path))
    assert ray_logs(config) == "/tmp/ray/session_latest/logs"
    for name in (f"21_{os.getpid()}", f"22_{os.getpid()}", "23_1"):
        (tmp_path / f"session_2026-11-{name}").mkdir()
    assert ray_logs(config) == f"{tmp_path}/session_2026-11-22_{os.getpid()}/logs"
    monkeypatch.setenv("PREPO_RAY_LOGS", str(tmp_path))
    assert ray_logs(config) == str(tmp_path)
    (tmp_path / "worker-a0-01-77.err").touch()
    assert worker_log(config, "77") == f"{tmp_path}/worker-a0-01-77.err"
    assert worker_log(config, "7") == worker_log(config, "") == str(tmp_path)
