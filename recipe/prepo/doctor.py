"""``python -m recipe.prepo.doctor experiment=<name> key=value …``: would this run start? Needs no Ray and no GPU.

Exit status 0 when it would, 2 with one readable error when not. The one thing that it cannot see is another
machine's GPUs: on a machine without any it says so and goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.prepo.config import read_config
from recipe.prepo.cpu import CPU_PLATFORM
from recipe.prepo.environment import check_all, has_gpu, set_paths
from recipe.prepo.errors import EXIT_BAD_INPUT, ConfigError, PrepoError


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """The configuration that ``recipe.prepo.main`` would see with these overrides.

    Raises:
        ConfigError: an unknown experiment, rule or key; Hydra's message lists the known ones.
    """
    set_paths()
    try:
        with initialize_config_module("recipe.prepo.conf", version_base=None):
            config = compose("prepo", overrides=list(overrides))
            OmegaConf.to_container(config, resolve=True)
            return config
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"the overrides do not compose: {error}") from error


def diagnose(overrides: Sequence[str]) -> list[str]:
    """Every check that a run makes before it starts anything; returns what was found.

    Raises:
        PrepoError: the first thing that would stop the run.
    """
    config: Any = OmegaConf.to_container(compose_config(overrides), resolve=True)
    prepo = read_config(config)
    lines = list(check_all(config, prepo).lines)
    device = config["trainer"]["device"]
    if device != CPU_PLATFORM and not has_gpu():
        lines.append(f"device    {device}: this machine shows no GPU, so only a machine or cluster with one can run it")
    else:
        lines.append(f"device    {device}")
    names = " ".join(f"{group}={options['name']}" for group, options in prepo.rules.items())
    lines.append(f"rules     {names}")
    sizes = f"{prepo.num_selected} prompts x {prepo.rollouts_per_prompt} rollouts"
    if prepo.skips_prompts:
        lines.append(f"step      {prepo.min_prompts} prompts first, refilled until {sizes} have a signal")
    else:
        lines.append(f"step      {prepo.num_candidates} candidates -> {sizes}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was found; see the module's text for the exit status."""
    try:
        lines = diagnose(sys.argv[1:] if argv is None else argv)
    except PrepoError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    print("\n".join(lines))
    print("ok: this run would start")
    return 0


if __name__ == "__main__":
    sys.exit(main())
