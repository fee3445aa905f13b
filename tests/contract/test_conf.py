"""Every configuration in ``conf/`` composes, and the commands refuse bad input with one readable error."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from composed import composed, conf_yaml, names_in, rule_yaml
from simulated_run import NEUTRAL, every_combination

from recipe.prepo import doctor
from recipe.prepo.config import read_config
from recipe.prepo.errors import ConfigError
from recipe.prepo.preflight import check_config
from recipe.prepo.rules.registry import REGISTRIES

PROJECT = Path(__file__).parents[2]
EXPERIMENTS, METHODS = names_in("experiment"), names_in("method")
GPU = "experiment=prepo-qwen2.5-math-7b-1n8g"
COMBINED = ("method=prepo_e3", "prepo.seed=7")
RULES = [(group, name) for group in REGISTRIES for name in names_in(f"prepo/{group}")]


def test_every_rule_has_a_yaml_and_every_yaml_a_rule() -> None:
    used = {(group, rule_yaml(group, name)["name"]) for group, name in RULES}
    assert used == {(group, name) for group, registry in REGISTRIES.items() for name in registry}


def test_agreed_defaults() -> None:
    config = composed("experiment=prepo-qwen2.5-math-7b-1n8g")
    found = read_config(config)
    names = {**NEUTRAL, "selection": "ppl_schedule", "weighting": "relative_entropy"}
    assert {group: options["name"] for group, options in found.rules.items()} == names
    assert (config["prepo"]["candidate_ratio"], found.audit) == (5.0, True)
    assert config["trainer"]["v1"]["trainer_mode"] == "prepo_sync"
    assert config["actor_rollout_ref"]["actor"]["loss_agg_mode"] == "seq-mean-token-sum-norm"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_rule_works_in_every_experiment_and_with_every_other_rule(experiment: str) -> None:
    config = composed(f"experiment={experiment}")
    trainer, mini_batch = config["trainer"], config["actor_rollout_ref"]["actor"]["ppo_mini_batch_size"]
    assert trainer["default_local_dir"] == f"outputs/{trainer['experiment_name']}"
    assert config["data"]["train_batch_size"] % mini_batch == 0
    for names in every_combination() if experiment == "comparison" else [{group: name} for group, name in RULES]:
        rules = {group: rule_yaml(group, name) for group, name in names.items()}
        changed = {**config, "prepo": {**config["prepo"], **rules}}
        found = read_config(changed)
        check_config(changed, found)
        assert {group: found.rules[group] for group in names} == rules


@pytest.mark.parametrize("method", METHODS)
def test_a_method_sets_the_rules_the_name_and_the_directory_of_a_run(method: str) -> None:
    config = composed("experiment=comparison", f"method={method}", "prepo.seed=7")
    chosen = dict(entry.popitem() for entry in conf_yaml(f"method/{method}")["defaults"])
    expected = {group: rule_yaml(group, chosen[f"override /prepo/{group}"]) for group in REGISTRIES}
    for group in expected:
        expected[group] |= conf_yaml(f"method/{method}").get("prepo", {}).get(group, {})
    found = read_config(config)
    assert found.rules == expected
    assert config["algorithm"]["filter_groups"]["enable"] == (method == "dapo")
    assert config["trainer"]["default_local_dir"] == f"outputs/{method}-seed7"
    check_config(config, found)


def test_methods_are_the_same_in_every_experiment() -> None:
    """No other file sets an option of a rule."""
    for file in (*(f"experiment/{name}" for name in EXPERIMENTS), *(f"cluster/{name}" for name in names_in("cluster"))):
        assert not set(conf_yaml(file).get("prepo", {})) & set(REGISTRIES)
    config = composed(GPU, "method=prepo_e3")
    assert read_config(config).rules == read_config(composed("experiment=comparison", *COMBINED)).rules
    assert config["trainer"]["default_local_dir"] == f"outputs/{GPU.removeprefix('experiment=')}-prepo_e3-seed0"


POOLS = {
    # Experiment, cluster -> mode, actor's pool, servers' pool, engine.
    ("experiment=tiny_cpu", "cpu"): ("prepo_separate_async", (2, 1), (6, 1), "gloo"),
    (GPU, "separate"): ("prepo_separate_async", (2, 8), (6, 8), "nccl"),
    (GPU, "colocated"): ("prepo_sync", (2, 8), (6, 8), "naive"),
}


@pytest.mark.parametrize(("experiment", "cluster"), POOLS)
def test_a_cluster_sets_pools_whose_sizes_may_be_overridden(experiment: str, cluster: str) -> None:
    config = composed(experiment, f"cluster={cluster}", "trainer.nnodes=2", "actor_rollout_ref.rollout.nnodes=6")
    check_config(config, read_config(config))
    trainer, rollout = config["trainer"], config["actor_rollout_ref"]["rollout"]
    assert POOLS[experiment, cluster] == (
        trainer["v1"]["trainer_mode"],
        (trainer["nnodes"], trainer["n_gpus_per_node"]),
        (rollout["nnodes"], rollout["n_gpus_per_node"]),
        rollout["checkpoint_engine"]["backend"],
    )
    assert config["actor_rollout_ref"]["hybrid_engine"] == (cluster == "colocated")


UNKNOWN: list[tuple[str, list[str]]] = [
    ("experiment=tiny_gpu", ["tiny_gpu", *EXPERIMENTS]),
    ("method=gresso", ["gresso", *METHODS]),
    ("prepo/selection=fixxed", ["fixxed", *names_in("prepo/selection")]),
    ("prepo.canditate_ratio=3", ["canditate_ratio", "Did you mean prepo.candidate_ratio?"]),
    ("trainer.total_epoch=3", ["total_epoch", "Did you mean trainer.total_epochs?"]),
    ("prepo=null", ["overrides"]),
]


@pytest.mark.parametrize(("override", "named"), UNKNOWN, ids=[override for override, _ in UNKNOWN])
def test_an_unknown_name_lists_or_suggests_known_ones(override: str, named: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        doctor.compose_config(["experiment=tiny_cpu", override] if "experiment" not in override else [override])
    assert [text for text in named if text not in str(error.value)] == []


def test_the_doctor_refuses_a_value_and_a_data_file_with_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pd.read_parquet(PROJECT / "assets/mini-math/mini_math_train.parquet").head(200).to_dict("records")
    rows[3]["extra_info"].update(prompt_id=rows[0]["extra_info"]["prompt_id"])
    pd.DataFrame(rows).to_parquet(tmp_path / "twice.parquet")
    for override, named in (
        ("prepo.candidate_ratio=0.5", ["prepo.candidate_ratio=0.5", "prepo.candidate_ratio=5"]),
        (f"data.train_files={tmp_path}/twice.parquet", ["twice.parquet", "rows 0 and 3", "prompt_id"]),
    ):
        assert doctor.main(["experiment=tiny_cpu", override]) == 2
        out, err = capsys.readouterr()
        assert err.startswith("error: ") and err.count("\n") == 1
        assert [text for text in named if text not in err] == []
        assert "would start" not in out


def test_the_doctor_prints_what_it_found(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.main(["experiment=tiny_cpu", "trainer.device=cuda", "prepo/selection=greso"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["data"] == "6000 training prompts, 375 steps an epoch"
    assert lines["steps"] == "48"
    assert "this machine shows no GPU" in lines["device"]
    assert lines["rules"].startswith("selection=greso weighting=relative_entropy")
    assert lines["step"] == "24 prompts first, refilled until 16 prompts x 8 rollouts have a signal"


def run(module: str, *overrides: str, folder: Path, path: str = "", options: Sequence[str] = (), **more: str) -> Any:
    """A command in an empty folder, without any sign of a GPU or of a Ray cluster, that is to refuse to start."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREPO_", "RAY_", "VERL_"))}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [path, str(PROJECT), os.environ.get("PYTHONPATH")]))
    folder.mkdir(exist_ok=True)
    command = [sys.executable, *options, "-m", module, "experiment=tiny_cpu", *overrides]
    environment = kept | {"PATH": "/nowhere", "OMP_NUM_THREADS": "1", **more}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and os.listdir(folder) == []
    return done


