"""Every configuration in ``conf/`` composes, and the doctor tells each bad input in one readable error."""

from __future__ import annotations

import copy
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

from recipe.prepo import doctor
from recipe.prepo.config import read_config
from recipe.prepo.errors import ConfigError
from recipe.prepo.rules.registry import REGISTRIES, SELECTION, WEIGHTING

PROJECT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.stem for path in (PROJECT / "conf" / "experiment").glob("*.yaml"))
TRAIN = PROJECT / "assets" / "mini-math" / "mini_math_train.parquet"


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(doctor.compose_config(overrides), resolve=True)
    return plain


def combinations() -> list[tuple[str, str, str]]:
    """All of selection x weighting with the CPU experiment; two of these pairs, in turn, with each of the others."""
    pairs = list(itertools.product(SELECTION, WEIGHTING))
    turn = itertools.cycle(pairs)
    others = [(name, *next(turn)) for name in EXPERIMENTS if name != "tiny_cpu" for _ in range(2)]
    return [*(("tiny_cpu", *pair) for pair in pairs), *others]


@pytest.mark.parametrize(("experiment", "selection", "weighting"), combinations())
def test_experiment_composes_with_every_rule(experiment: str, selection: str, weighting: str) -> None:
    config = compose([f"experiment={experiment}", f"prepo/selection={selection}", f"prepo/weighting={weighting}"])
    found = read_config(config)
    assert found.rules["selection"]["name"] == selection
    assert found.rules["weighting"]["name"] == weighting
    assert found.num_candidates == (5 if SELECTION[selection].uses_candidates else 1) * found.num_selected
    assert config["trainer"]["default_local_dir"] == f"outputs/{config['trainer']['experiment_name']}"


def test_agreed_defaults() -> None:
    config = compose(["data.train_files=x", "data.val_files=x"])
    found = read_config(config)
    assert {group: options["name"] for group, options in found.rules.items()} == {
        "selection": "ppl_schedule",
        "weighting": "relative_entropy",
        "budget": "fixed",
        "temperature": "constant",
    }
    assert (config["prepo"]["candidate_ratio"], found.audit) == (5.0, True)
    assert config["trainer"]["v1"]["trainer_mode"] == "prepo_sync"
    assert config["actor_rollout_ref"]["actor"]["loss_agg_mode"] == "seq-mean-token-sum-norm"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_no_step_trains_on_more_than_it_draws_and_mini_batches_divide_it(experiment: str) -> None:
    config = compose([f"experiment={experiment}"])
    assert config["data"]["train_batch_size"] % config["actor_rollout_ref"]["actor"]["ppo_mini_batch_size"] == 0


def test_overrides_of_one_composition_do_not_leak_into_the_next() -> None:
    before = copy.deepcopy(compose(["experiment=tiny_cpu"]))
    compose(["experiment=tiny_cpu", "prepo.seed=9", "prepo/selection=uniform"])
    assert compose(["experiment=tiny_cpu"]) == before


@pytest.mark.parametrize("group", REGISTRIES)
def test_typo_in_a_rule_name_lists_the_known_names(group: str) -> None:
    with pytest.raises(ConfigError) as error:
        doctor.compose_config(["experiment=tiny_cpu", f"prepo/{group}=fixxed"])
    assert "fixxed" in str(error.value)
    assert all(name in str(error.value) for name in REGISTRIES[group])


def test_typo_in_an_experiment_lists_the_known_names() -> None:
    with pytest.raises(ConfigError) as error:
        doctor.compose_config(["experiment=tiny_gpu"])
    assert "tiny_gpu" in str(error.value)
    assert all(name in str(error.value) for name in EXPERIMENTS)


