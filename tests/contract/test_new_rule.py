"""A new rule is one file, one registry line and one yaml. The selection rule is the README's, as it stands there."""

import importlib.util
import re
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from audited_run import Lines, check_of_audit
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from simulated_run import SimulatedRun, all_options

from recipe.prepo.config import read_config
from recipe.prepo.errors import ConfigError, StateError
from recipe.prepo.preflight import set_paths
from recipe.prepo.rules.registry import REGISTRIES, build_rule
from recipe.prepo.run.checkpoint import load_state, save_state

ROOT = Path(__file__).parents[2]
TOYS = ROOT / "tests" / "helpers" / "toy_rules"
GROUPS = {"weighting": "short_first", "budget": "first_more", "temperature": "cool_down", "shaping": "rare_bonus"}
STEP_ADDRESS = r"`((?:recipe/prepo/rules|conf/prepo)/(\w+)/(\w+)\.(?:py|yaml))`:\n"


def from_readme() -> tuple[str, str, str, str]:
    """Name, file, registry line and yaml of the example under "Add a rule"."""
    files = [path for name in ("README.md", "CONTRIBUTING.md") if (path := ROOT / name).exists()]
    text = next(text for path in files if "\n## Add a rule\n" in (text := path.read_text(encoding="utf-8")))
    section = text.split("\n## Add a rule\n", 1)[1].split("\n## ", 1)[0]
    blocks = [
        (match[2], match[3], textwrap.dedent(match[5]))
        for match in re.finditer(STEP_ADDRESS + r"( *)```\w+\n(.*?)\n\4```", section, re.DOTALL)
    ]
    (group, name, source), (yaml_group, yaml_name, options) = blocks
    assert group == yaml_group == "selection" and name == yaml_name
    entry = re.search(r'`"(\w+)": (\w+),` in `SELECTION`', section)
    assert entry is not None and entry[1] == name
    return name, source, entry[2], options


class Toy:
    """A toy rule: its class, taken from its file, and its yaml."""

    def __init__(self, group: str, folder: Path) -> None:
        self.group = group
        if group == "selection":
            self.name, source, class_name, self.yaml = from_readme()
            path = folder / f"{self.name}.py"
            path.write_text(source, encoding="utf-8")
        else:
            self.name = GROUPS[group]
            path, class_name = TOYS / f"{self.name}.py", self.name.title().replace("_", "")
            self.yaml = (TOYS / f"{self.name}.yaml").read_text(encoding="utf-8")
        spec = importlib.util.spec_from_file_location(self.name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.rule_class = getattr(module, class_name)

    @property
    def rules(self) -> dict[str, dict[str, Any]]:
        """Its options with neutral rules of the other groups."""
        return {**all_options(), self.group: yaml.safe_load(self.yaml)}


@pytest.fixture(params=["selection", *GROUPS])
def toy(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    made = Toy(request.param, tmp_path)
    monkeypatch.setitem(REGISTRIES[made.group], made.name, made.rule_class)  # type: ignore[arg-type]
    return made


def test_hydra_and_the_configuration_check_take_it(toy: Toy, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "conf" / "prepo" / toy.group / f"{toy.name}.yaml").write_text(toy.yaml, encoding="utf-8")
    set_paths()
    with initialize_config_dir(str(tmp_path / "conf"), version_base=None):
        config: Any = OmegaConf.to_container(
            compose("prepo", ["experiment=tiny_cpu", f"prepo/{toy.group}={toy.name}"]), resolve=True
        )
    assert read_config(config).rules[toy.group] == toy.rules[toy.group]
    option = next(key for key in toy.rules[toy.group] if key != "name")
    with pytest.raises(ConfigError, match=rf"prepo\.{toy.group}.*{toy.name}.*{option}=-1"):
        build_rule(toy.group, {"name": toy.name, option: -1}, seed=0)


def test_resumed_run_goes_on_as_the_straight_one(toy: Toy, tmp_path: Path) -> None:
    straight, resumed = SimulatedRun(toy.rules, seed=3), SimulatedRun(toy.rules, seed=3)
    reported = {metric for step in range(1, 6) for metric in straight.step(step)["metrics"]}
    drawn = {metric for panel in toy.rule_class.panels for metric in panel.series}
    assert drawn <= reported and drawn - set(SimulatedRun(all_options()).step(1)["metrics"])
    state = straight.controller.state_dict()
    assert set(state["rules"][toy.group]) == set(toy.rule_class.saved) != set()
    save_state(tmp_path / "checkpoint", state)
    resumed.controller.load_state_dict(load_state(tmp_path / "checkpoint"))
    resumed.position = straight.position
    for step in range(6, 12):
        np.testing.assert_equal(resumed.step(step), straight.step(step))
    assert resumed.audit["selection"] == straight.audit["selection"][5:]
    with pytest.raises(StateError, match=rf"prepo\.{toy.group}.*{toy.rule_class.__name__} saves"):
        resumed.controller.load_state_dict({**state, "rules": {**state["rules"], toy.group: {"other": 1}}})


def skip_the_nearest(choices: Lines, rollouts: Lines) -> None:
    line = choices[-1]
    chosen, skip = line["selected"][0], line["skipped"][0]
    line["rollout_n"][skip["prompt_id"]] = line["rollout_n"].pop(chosen)
    line["selected"][0], skip["prompt_id"] = skip["prompt_id"], chosen


def exchange_weights(choices: Lines, rollouts: Lines) -> None:
    first, other = rollouts[0], next(line for line in rollouts if line["weight"] != rollouts[0]["weight"])
    first["weight"], other["weight"] = other["weight"], first["weight"]
    for line in (first, other):
        line["advantage_weighted"] = line["weight"] * line["advantage"]


EDITS: dict[str, tuple[Callable[[Lines, Lines], object], str]] = {
    "selection": (skip_the_nearest, "nearer to the mean"),
    "weighting": (exchange_weights, "does not follow from"),
}


def test_outside_check_uses_its_own_check(toy: Toy, tmp_path: Path) -> None:
    def details_of_a_choice_are_in_its_line(choices: Lines, rollouts: Lines) -> None:
        for line in choices if toy.group == "selection" else ():
            assert line["window_start"] is None
            for candidate in line["candidates"]:
                assert candidate["distance"] == abs(candidate["nll_nats"] - line["mean_nats"])

    found = check_of_audit(tmp_path / "true", toy.rules, num_steps=6, edit=details_of_a_choice_are_in_its_line)
    assert found.startswith("ok: 6 choices")
    edit, message = EDITS.get(toy.group, (lambda choices, rollouts: choices[0].update(rule="other"), "rule other"))
    found = check_of_audit(tmp_path / "false", toy.rules, num_steps=6, edit=edit)
    assert found.startswith("difference") and message in found
