"""Reward functions as people bring them: each works, or one error names the function, the prompt and the cause."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from verl.trainer.ppo.reward import get_custom_reward_fn

from recipe.prepo.errors import ConfigError, PrepoError, RewardError, root_cause
from recipe.prepo.reward.own import grade, grade_rows, in_front_of, load_reward

ROW = {"data_source": "mine", "reward_model": {"ground_truth": "4"}, "extra_info": {"prompt_id": "p7"}}
WORKS = {
    "def f(solution_str, ground_truth, **kwargs): return float(ground_truth in solution_str)": [1.0, 1.0],
    "async def f(solution_str, **kwargs): return {'score': -1, 'acc': False, 'pred': None}": [-1.0, -1.0],
    "def f(data_source, solution_str, ground_truth, extra_info, bonus=0.0): return bonus": [0.5, 0.5],
    "import numpy as np\ndef f(**kwargs): return {'score': np.float32(0.5), 'acc': np.bool_(True), 'parts': [1, 2]}": [
        0.5, 0.5,
    ],
    "import torch\ndef f(**kwargs): return torch.tensor(0.25)": [0.25, 0.25],
    "seen = []\ndef f(**kwargs):\n    seen.append(1)\n    return {'score': 1.0, 'acc': 1} if len(seen) % 2 else 0": [
        1.0, 0.0,
    ],
}  # fmt: skip
FAILS = {
    "def f(**kwargs): return None": r"returned None for prompt 'p7'.*finite number, or a dictionary",
    "def f(**kwargs): return float('nan')": "returned nan for prompt 'p7'",
    "def f(**kwargs): return (1.0, 'right')": r"returned \(1.0, 'right'\)",
    "def f(**kwargs): return {'acc': 1.0}": r"returned a dictionary without 'score' \(its keys: acc\)",
    "def f(**kwargs): return {'score': None, 'acc': 1.0}": "returned 'score': None",
    "def f(**kwargs):\n    raise KeyError('gold')": r"raised KeyError: 'gold' \(\S+/reward\.py:2\) for prompt 'p7'",
    "import json\ndef f(**kwargs):\n    return json.loads('{')": r"raised JSONDecodeError: .* \(\S+/reward\.py:3\)",
    "def f(answer): return 1.0": r"raised TypeError: f\(\) got an unexpected keyword",
    "import sys\ndef f(**kwargs): sys.exit(3)": "raised SystemExit: 3",
}
DOES_NOT_LOAD = {
    "import no_such_package": r"does not import: ModuleNotFoundError: No module named 'no_such_package' \(\S+\.py:1\)",
    "x = 1\ndef f(:": r"does not import: SyntaxError: .* \(\S+/reward\.py:2\)",
    "def g(**kwargs): return 1.0": "has no such function, only g",
}


def section(folder: Path, code: str, **kwargs: Any) -> dict[str, Any]:
    (folder / "reward.py").write_text(code, encoding="utf-8")
    return {"path": str(folder / "reward.py"), "name": "f", "reward_kwargs": kwargs}


@pytest.mark.parametrize("code", WORKS)
def test_works_in_verls_hands_and_without_a_run(code: str, tmp_path: Path) -> None:
    function = section(tmp_path, code, **({"bonus": 0.5} if "bonus" in code else {}))
    assert grade_rows(function, [ROW] * 2) == WORKS[code]
    loaded = get_custom_reward_fn(OmegaConf.create({"reward": {"custom_reward_function": in_front_of(function)}}))
    assert inspect.iscoroutinefunction(loaded) is code.startswith("async")
    if not code.startswith("async"):
        result = loaded(data_source="mine", solution_str="4", ground_truth="4", extra_info={})
        values = list(result.values()) if isinstance(result, dict) else [result]
        assert {type(value) for value in values} <= {int, float, bool, str}  # what verl and its trackers can average


@pytest.mark.parametrize("code", FAILS)
def test_one_error_names_the_function_the_prompt_and_the_cause(code: str, tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=FAILS[code]) as caught:
        grade_rows(section(tmp_path, code), [ROW])
    assert str(caught.value).startswith(f"the reward function f of {tmp_path}/reward.py ")
    assert "'p7' (data source 'mine')" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("code", DOES_NOT_LOAD)
def test_a_file_that_does_not_load_is_refused_with_its_line(code: str, tmp_path: Path) -> None:
    for trial in (load_reward, in_front_of):
        with pytest.raises(ConfigError, match=DOES_NOT_LOAD[code]):
            trial(section(tmp_path, code))
    with pytest.raises(ConfigError, match="there is no file"):
        load_reward({"path": str(tmp_path / "nowhere.py"), "name": "f"})


def test_the_pages_example_grades_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "your_reward.md").read_text(encoding="utf-8")
    reward, trial = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("my_reward.py").write_text(reward, encoding="utf-8")
    exec(trial, {})
    assert capsys.readouterr().out == "{'score': 1.0, 'acc': 1.0}\n"


def test_this_recipes_reward_and_none_stay_as_they_are() -> None:
    for same in ({"path": "pkg://recipe.prepo.reward", "name": "compute_score"}, {"path": None, "name": "f"}):
        assert in_front_of(same) == same
    with pytest.raises(PrepoError, match="the gold answer is empty"):
        grade(reward_function={"path": "pkg://recipe.prepo.reward", "name": "compute_score"},
              data_source="d", solution_str="", ground_truth="")  # fmt: skip


def test_the_cause_of_a_rays_error_is_the_first_of_a_chain_with_the_users_line() -> None:
    trace = """The actor died because of an error raised in its creation task, \
\x1b[36mray::Worker.__init__()\x1b[39m (pid=7)
  File "/home/me/model.py", line 3, in load
    read(path)
  File "{stdlib}/json/decoder.py", line 9, in read
    raise JSONDecodeError("Expecting value")
json.decoder.JSONDecodeError: Expecting value

The above exception was the direct cause of the following exception:

\x1b[36mray::Worker.__init__()\x1b[39m (pid=7)
  File "/home/me/other.py", line 5, in __init__
OSError: cannot load""".replace("{stdlib}", str(Path(inspect.__file__).parent))
    assert root_cause(trace) == "JSONDecodeError: Expecting value (/home/me/model.py:3)"
    assert root_cause("The actor is dead because its worker process has died.") == ""
