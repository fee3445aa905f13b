"""``prepo.selection.warm_start``: rollouts of the prompts from before the run, for rules that learn from them."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from recipe.prepo.errors import ConfigError
from recipe.prepo.maths.correctness import correctness
from recipe.prepo.types import EarlierRollouts

KEY = "prepo.selection.warm_start"


def read_warm_start(
    prompt_ids: Collection[str],
    *,
    folder: str | Path,
    model: str,
    correct_above: float | None = None,
    reward_range: Sequence[float] | None = None,
) -> EarlierRollouts:
    """The rollouts that ``prepo analyze`` (generations.jsonl) or another run (audit/rollouts.jsonl) left in a folder.

    Only those of ``prompt_ids`` are returned. The age of a run's rollouts is counted from its last step. A reward of
    a run is correct as ``maths.correctness`` has it; ``acc`` is not in the audit.

    Raises:
        ConfigError: the folder has neither file, a line is damaged, the model has another name than ``model``, or no
            prompt is among ``prompt_ids``.
    """
    folder = Path(folder).expanduser()
    analysed, audited = folder / "generations.jsonl", folder / "audit/rollouts.jsonl"
    path = analysed if analysed.is_file() else audited
    if not path.is_file():
        what = "has neither generations.jsonl nor audit/rollouts.jsonl" if folder.is_dir() else "does not exist"
        raise _refused(folder, f"the folder {what}", "the folder that prepo analyze or an earlier run wrote")
    try:
        name = _model(folder)
        with open(path, encoding="utf-8") as file:
            lines = [json.loads(line) for line in file if line.endswith("\n")]  # the last one may be torn
        ids = [str(line["prompt_id"]) for line in lines]
        step_R = np.array([line.get("step", 0) for line in lines], dtype=np.int64)
        if path == analysed:
            is_correct = [line.get("correct", line["reward"] == 1.0) for line in lines]
            correct_R = np.array(is_correct, dtype=np.float64)
        else:
            reward_R = np.array([line["reward"] for line in lines], dtype=np.float64)
            correct_R = correctness(reward_R, correct_above=correct_above, reward_range=reward_range)
    except (OSError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise _refused(folder, f"its files are damaged: {type(error).__name__}: {error}", "another folder") from error
    if name != Path(model).name:
        raise _refused(
            folder, f"its rollouts are of the model {name}, and this run trains {model}", "one of that model"
        )
    known = set(prompt_ids)
    places = [i for i, prompt_id in enumerate(ids) if prompt_id in known]
    if not places:
        shown = f"such as {ids[0]!r}" if ids else "it has none"
        raise _refused(folder, f"none of its prompts ({shown}) is in data.train_files", "one of these data")
    return EarlierRollouts(
        tuple(ids[i] for i in places), correct_R[places], (step_R.max(initial=0) - step_R[places]).astype(np.float64)
    )


def _model(folder: Path) -> str:
    """Last part of the path or hub id of the model whose rollouts they are."""
    settings, config = folder / "settings.json", folder / "config.yaml"
    if settings.is_file():
        path: Any = json.loads(settings.read_text(encoding="utf-8"))["model"]["path"]
    else:
        path = yaml.safe_load(config.read_text(encoding="utf-8"))["actor_rollout_ref"]["model"]["path"]
    return Path(str(path)).name


def _refused(folder: Path, why: str, wanted: str) -> ConfigError:
    return ConfigError(f"{KEY}={folder}: {why}. Set {KEY}=null, or to {wanted}.")
