"""What ``--model`` names: a Hugging Face folder, a verl checkpoint or a hub id; and a folder that vLLM can load."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from recipe.prepo.errors import ConfigError, PrepoError
from recipe.prepo.run.files import file_sha256

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


class Model(NamedTuple):
    """A model that was found, not loaded yet.

    ``folder`` has config and tokenizer; the weights too, unless ``shards`` is set: the ``actor`` folder of a verl FSDP
    checkpoint, whose weights must be merged first. ``fingerprint`` identifies the model: every byte of a local one, id
    and commit of a hub one.
    """

    folder: Path
    fingerprint: str
    shards: Path | None = None


def find_model(given: str) -> Model:
    """Look up ``--model``. Loads no weights; a hub model is downloaded to the hub's cache.

    Raises:
        ConfigError: there is no model, or none that can be loaded; says what to give instead.
    """
    path = Path(given).expanduser()
    if not path.exists() and _HUB_ID.fullmatch(given):
        return _from_hub(given)
    if (path / "actor").is_dir():
        path = path / "actor"
    is_checkpoint = (path / "fsdp_config.json").is_file()
    folder = path / "huggingface" if is_checkpoint else path
    files = _files(folder, _SMALL_FILES)
    if folder / "config.json" in files:
        if weights := _files(folder, _WEIGHTS):  # in a checkpoint: saved with checkpoint.save_contents=[…,hf_model]
            return Model(folder, _fingerprint(folder, weights + files))
        if is_checkpoint:
            return Model(folder, _fingerprint(path, _shards(given, path) + files), shards=path)
    lacks = "has no config.json with weights, and is no verl FSDP checkpoint" if path.exists() else "does not exist"
    raise ConfigError(
        f"--model {given} {lacks}. Give a Hugging Face model folder, a verl FSDP checkpoint (outputs/…/global_step_N)"
        f" or a hub id such as Qwen/Qwen2.5-Math-1.5B. Convert Megatron checkpoints with python -m verl.model_merger."
    )


def _from_hub(hub_id: str) -> Model:
    from huggingface_hub import snapshot_download

    try:
        for weights in _WEIGHTS:
            folder = Path(snapshot_download(hub_id, allow_patterns=[*_SMALL_FILES, weights]))
            if (folder / "config.json").is_file() and _files(folder, _WEIGHTS):
                return Model(folder, fingerprint=f"{hub_id}@{folder.name}")
        reason = f"the repository lacks config.json or weights ({', '.join(_WEIGHTS)})"
    except OSError as error:  # every error of the hub is one
        reason = str(error).strip().partition("\n")[0]
    raise ConfigError(
        f"--model {hub_id} is no local folder, and the hub did not provide it: {reason} Correct --model, or log in"
        f" with hf auth login if the model asks for it."
    )


def _shards(given: str, actor: Path) -> list[Path]:
    if (actor / "lora_train_meta.json").exists():
        raise ConfigError(
            f"--model {given} is a LoRA checkpoint: merging it would give the base model. Merge the adapter into a"
            f" model folder first, and give that."
        )
    world_size = json.loads((actor / "fsdp_config.json").read_text(encoding="utf-8"))["world_size"]
    shards = [actor / f"model_world_size_{world_size}_rank_{rank}.pt" for rank in range(world_size)]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise ConfigError(
            f"--model {given}: {len(missing)} of {world_size} files with weights are missing in {actor}, such as"
            f" {missing[0]}. Copy them there (each node of a training may have saved its own)."
        )
    return shards


def loadable_folder(model: Model, out_dir: Path) -> Path:
    """A folder with weights that vLLM can load: the model's own, or one that is made (once) in ``out_dir``.

    verl's own ``verl.model_merger`` merges a verl checkpoint, in a process of its own. It reads the shards with
    ``torch.load`` (pickle), so a checkpoint must come from a trusted source. It stores the weights in bfloat16.

    Raises:
        PrepoError: merging failed; names the log.
    """
    if model.shards is None:
        return model.folder
    merged, unfinished, log = (out_dir / name for name in ("merged_model", "merged_model.unfinished", "merge.log"))
    if not merged.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp"]
        command += ["--local_dir", str(model.shards), "--target_dir", str(unfinished)]
        print(f"merging {model.shards} into {merged} …", flush=True)
        with open(log, "w", encoding="utf-8") as output:
            done = subprocess.run(command, stdout=output, stderr=output, check=False)
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
