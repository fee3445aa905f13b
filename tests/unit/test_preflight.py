"""What surrounds a run: versions, devices, data, model folders and names of earlier versions."""

from __future__ import annotations

import importlib.metadata
import stat
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from composed import composed

from data_prep.common import build_row
from recipe.prepo.config import read_config
from recipe.prepo.cpu import cpu_environment, is_cpu_platform
from recipe.prepo.errors import ConfigError, DataError
from recipe.prepo.preflight import (
    Findings,
    check_all,
    check_data,
    check_device,
    check_model,
    check_verl_version,
    findings,
    has_gpu,
    joined_ray,
    project_root,
)

CONF = {"trainer.total_epochs": 3, "trainer.total_training_steps": None, "data.train_batch_size": 2}
CONF["actor_rollout_ref.actor.ppo_mini_batch_size"] = 2


def rows_file(folder: Path, name: str, size: int, **columns: Any) -> str:
    rows = [
        build_row(
            data_source="d", question=f"{i}?", ground_truth=str(i), prompt_id=f"{name}/{i}", split="train", index=i
        )
        for i in range(size)
    ]
    path = folder / f"{name}.parquet"
    pd.DataFrame([{**row, **columns} for row in rows]).to_parquet(path)
    return str(path)


def found_in(folder: Path, num_rows: int, **changes: Any) -> Findings:
    """Check a configuration with this many training rows and 10 candidates in a step."""
    files = {"data.train_files": rows_file(folder, "train", num_rows), "data.val_files": [rows_file(folder, "val", 1)]}
    config = composed(changes={**CONF, **files, **changes})
    prepo = read_config(config)
    return findings(config, prepo, check_all(config, prepo))


def tool(folder: Path, text: str) -> None:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_another_verl_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "verl-0.10.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: verl\nVersion: 0.10.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.metadata.version("verl") == "0.10.0"
    with pytest.raises(ConfigError, match=r"verl 0\.9\.1, found 0\.10\.0.*pip install verl==0\.9\.1"):
        check_verl_version()


@pytest.mark.parametrize(("text", "expected"), [("exit 0", True), ("exit 9", False)])
def test_the_vendors_tool_decides_about_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: bool
) -> None:
    tool(tmp_path, text)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert has_gpu() is expected


