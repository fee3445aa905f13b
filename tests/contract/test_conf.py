"""Every configuration in ``conf/`` composes, and the doctor tells each bad input in one readable error."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf
from simulated_run import NEUTRAL, every_combination

from recipe.prepo import doctor
from recipe.prepo.config import read_config
from recipe.prepo.errors import ConfigError
from recipe.prepo.rules.registry import REGISTRIES, SELECTION

PROJECT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.stem for path in (PROJECT / "conf" / "experiment").glob("*.yaml"))
ROWS = sorted(path.stem for path in (PROJECT / "conf" / "method").glob("*.yaml"))
MODELS = sorted(set(EXPERIMENTS) - set(ROWS))
TRAIN = PROJECT / "assets" / "mini-math" / "mini_math_train.parquet"


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(doctor.compose_config(overrides), resolve=True)
    return plain


DEFAULTS = NEUTRAL | {"selection": "ppl_schedule", "weighting": "relative_entropy"}
RULES = [(group, name) for group, registry in REGISTRIES.items() for name in registry]


@pytest.mark.parametrize(("group", "name"), RULES)
def test_rule_is_one_override_away(group: str, name: str) -> None:
    names = DEFAULTS | {group: name}
    found = read_config(compose(["experiment=tiny_cpu", f"prepo/{group}={name}"]))
    assert {group: options["name"] for group, options in found.rules.items()} == names
    assert found.num_candidates == (5 if SELECTION[names["selection"]].uses_candidates else 1) * found.num_selected


@pytest.mark.parametrize("experiment", MODELS)
def test_every_combination_of_rules_is_accepted(experiment: str) -> None:
    config = compose([f"experiment={experiment}"])
    for names in every_combination():
        rules = {group: rule_yaml(group, name) for group, name in names.items()}
        found = read_config({**config, "prepo": {**config["prepo"], **rules}})
        assert found.rules == rules
        assert found.skips_prompts == (names["selection"] == "greso")


def rule_yaml(group: str, name: str) -> dict[str, Any]:
    return yaml.safe_load((PROJECT / "conf" / "prepo" / group / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_run_directory_is_named_after_the_experiment(experiment: str) -> None:
    config = compose([f"experiment={experiment}"])
    assert config["trainer"]["default_local_dir"] == f"outputs/{config['trainer']['experiment_name']}"


# Row of the comparison -> its rules where they are not the neutral ones.
METHODS: dict[str, dict[str, str]] = {
    "random": {},
    "grpo": {"selection": "all"},
    "dapo": {"selection": "all"},
    "greso": {"selection": "greso"},
    "prepo": {"selection": "ppl_schedule", "weighting": "relative_entropy"},
    "schedule_only": {"selection": "ppl_schedule"},
    "weights_only": {"weighting": "relative_entropy"},
    "low_only": {"selection": "ppl_schedule"},
    "high_only": {"selection": "ppl_schedule"},
    "e3": {"selection": "all", "budget": "difficulty", "temperature": "entropy_target"},
    "prepo_e3": {
        "selection": "ppl_schedule",
        "weighting": "relative_entropy",
        "budget": "difficulty",
        "temperature": "entropy_target",
    },
    "mopps": {"selection": "mopps"},
    "mopps_ppl": {"selection": "mopps_ppl"},
    "uniform_skip": {"selection": "uniform_skip"},
    "prepo_skip": {"selection": "ppl_schedule_skip", "weighting": "relative_entropy"},
}


def test_every_row_of_the_comparison_has_its_files() -> None:
    assert set(METHODS) == set(ROWS)
    assert set(ROWS) <= set(EXPERIMENTS)


@pytest.mark.parametrize("row", METHODS)
def test_row_means_the_same_on_the_cpu_and_on_a_cluster(row: str) -> None:
    """The rules, and verl's filter for «dapo» only; each seed of a row has a run directory of its own."""
    tiny = compose([f"experiment={row}", "prepo.seed=7"])
    cluster = compose([f"experiment={MODELS[0]}", f"method={row}"])
    for config in (tiny, cluster):
        names = {group: options["name"] for group, options in read_config(config).rules.items()}
        assert names == NEUTRAL | METHODS[row]
        assert config["algorithm"]["filter_groups"]["enable"] == (row == "dapo")
    assert tiny["trainer"]["default_local_dir"] == f"outputs/{row}-seed7"
    assert tiny["trainer"]["device"] == "cpu"
    shared = compose(["experiment=random", "prepo.seed=7"])
    assert {key: tiny["data"][key] for key in tiny["data"]} == shared["data"]


