"""What surrounds a run: versions, devices, data, model folders and names of earlier versions."""

import importlib.metadata
import subprocess

import pandas as pd
import pytest
from composed import composed
from stand_ins import executable

from data_prep.common import build_row
from recipe.prepo.config import read_config
from recipe.prepo.cpu import cpu_environment, is_cpu_platform
from recipe.prepo.errors import ConfigError, DataError
from recipe.prepo.preflight import (
    check_all,
    check_data,
    check_device,
    check_model,
    check_verl_version,
    findings,
    has_gpu,
    joined_ray,
)

CONF = {"trainer.total_epochs": 3, "trainer.total_training_steps": None, "data.train_batch_size": 2}
CONF["actor_rollout_ref.actor.ppo_mini_batch_size"] = 2


def rows_file(folder, name, size, **columns):
    def row(i):
        names = {"data_source": "d", "split": "train", "prompt_id": f"{name}/{i}"}
        return build_row(question=f"{i}?", ground_truth=str(i), index=i, **names) | columns

    path = folder / f"{name}.parquet"
    pd.DataFrame([row(i) for i in range(size)]).to_parquet(path)
    return str(path)


def found_in(folder, num_rows, **changes):
    """Check a configuration with this many training rows and 10 candidates in a step."""
    files = {"data.train_files": rows_file(folder, "train", num_rows), "data.val_files": [rows_file(folder, "val", 1)]}
    config = composed(changes={**CONF, **files, **changes})
    prepo = read_config(config)
    return findings(config, prepo, check_all(config, prepo))


def test_another_verl_version_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "verl-0.10.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: verl\nVersion: 0.10.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.metadata.version("verl") == "0.10.0"
    with pytest.raises(ConfigError, match=r"verl 0\.9\.1, found 0\.10\.0.*pip install verl==0\.9\.1"):
        check_verl_version()


def test_the_vendors_tool_decides_about_the_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    for text, expected in (("exit 0", True), ("exit 9", False)):
        executable(tmp_path / "nvidia-smi", text)
        assert has_gpu() is expected

    def hang(command, **_options):
        raise subprocess.TimeoutExpired(command, 30)

    executable(tmp_path / "nvidia-smi", "exit 0")
    monkeypatch.setattr(subprocess, "run", hang)
    assert has_gpu() is False


def test_gpu_run_without_a_gpu_names_the_cpu_command(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = {"trainer": {"device": "cuda"}, "ray_kwargs": {"ray_init": None}}
    with pytest.raises(ConfigError, match=r"trainer\.device=cuda.*bash run_qwen\.sh experiment=tiny_cpu.*RAY_ADDRESS"):
        check_device(config)
    check_device({**config, "ray_kwargs": {"ray_init": {"address": "auto"}}})
    check_device({**config, "trainer": {"device": "cpu"}})


@pytest.mark.parametrize(
    ("option", "variable", "joined"),
    [
        (None, None, ""),
        (None, "local", ""),
        ("local", "10.0.0.1:6379", ""),
        ("auto", None, "auto"),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"),
    ],
)
def test_which_ray_is_joined(option, variable, joined, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert joined_ray({"address": option, "num_cpus": 2}) == joined


def model_config(path):
    return {"actor_rollout_ref": {"model": {"path": path}}}


def test_model_folder_and_hub_id(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        check_model(model_config(str(tmp_path)))
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert str(tmp_path) in check_model(model_config(str(tmp_path)))
    assert "Qwen/Qwen2.5-Math-1.5B" in check_model(model_config("Qwen/Qwen2.5-Math-1.5B"))
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert "local" in check_model(model_config(f"~/{tmp_path.name}"))


@pytest.mark.parametrize("path", ["/not/there", "./model", "~/model", "model", "a/b/c", "", None])
def test_a_missing_model_path_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"actor_rollout_ref\.model\.path="):
        check_model(model_config(path))


@pytest.mark.parametrize(
    ("changes", "steps", "line"),
    [
        ({}, 6, ""),
        ({"trainer.total_training_steps": 4}, 4, ""),
        ({"trainer.total_training_steps": 1000}, 6, "steps     6 (not trainer.total_training_steps=1000"),
        ({"data.train_max_samples": 12}, 3, "12 training prompts, 1 steps an epoch"),
    ],
)
def test_steps_are_counted_in_candidates_of_the_rows_that_are_used(tmp_path, changes, steps, line):
    found = found_in(tmp_path, 25, **changes)
    assert found.total_steps == steps and line in "\n".join(found.lines)


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (ConfigError, r"9 prompts.*\|B\| = 10", {"data.train_max_samples": 9}),
        (ConfigError, r"data\.train_files=None.*data_prep", {"data.train_files": None}),
        (ConfigError, r"data\.val_files=\[\].*data_prep", {"data.val_files": []}),
        (DataError, r"nowhere\.parquet", {"data.val_files": ["nowhere.parquet"]}),
        (ConfigError, r"aime24.*prepo\.val_samples=\{d: 16\}", {"prepo.val_samples": {"aime24": 16}}),
    ],
)
def test_data_files_that_cannot_work_are_refused(tmp_path, error, message, changes):
    with pytest.raises(error, match=message):
        found_in(tmp_path, 25, **changes)


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
def test_rows_are_checked_against_model_reward_and_rules(tmp_path, columns, message, changes):
    (tmp_path / "config.json").write_text("{}")
    files = {"data.train_files": rows_file(tmp_path, "t", 40, **columns), "data.val_files": rows_file(tmp_path, "v", 1)}
    first = {**CONF, **files, "actor_rollout_ref.model.path": str(tmp_path)}
    refused, accepted = (composed(changes=each) for each in (first, first | changes))
    with pytest.raises(ConfigError, match=message):
        check_data(refused, read_config(refused))
    assert check_data(accepted, read_config(accepted)).num_rows == 40


def test_samples_of_a_missing_data_source_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"aime24.*prepo\.val_samples=\{d: 16\}"):
        found_in(tmp_path, 10, **{"prepo.val_samples": {"aime24": 16}})


def test_cpu_environment_keeps_what_is_set(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    assert not is_cpu_platform()
    found = cpu_environment()
    assert (found["OMP_NUM_THREADS"], found["VERL_PLATFORM"]) == ("3", "cpu")
    monkeypatch.setenv("VERL_PLATFORM", " CPU ")
    assert is_cpu_platform()