def test_the_doctor_command_refuses_a_value_before_it_imports_verl(tmp_path: Path) -> None:
    done = run("recipe.prepo.doctor", "data.train_batch_size=8", folder=tmp_path, options=["-X", "importtime"])
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "recipe.prepo.preflight" in imported
    assert not imported & {"verl", "ray", "torch", "vllm", "transformers"}


def test_the_doctor_command_refuses_another_verl(tmp_path: Path) -> None:
    fake = tmp_path / "site" / "verl-0.10.0.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: verl\nVersion: 0.10.0\n", encoding="utf-8")
    done = run("recipe.prepo.doctor", folder=tmp_path / "run", path=str(fake.parent))
    assert done.stderr.startswith("error: this recipe hooks into verl 0.9.1, found 0.10.0")
    assert done.stderr.count("\n") == 1


def test_a_gpu_run_without_a_gpu_stops_at_once_and_names_the_cpu_command(tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    done = run("recipe.prepo.main", "trainer.device=cuda", folder=tmp_path / "run", RAY_TMPDIR=str(tmp_path / "ray"))
    assert "bash run_qwen.sh experiment=tiny_cpu" in done.stderr and "Traceback" not in done.stderr
    assert "starting Ray" not in done.stdout and os.listdir(tmp_path / "ray") == []


def run_qwen(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "run_qwen.sh", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False)


def test_run_qwen_helps_in_one_screen_and_refuses_unknown_and_old_names() -> None:
    done = run_qwen("experiment=tiny_cpu", "--help")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("\n") <= 24
    assert [name for name in (*EXPERIMENTS, *METHODS) if name not in done.stdout] == []
    old = run_qwen("experiment=prepo")
    assert (old.returncode, old.stdout, len(old.stderr.splitlines())) == (2, "", 1)
    assert "bash run_qwen.sh experiment=comparison method=prepo" in old.stderr
    unknown = run_qwen("experiment=tiny_cpu", "method=random,gresso")
    assert unknown.returncode == 2
    assert "there is no method 'gresso'" in unknown.stderr and "greso" in unknown.stderr