@pytest.mark.parametrize("row", METHODS)
def test_doctor_accepts_every_row(row: str) -> None:
    assert doctor.main([f"experiment={row}"]) == 0


@pytest.mark.parametrize(
    ("overrides", "is_told"),
    [
        (["experiment=prepo_e3"], True),
        (["experiment=prepo_e3", "prepo.temperature.target_nats=0.3"], False),
        (["experiment=prepo_e3", "prepo/temperature=constant"], False),
        (["experiment=e3"], False),
        (["experiment=low_only", "prepo/temperature=entropy_target"], False),
    ],
)
def test_a_target_from_the_schedules_first_prompts_is_told(
    overrides: list[str], is_told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main(overrides) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note ")]
    assert len(notes) == is_told
    if is_told:
        for override in ("prepo/temperature=constant", "prepo.temperature.target_nats"):
            assert override in notes[0]


def test_agreed_defaults() -> None:
    config = compose(["data.train_files=x", "data.val_files=x"])
    found = read_config(config)
    assert {group: options["name"] for group, options in found.rules.items()} == DEFAULTS
    assert (config["prepo"]["candidate_ratio"], found.audit) == (5.0, True)
    assert config["trainer"]["v1"]["trainer_mode"] == "prepo_sync"
    assert config["actor_rollout_ref"]["actor"]["loss_agg_mode"] == "seq-mean-token-sum-norm"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_no_step_trains_on_more_than_it_draws_and_mini_batches_divide_it(experiment: str) -> None:
    config = compose([f"experiment={experiment}"])
    assert config["data"]["train_batch_size"] % config["actor_rollout_ref"]["actor"]["ppo_mini_batch_size"] == 0


POOLS = {
    # Experiment, cluster -> mode, actor's pool, servers' pool, engine.
    ("tiny_cpu", "cpu"): ("prepo_separate_async", (1, 1), (1, 1), "gloo"),
    ("greso", "cpu"): ("prepo_separate_async", (1, 1), (1, 1), "gloo"),
    ("prepo-qwen2.5-math-7b-1n8g", "separate"): ("prepo_separate_async", (1, 8), (1, 8), "nccl"),
    ("prepo-qwen2.5-math-7b-1n8g", "colocated"): ("prepo_sync", (1, 8), (0, 8), "naive"),
}


@pytest.mark.parametrize(("experiment", "cluster"), POOLS)
def test_pools_are_one_override_away(experiment: str, cluster: str) -> None:
    config = compose([f"experiment={experiment}", f"cluster={cluster}"])
    read_config(config)
    trainer, rollout = config["trainer"], config["actor_rollout_ref"]["rollout"]
    assert POOLS[experiment, cluster] == (
        trainer["v1"]["trainer_mode"],
        (trainer["nnodes"], trainer["n_gpus_per_node"]),
        (rollout["nnodes"], rollout["n_gpus_per_node"]),
        rollout["checkpoint_engine"]["backend"],
    )
    assert config["actor_rollout_ref"]["hybrid_engine"] == (cluster == "colocated")


@pytest.mark.parametrize("cluster", sorted(path.stem for path in (PROJECT / "conf" / "cluster").glob("*.yaml")))
def test_sizes_of_pools_may_be_overridden(cluster: str) -> None:
    experiment = "tiny_cpu" if cluster == "cpu" else "prepo-qwen2.5-math-7b-1n8g"
    config = compose(
        [f"experiment={experiment}", f"cluster={cluster}", "trainer.nnodes=2", "actor_rollout_ref.rollout.nnodes=6"]
    )
    assert (config["trainer"]["nnodes"], config["actor_rollout_ref"]["rollout"]["nnodes"]) == (2, 6)


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


NO_WEIGHTS = ["prepo/weighting=none"]
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
    "bypass_mode with a temperature rule": (
        lambda _: [*NO_WEIGHTS, "prepo/temperature=entropy_target", "algorithm.rollout_correction.bypass_mode=true"],
        ["bypass_mode=False", "prepo/temperature=entropy_target", "prepo/temperature=constant"],
    ),
    "fused kernels with a temperature rule": (
        lambda _: [*NO_WEIGHTS, "prepo/temperature=entropy_target", "actor_rollout_ref.model.use_fused_kernels=true"],
        ["use_fused_kernels=False", "prepo/temperature=constant"],
    ),
    "temperatures by row in another engine": (
        lambda _: ["prepo/temperature=entropy_target", "actor_rollout_ref.actor.strategy=megatron"],
        ["strategy='megatron'", "strategy=fsdp2", "prepo/temperature=constant"],
    ),
    "group size outside of the budget's bounds": (
        lambda _: ["prepo/budget=difficulty", "actor_rollout_ref.rollout.n=16"],
        ["rollout.n=16", "prepo.budget.highest=12", "prepo.budget.lowest"],
    ),
    "budget's bounds the wrong way round": (
        lambda _: ["prepo/budget=difficulty", "prepo.budget.lowest=13"],
        ["lowest=13", "highest=12"],
    ),
    "unknown allocation": (
        lambda _: ["prepo/budget=difficulty", "prepo.budget.allocation=greedy"],
        ["allocation='greedy'", "clip", "published"],
    ),
    "skipping with a filter on another metric": (
        lambda _: ["prepo/selection=greso", *(f"algorithm.filter_groups.{o}" for o in ("enable=true", "metric=acc"))],
        ["metric='acc'", "metric=reward"],
    ),
    "skipping with a sampler of one's own": (
        lambda _: ["prepo/selection=greso", "trainer.v1.sampler.custom_sampler.path=mine.py"],
        ["mine.py", "custom_sampler.path=null", "prepo/selection=uniform"],
    ),
    "skipping with a reward model that grades later": (
        lambda _: ["prepo/selection=greso", "reward.reward_model.enable=true"],
        ["enable_resource_pool=True", "prepo/selection=uniform"],
    ),
    "first round larger than the data": (
        lambda _: ["prepo/selection=greso", "prepo.selection.first_round_ratio=1000"],
        ["6000 prompts", "16000", "first_round_ratio"],
    ),
    "skipping every prompt for ever": (
        lambda _: ["prepo/selection=greso", "prepo.selection.explore=0"],
        ["explore=0", "0.01"],
    ),
    "length bias without strength": (lambda _: ["prepo/shaping=length_bias", "prepo.shaping.mu=0"], ["mu=0"]),
    "seeds with split prompts on a CPU": (
        lambda _: ["actor_rollout_ref.rollout.enable_chunked_prefill=true"],
        ["enable_chunked_prefill=False", "prepo.seed_rollouts=False"],
    ),
    "scores for a rule that draws one by one": (
        lambda _: ["prepo/selection=greso", "prepo.score_candidates=always"],
        ["prepo/selection=greso", "score_candidates=auto"],
    ),
    "seeds without this recipe's agent loop": (
        lambda _: ["actor_rollout_ref.rollout.agent.agent_loop_manager_class=null"],
        ["agent_loop_manager_class=None", "PrepoAgentLoopManager", "seed_rollouts"],
    ),
    "temperatures without this recipe's agent loop": (
        lambda _: [
            "prepo.seed_rollouts=false",
            "prepo/temperature=entropy_target",
            "actor_rollout_ref.rollout.agent.agent_loop_manager_class=verl.experimental.agent_loop.AgentLoopManager",
        ],
        ["prepo/temperature=entropy_target", "PrepoAgentLoopManager"],
    ),
    "seeds where timing decides": (
        lambda _: ["trainer.v1.trainer_mode=prepo_colocate_async"],
        ["prepo_colocate_async", "prepo.seed_rollouts=False"],
    ),
    "separate pools without a pool for the servers": (
        lambda _: ["cluster=cpu", "actor_rollout_ref.rollout.nnodes=0"],
        ["rollout.nnodes=0", "cluster=separate"],
    ),
    "samples of a set that is not there": (
        lambda _: ["prepo.val_samples={aime24: 16}"],
        ["aime24", "mini_math", "prepo.val_samples={mini_math: 16}"],
    ),
    "unknown tracker": (lambda _: ["trainer.logger=[wandbb]"], ["wandbb", "wandb"]),
    "unknown row": (lambda _: ["method=gresso"], ["gresso", "greso"]),
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
