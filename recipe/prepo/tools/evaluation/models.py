"""What ``--model`` names: a Hugging Face folder, a verl checkpoint or a hub id; and a folder that vLLM can load."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.prepo.errors import ConfigError, PrepoError
from recipe.prepo.tools.evaluation.questions import file_sha256

MERGED_DIR, MERGE_LOG = "merged_model", "merge.log"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Model:
    """A model that was found, not loaded yet.

    Attributes:
        given: as the user wrote it.
        folder: has config and tokenizer; the weights too, unless ``shards`` is set.
        fingerprint: identifies the model: every byte of a local one, id and commit of a hub one.
        shards: the ``actor`` folder of a verl FSDP checkpoint, whose weights must be merged first.
    """

    given: str
    folder: Path
    fingerprint: str
    shards: Path | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The model's ``config.json``."""
        return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))

    @property
    def max_tokens(self) -> int | None:
        """Longest sequence that the model was made for; None if its config does not say, or stretches positions."""
        text = self.config.get("text_config") or self.config
        stretched = text.get("rope_scaling") or (text.get("rope_parameters") or {}).get("factor")
        limit = text.get("max_position_embeddings")
        return limit if isinstance(limit, int) and not stretched else None


def find_model(given: str) -> Model:
    """Look up ``--model``. Loads no weights; a hub model is downloaded to the hub's cache.

    Raises:
        ConfigError: there is no model, or none that can be loaded; says what to give instead.
    """
    path = Path(os.path.expanduser(given))
    if path.is_dir():
        return _local(given, path)
    if path.exists():
        raise ConfigError(f"--model {given} is a file. Give a model folder, or a verl checkpoint (global_step_N).")
    if not _HUB_ID.fullmatch(given):
        raise ConfigError(
            f"--model {given} does not exist. Give a Hugging Face model folder, a verl checkpoint"
            f" (outputs/…/global_step_N), or a hub id such as Qwen/Qwen2.5-Math-1.5B."
        )
    folder = _fetch(given)
    if not (folder / "config.json").is_file() or not _files(folder, _WEIGHTS):
        raise ConfigError(
            f"--model {given}: this hub repository lacks a config.json or weights ({', '.join(_WEIGHTS)})."
        )
    return Model(given, folder, fingerprint=f"{given}@{folder.name}")


def _local(given: str, path: Path) -> Model:
    if (path / "actor").is_dir():
        path = path / "actor"
    is_checkpoint = (path / "fsdp_config.json").is_file()
    folder = path / "huggingface" if is_checkpoint else path
    if (folder / "config.json").is_file():
        if weights := _files(folder, _WEIGHTS):  # in a checkpoint: saved with checkpoint.save_contents=[…,hf_model]
            return Model(given, folder, _fingerprint(folder, weights + _files(folder, _SMALL_FILES)))
        if is_checkpoint:
            files = _shards(given, path) + _files(folder, _SMALL_FILES)
            return Model(given, folder, _fingerprint(path, files), shards=path)
        hint = f" Give --model {path.parent}." if (path.parent / "fsdp_config.json").is_file() else ""
        raise ConfigError(f"--model {given} has a config.json, but no weights (*.safetensors).{hint}")
    if is_checkpoint:
        raise ConfigError(f"--model {given}: {folder} has no config.json; the checkpoint is not complete.")
    steps = sorted(path.glob("global_step_*"), key=lambda step: int(step.name.rpartition("_")[2] or 0))
    if steps:
        raise ConfigError(f"--model {given} is a run directory. Name one of its checkpoints: --model {steps[-1]}")
    if (path / "dist_ckpt").exists() or (path / "model" / "dist_ckpt").exists():
        raise ConfigError(
            f"--model {given} is a Megatron checkpoint. Convert it with python -m verl.model_merger merge --backend"
            f" megatron, and give the folder that this writes."
        )
    raise ConfigError(f"--model {given} has neither a config.json nor a verl FSDP checkpoint.")


def _shards(given: str, actor: Path) -> list[Path]:
    if (actor / "lora_train_meta.json").exists():
        raise ConfigError(
            f"--model {given} is a LoRA checkpoint: merging it would give the base model. Merge the adapter into a"
            f" model folder first, and give that."
        )
    try:
        world_size = int(json.loads((actor / "fsdp_config.json").read_text(encoding="utf-8"))["world_size"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--model {given}: {actor / 'fsdp_config.json'} has no world_size ({error!r}).") from error
    shards = [actor / f"model_world_size_{world_size}_rank_{rank}.pt" for rank in range(world_size)]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise ConfigError(
            f"--model {given}: {len(missing)} of {world_size} files with weights are missing in {actor}, such as"
            f" {missing[0]}. Copy them there (each node of a training may have saved its own)."
        )
    return shards


def loadable_folder(model: Model, out_dir: Path, environment: Mapping[str, str]) -> Path:
    """A folder with weights that vLLM can load: the model's own, or one that is made (once) in ``out_dir``.

    verl's own ``verl.model_merger`` merges a verl checkpoint, in a process of its own. It reads the shards with
    ``torch.load`` (pickle), so a checkpoint must come from a trusted source. It stores the weights in bfloat16.

    Raises:
        PrepoError: merging failed; names the log.
    """
    if model.shards is None:
        return model.folder
    merged, log = out_dir / MERGED_DIR, out_dir / MERGE_LOG
    if not _files(merged, _WEIGHTS):
        unfinished = out_dir / f"{MERGED_DIR}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
        command += ["--local_dir", str(model.shards), "--target_dir", str(unfinished)]
        print(f"merging {model.shards} into {merged} …", flush=True)
        with open(log, "w", encoding="utf-8") as output:
            done = subprocess.run(command, stdout=output, stderr=output, env={**os.environ, **environment}, check=False)
        if done.returncode or not _files(unfinished, _WEIGHTS):
            tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise PrepoError(f"verl.model_merger could not merge {model.shards}: {' '.join(tail)} (full log: {log})")
        unfinished.rename(merged)
    return merged


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.stat().st_size]


def _fingerprint(root: Path, files: list[Path]) -> str:
    """Of names and contents, so the folder may be moved or copied."""
    lines = "".join(f"{file.relative_to(root)} {file_sha256(file)}\n" for file in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def _fetch(hub_id: str) -> Path:
    """Through the hub's own client and its cache: ``…/snapshots/<commit>``. Prefers safetensors."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        for pattern in _WEIGHTS:
            folder = Path(snapshot_download(hub_id, allow_patterns=[*_SMALL_FILES, pattern]))
            if _files(folder, _WEIGHTS):
                break
        return folder
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        try:  # without a network: what an earlier call left in the cache
            return Path(snapshot_download(hub_id, local_files_only=True))
        except LocalEntryNotFoundError:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"--model {hub_id} is no local folder, and the hub did not provide it: {first} Correct --model, or log"
                f" in with hf auth login if the model asks for it."
            ) from error