def test_a_hanging_vendor_tool_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **_options: Any) -> None:
        raise subprocess.TimeoutExpired(command, 30)

    tool(tmp_path, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", hang)
    assert has_gpu() is False


def test_gpu_run_without_a_gpu_names_the_cpu_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config: dict[str, Any] = {"trainer": {"device": "cuda"}, "ray_kwargs": {"ray_init": None}}
    with pytest.raises(ConfigError, match=r"trainer\.device=cuda.*bash run_qwen\.sh experiment=tiny_cpu.*RAY_ADDRESS"):
        check_device(config)
    check_device({**config, "ray_kwargs": {"ray_init": {"address": "auto"}}})
    with pytest.raises(ConfigError):
        check_device({**config, "ray_kwargs": {"ray_init": {"address": "local"}}})
    check_device({**config, "trainer": {"device": "cpu"}})
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_device(config)


@pytest.mark.parametrize(
    ("option", "variable", "joined"),
    [
        (None, None, ""),
        ("local", None, ""),
        (None, "local", ""),
        ("local", "10.0.0.1:6379", ""),
        ("auto", None, "auto"),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"),
    ],
)
def test_which_ray_is_joined(
    option: str | None, variable: str | None, joined: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert joined_ray({"address": option, "num_cpus": 2}) == joined


def model_config(path: Any) -> dict[str, Any]:
    return {"actor_rollout_ref": {"model": {"path": path}}}


def test_model_folder_and_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert str(tmp_path) in check_model(model_config(str(tmp_path)))
    assert "Qwen/Qwen2.5-Math-1.5B" in check_model(model_config("Qwen/Qwen2.5-Math-1.5B"))
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert "local" in check_model(model_config(f"~/{tmp_path.name}"))


@pytest.mark.parametrize("path", ["/not/there", "./model", "~/model", "../a/b", "model", "a/b/c", "", None])
def test_a_missing_model_path_is_refused(path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"actor_rollout_ref\.model\.path="):
        check_model(model_config(path))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        check_model(model_config(str(tmp_path)))


def test_steps_are_counted_in_candidates(tmp_path: Path) -> None:
    assert found_in(tmp_path, 25).total_steps == 6
    assert found_in(tmp_path, 25, **{"trainer.total_training_steps": 4}).total_steps == 4


def test_steps_that_the_epochs_cut_off_are_reported(tmp_path: Path) -> None:
    found = found_in(tmp_path, 25, **{"trainer.total_training_steps": 1000})
    assert found.total_steps == 6
    assert found.lines[-1].startswith("steps     6 (not trainer.total_training_steps=1000")


def test_steps_are_those_of_the_rows_that_are_used(tmp_path: Path) -> None:
    found = found_in(tmp_path, 25, **{"data.train_max_samples": 12})
    assert found.total_steps == 3
    assert "12 training prompts, 1 steps an epoch" in found.lines[-2]


def test_too_few_rows_for_a_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"9 prompts.*\|B\| = 10"):
        found_in(tmp_path, 25, **{"data.train_max_samples": 9})


@pytest.mark.parametrize("name", ["train_files", "val_files"])
def test_missing_data_files_are_named(tmp_path: Path, name: str) -> None:
    for value in (None, []):
        with pytest.raises(ConfigError, match=rf"data\.{name}={'None' if value is None else '.*'}.*data_prep"):
            found_in(tmp_path, 10, **{f"data.{name}": value})
    with pytest.raises(DataError, match=r"nowhere\.parquet"):
        found_in(tmp_path, 10, **{f"data.{name}": ["nowhere.parquet"]})


DICT_GOLD = {"reward_model": {"ground_truth": {"x": "1"}}}
OWN_REWARD = {"reward.custom_reward_function.path": "mine.py"}
NO_SCORES = {"prepo.selection": {"name": "uniform"}, "prepo.score_candidates": "auto"}


@pytest.mark.parametrize(
    ("columns", "message", "changes"),
    [
        ({"images": [{"path": "a.png"}]}, "row 0 .*column images .*no processor", {"data.image_key": "pictures"}),
        (DICT_GOLD, "row 0 .*ground_truth is .*'x'.*default reward can never match", OWN_REWARD),
        ({"agent_name": "tool_agent"}, "agent_name has tool_agent.*prepo/selection=uniform", NO_SCORES),
    ],
)
def test_rows_are_checked_against_model_reward_and_rules(
    tmp_path: Path, columns: dict[str, Any], message: str, changes: dict[str, Any]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    files = {"data.train_files": rows_file(tmp_path, "t", 40, **columns), "data.val_files": rows_file(tmp_path, "v", 1)}
    config = composed(changes={**CONF, **files, "actor_rollout_ref.model.path": str(model)})
    with pytest.raises(ConfigError, match=message):
        check_data(config, read_config(config))
    config = composed(changes={**CONF, **files, "actor_rollout_ref.model.path": str(model), **changes})
    assert check_data(config, read_config(config)).num_rows == 40


def test_samples_of_a_missing_data_source_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"aime24.*prepo\.val_samples=\{d: 16\}"):
        found_in(tmp_path, 10, **{"prepo.val_samples": {"aime24": 16}})


def test_cpu_environment_keeps_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    assert not is_cpu_platform()
    found = cpu_environment()
    assert (found["OMP_NUM_THREADS"], found["VERL_PLATFORM"]) == ("3", "cpu")
    monkeypatch.setenv("VERL_PLATFORM", " CPU ")
    assert is_cpu_platform()


def test_project_root_holds_the_assets() -> None:
    assert (project_root() / "assets" / "mini-math-qwen2" / "config.json").is_file()