def changed_rows(folder: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    """The shipped training file with its fourth row changed."""
    rows = pd.read_parquet(TRAIN).head(200).to_dict("records")
    change(rows[3])
    path = folder / "changed.parquet"
    pd.DataFrame(rows).to_parquet(path)
    return f"data.train_files={path}"


def set_prompt_id(value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda row: row["extra_info"].update(prompt_id=value)


def first_prompt_id() -> str:
    return str(pd.read_parquet(TRAIN)["extra_info"][0]["prompt_id"])


# What is wrong -> overrides (given a folder), and what the error must name.
BAD: dict[str, tuple[Callable[[Path], list[str]], list[str]]] = {
    "ratio below one": (
        lambda _: ["prepo.candidate_ratio=0.5"],
        ["prepo.candidate_ratio=0.5", "prepo.candidate_ratio=5"],
    ),
    "more candidates than rows": (
        lambda _: ["prepo.candidate_ratio=1000"],
        ["6000 prompts", "16000", "train_batch_size"],
    ),
    "row without prompt_id": (lambda f: [changed_rows(f, set_prompt_id(None))], ["changed.parquet", "3", "prompt_id"]),
    "prompt_id twice": (
        lambda f: [changed_rows(f, set_prompt_id(first_prompt_id()))],
        ["changed.parquet", "rows 0 and 3", "prompt_id"],
    ),
    "empty gold": (
        lambda f: [changed_rows(f, lambda row: row["reward_model"].update(ground_truth=" "))],
        ["changed.parquet", "3", "ground_truth"],
    ),
    "file not there": (lambda f: [f"data.train_files={f}/no.parquet"], ["no.parquet", "does not exist"]),
    "unknown rule": (lambda _: ["prepo/selection=ppl_shedule"], ["ppl_shedule", "ppl_schedule", "uniform"]),
    "rule as a value": (lambda _: ["prepo.selection=uniform"], ["prepo.selection", "prepo/selection=uniform"]),
    "switch that is no truth value": (lambda _: ["prepo.audit=off"], ["prepo.audit", "off"]),
    "unknown key": (lambda _: ["prepo.candidates=3"], ["candidates"]),
    "section set to null": (lambda _: ["prepo=null"], ["overrides"]),
    "temperature as a word": (lambda _: ["actor_rollout_ref.rollout.temperature=hot"], ["temperature", "hot"]),
    "bypass_mode with entropy": (
        lambda _: ["algorithm.rollout_correction.bypass_mode=true"],
        ["bypass_mode=False", "prepo/weighting=none"],
    ),
    "fused kernels with entropy": (
        lambda _: ["actor_rollout_ref.model.use_fused_kernels=true"],
        ["use_fused_kernels=False", "prepo/weighting=none"],
    ),
    "stock trainer": (lambda _: ["trainer.v1.trainer_mode=sync"], ["'sync'", "trainer.v1.trainer_mode=prepo_sync"]),
    "model not there": (
        lambda f: [f"actor_rollout_ref.model.path={f}/model"],
        ["actor_rollout_ref.model.path=", "is not there"],
    ),
}


@pytest.mark.parametrize(("overrides", "named"), BAD.values(), ids=BAD.keys())
def test_doctor_tells_bad_input_in_one_error(
    overrides: Callable[[Path], list[str]], named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = doctor.main(["experiment=tiny_cpu", *overrides(tmp_path)])
    out, err = capsys.readouterr()
    assert status == 2
    assert err.startswith("error: ")
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    assert [text for text in named if text not in err] == []
    assert "would start" not in out


@pytest.mark.parametrize(
    "override", ["algorithm.rollout_correction.bypass_mode=true", "actor_rollout_ref.model.use_fused_kernels=true"]
)
def test_doctor_allows_what_only_entropies_forbid(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["experiment=tiny_cpu", "prepo/weighting=none", override]) == 0
    assert "weighting=none" in capsys.readouterr().out


def test_doctor_of_a_gpu_experiment_needs_no_gpu(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.main(["experiment=tiny_cpu", "trainer.device=cuda"]) == 0
    assert "no GPU" in capsys.readouterr().out


def run(module: str, *overrides: str, folder: Path, options: Sequence[str] = (), **environment: str) -> Any:
    """A command in an empty folder, with every sign of a GPU or of a Ray cluster taken away."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREPO_", "RAY_", "VERL_"))}
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, *options, "-m", module, *overrides],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(PROJECT), "PATH": "/nowhere", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_doctor_command_says_yes_without_importing_the_stack(tmp_path: Path) -> None:
    done = run("recipe.prepo.doctor", "experiment=tiny_cpu", folder=tmp_path, options=["-X", "importtime"])
    assert done.returncode == 0
    assert "ok: this run would start" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "recipe.prepo.environment" in imported
    assert not imported & {"verl", "ray", "torch", "vllm", "transformers"}
    assert os.listdir(tmp_path) == []


def test_doctor_command_refuses_another_verl(tmp_path: Path) -> None:
    fake = tmp_path / "site" / "verl-0.10.0.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: verl\nVersion: 0.10.0\n", encoding="utf-8")
    path = f"{fake.parent}{os.pathsep}{PROJECT}"
    done = run("recipe.prepo.doctor", "experiment=tiny_cpu", folder=tmp_path / "run", PYTHONPATH=path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: this recipe hooks into verl 0.9.1, found 0.10.0")
    assert len(done.stderr.strip().splitlines()) == 1


def test_gpu_run_without_a_gpu_stops_at_once_and_names_the_cpu_command(tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    run_dir = tmp_path / "run"
    done = run(
        "recipe.prepo.main",
        "experiment=tiny_cpu",
        "trainer.device=cuda",
        folder=run_dir,
        RAY_TMPDIR=str(tmp_path / "ray"),
    )
    assert done.returncode == 2
    assert "bash run_qwen.sh experiment=tiny_cpu" in done.stderr
    assert "Traceback" not in done.stderr
    assert "starting Ray" not in done.stdout
    assert os.listdir(tmp_path / "ray") == os.listdir(run_dir) == []


def test_main_command_tells_bad_input_like_the_doctor(tmp_path: Path) -> None:
    done = run("recipe.prepo.main", "experiment=tiny_cpu", "prepo.candidate_ratio=0.5", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: prepo.candidate_ratio=0.5")
    assert len(done.stderr.strip().splitlines()) == 1
