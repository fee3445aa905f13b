"""Configurations of ``conf/``, composed once for each list of overrides, and changed as overrides would."""

import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from recipe.prepo.doctor import compose_config

CONF = Path(__file__).parents[2] / "conf"


@functools.cache
def _composed(overrides: tuple[str, ...]) -> Any:
    return OmegaConf.to_container(compose_config(overrides), resolve=True)


def composed(*overrides: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The resolved configuration. A change sets the value at a dotted path, or a rule of ``prepo/<group>``."""
    config = copy.deepcopy(_composed(overrides or ("experiment=tiny_cpu",)))
    for path, value in (changes or {}).items():
        if path.startswith("prepo/"):
            path, value = path.replace("/", "."), rule_yaml(path.removeprefix("prepo/"), value)
        *parents, last = path.split(".")
        functools.reduce(lambda node, key: node.setdefault(key, {}), parents, config)[last] = value
    return config


def conf_yaml(name: str) -> dict[str, Any]:
    """A file of ``conf/`` as it is; empty where there is none."""
    path = CONF / f"{name}.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}


def rule_yaml(group: str, name: str) -> dict[str, Any]:
    """The options of a rule."""
    return conf_yaml(f"prepo/{group}/{name}")


def names_in(folder: str) -> list[str]:
    """What can be chosen in a folder of ``conf/``."""
    return sorted(path.stem for path in (CONF / folder).glob("*.yaml"))
