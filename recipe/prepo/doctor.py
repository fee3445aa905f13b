"""``python -m recipe.prepo.doctor experiment=<name> key=value …``: would this run start? Needs no Ray and no GPU.

Exit status 0 when it would, 2 with one readable error when it would not. A missing GPU is only reported, because the
run may be meant for another machine.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.prepo.config import did_you_mean, read_config
from recipe.prepo.cpu import CPU_PLATFORM
from recipe.prepo.errors import EXIT_BAD_INPUT, ConfigError, PrepoError
from recipe.prepo.preflight import check_all, has_gpu, refuse_old_names, set_paths


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The configuration that ``recipe.prepo.main`` would see with these overrides.

    Raises:
        ConfigError: an unknown experiment, method, rule or key. The message lists or suggests known ones.
    """
    set_paths()
    refuse_old_names(overrides)
    with initialize_config_module("recipe.prepo.conf", version_base=None):
        try:
            config = compose("prepo", overrides=list(overrides))
            OmegaConf.to_container(config, resolve=True)
            return config
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            hint = ""
            if unknown := re.match("Could not override '(.+)'", str(error)):
                others = [override for override in overrides if not override.startswith(f"{unknown[1]}=")]
                hint = did_you_mean(unknown[1], _paths(OmegaConf.to_container(compose("prepo", overrides=others))))
            raise ConfigError(f"the overrides do not compose: {error}{hint}") from error


def _paths(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, Mapping) else ():
        yield f"{prefix}{key}"
        yield from _paths(value, f"{prefix}{key}.")


def diagnose(overrides: Sequence[str]) -> list[str]:
    """Every check that a run makes before it starts anything; returns what was found.

    Raises:
        PrepoError: the first thing that would stop the run.
    """
    config: Any = OmegaConf.to_container(compose_config(overrides), resolve=True)
    prepo = read_config(config)
    device = config["trainer"]["device"]
    lacks_gpu = device != CPU_PLATFORM and not has_gpu()
    sizes = f"{prepo.num_selected} prompts x {prepo.rollouts_per_prompt} rollouts"
    step = f"{prepo.num_candidates or 'all prompts as'} candidates -> {sizes}"
    if prepo.skips_prompts:
        step = f"{prepo.min_prompts} prompts first, refilled until {sizes} have a signal"
    return [
        *check_all(config, prepo).lines,
        f"device    {device}" + (": this machine shows no GPU, so run it on one that has some" if lacks_gpu else ""),
        "rules     " + " ".join(f"{group}={options['name']}" for group, options in prepo.rules.items()),
        f"step      {step}",
        "ok: this run would start",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was found; returns the exit status."""
    try:
        print("\n".join(diagnose(sys.argv[1:] if argv is None else argv)))
    except PrepoError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
