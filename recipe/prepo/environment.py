"""What surrounds the recipe: verl's version, devices, data files and model. Imports none of verl, Ray and torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.prepo.config import PrepoConfig, check_data_size, check_val_samples, remarks
from recipe.prepo.cpu import CPU_PLATFORM
from recipe.prepo.errors import ConfigError
from recipe.prepo.requirements import value_at
from recipe.prepo.rows import data_sources, validate_files

VERL_VERSION = "0.9.1"
TOOL_TIMEOUT_S = 30
CPU_COMMAND = "bash run_qwen.sh experiment=tiny_cpu"


def project_root() -> Path:
    """The folder that holds ``assets/``: the checkout, or the installed package itself."""
    package = Path(__file__).resolve().parent
    return package if (package / "assets").is_dir() else package.parents[1]


def set_paths() -> None:
    """Export what ``conf/`` refers to: verl's configuration folder and this project's assets."""
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:
        raise ConfigError(f"verl is not installed; this recipe needs verl {VERL_VERSION}. Run scripts/setup_env.sh.")
    os.environ.setdefault("PREPO_VERL_CONFIG", f"file://{Path(spec.origin).parent / 'trainer' / 'config'}")
    os.environ.setdefault("PREPO_ASSETS", str(project_root() / "assets"))


def check_verl_version() -> None:
    """Refuse any other verl than the one that the hooks were written for.

    Raises:
        ConfigError: verl is missing or of another version.
    """
    try:
        found = importlib.metadata.version("verl")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    if found != VERL_VERSION:
        raise ConfigError(
            f"this recipe hooks into verl {VERL_VERSION}, found {found}; another version calls other hooks. "
            f"Run pip install verl=={VERL_VERSION}, or scripts/setup_env.sh for an environment of its own."
        )


def has_gpu() -> bool:
    """Whether this machine shows an NVIDIA or AMD GPU or an Ascend NPU."""
    for command in ("nvidia-smi", "rocm-smi", "npu-smi"):
        path = shutil.which(command)
        if not path:
            continue
        try:
            if subprocess.run([path], capture_output=True, timeout=TOOL_TIMEOUT_S, check=False).returncode == 0:
                return True
        except (OSError, subprocess.TimeoutExpired):
            continue
    return False


def joined_ray(ray_init: Mapping[str, Any]) -> str:
    """Address of the Ray cluster that a run joins; empty where it starts one of its own.

    Args:
        ray_init: options of ``ray.init``; an address there goes before RAY_ADDRESS.
    """
    address = str(ray_init.get("address") or os.environ.get("RAY_ADDRESS") or "")
    return "" if address == "local" else address


def check_device(config: Mapping[str, Any]) -> None:
    """Refuse to start a GPU run on a machine without one, unless an existing Ray cluster is joined.

    Raises:
        ConfigError: names the CPU command.
    """
    device = value_at(config, "trainer.device")
    joins_cluster = joined_ray(value_at(config, "ray_kwargs").get("ray_init") or {})
    if device != CPU_PLATFORM and not joins_cluster and not has_gpu():
        raise ConfigError(
            f"trainer.device={device} needs a GPU, and this machine shows none. To train the tiny model on the CPU: "
            f"{CPU_COMMAND}. To use a running Ray cluster's GPUs, set RAY_ADDRESS."
        )


def _paths(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value or []]


def check_data(config: Mapping[str, Any], prepo: PrepoConfig) -> int:
    """Check the data files against the row contract, and that they can fill a step; returns the training rows used.

    Raises:
        DataError, ConfigError: names the file, the row and the field, or the override.
    """
    files = {name: _paths(value_at(config, f"data.{name}")) for name in ("train_files", "val_files")}
    for name, paths in files.items():
        if not paths:
            raise ConfigError(f"data.{name} is empty; set data.{name}=<parquet made by python -m data_prep>.")
    num_rows = validate_files(files["train_files"])
    validate_files(files["val_files"])
    if prepo.val_samples:
        check_val_samples(prepo.val_samples, data_sources(files["val_files"]))
    limit = value_at(config, "data").get("train_max_samples", -1)
    num_rows = min(num_rows, limit) if limit and limit > 0 else num_rows
    check_data_size(num_rows, prepo)
    return num_rows


def check_model(config: Mapping[str, Any]) -> str:
    """Check that a local model path holds a model; returns what was found, for the doctor to print.

    Raises:
        ConfigError: a local path without ``config.json``.
    """
    path = str(value_at(config, "actor_rollout_ref.model.path"))
    folder = Path(os.path.expanduser(path))
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"actor_rollout_ref.model.path={path} has no config.json, so it is no Hugging Face model folder. "
                f"Set actor_rollout_ref.model.path to a model folder or a hub id."
            )
        return f"local folder {folder}"
    looks_local = path.startswith(("/", ".", "~")) or path.count("/") != 1
    if looks_local:
        raise ConfigError(
            f"actor_rollout_ref.model.path={path} is not there. Set actor_rollout_ref.model.path to a model folder or "
            f"a hub id such as Qwen/Qwen2.5-Math-1.5B."
        )
    return f"hub id {path} (not looked up)"


@dataclass(frozen=True)
class Findings:
    """What the checks found: a line each to print, and the number of training steps."""

    lines: tuple[str, ...]
    total_steps: int


def check_all(config: Mapping[str, Any], prepo: PrepoConfig) -> Findings:
    """Every check that needs no Ray and no GPU, in order.

    Raises:
        PrepoError: the first thing that would stop the run.
    """
    check_verl_version()
    model = check_model(config)
    num_rows = check_data(config, prepo)
    steps_per_epoch = num_rows // prepo.num_candidates
    trainer = value_at(config, "trainer")
    steps = steps_per_epoch * trainer["total_epochs"]
    wanted = trainer["total_training_steps"] or steps
    lines = [
        f"verl      {VERL_VERSION}",
        f"model     {model}",
        f"data      {num_rows} training prompts, {steps_per_epoch} steps an epoch",
        f"steps     {min(steps, wanted)}",
    ]
    if wanted > steps:
        lines[-1] += (
            f" (not trainer.total_training_steps={wanted}: trainer.total_epochs={trainer['total_epochs']} ends before; "
            f"raise it for more)"
        )
    return Findings((*lines, *remarks(prepo)), total_steps=min(steps, wanted))
