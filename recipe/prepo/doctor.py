"""``python -m recipe.prepo.doctor experiment=<name> key=value …``: would this run start? Needs no GPU, starts no Ray.

Exit status 0, or 2 with one readable error. A missing GPU is only reported: the run may be for another machine.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recipe.prepo.config import did_you_mean, read_config
from recipe.prepo.cpu import CPU_PLATFORM
from recipe.prepo.errors import EXIT_BAD_INPUT, ConfigError, PrepoError
from recipe.prepo.preflight import check_all, check_warm_start, has_gpu, leaves, set_paths


def compose_config(arguments: Sequence[str]) -> DictConfig:
    """The configuration that a run would see with these overrides, or a ConfigError that suggests names.

    A configuration of one's own is named as Hydra has it, with ``--config-path`` (absolute) and ``--config-name``.
    """
    set_paths()
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-path", "-cp")
    parser.add_argument("--config-name", "-cn", default="prepo")
    own, overrides = parser.parse_known_args(arguments)
    if own.config_path and not Path(own.config_path).is_absolute():
        wanted = Path(own.config_path).absolute()
        raise ConfigError(f"--config-path={own.config_path}: it must be absolute. Use --config-path={wanted}.")
    initialize: Any = initialize_config_dir if own.config_path else initialize_config_module
    with initialize(own.config_path or "recipe.prepo.conf", version_base=None):
        try:
            if own.config_path and "prepo" not in compose(own.config_name):
                raise ConfigError(
                    f"--config-name={own.config_name} does not start from this recipe's configuration. In its defaults "
                    f"write prepo_trainer in place of ppo_trainer, and add pkg://recipe.prepo.conf to "
                    f"hydra.searchpath (docs/existing_verl.md)."
                )
            config = compose(own.config_name, overrides=overrides)
            OmegaConf.to_container(config, resolve=True)
            return config
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            hint = ""
            if unknown := re.match("Could not override '(.+)'", str(error)):
                others = [override for override in overrides if not override.startswith(f"{unknown[1]}=")]
                known = OmegaConf.to_container(compose(own.config_name, overrides=others))
                hint = did_you_mean(unknown[1], [path[1:] for path, _ in leaves("", known)])
            raise ConfigError(f"the overrides do not compose: {' '.join(str(error).split())}{hint}") from error


def diagnose(overrides: Sequence[str]) -> list[str]:
    """Every check that a run makes before it starts anything; returns what was found, or raises the first error."""
    composed = compose_config(overrides)
    config: Any = OmegaConf.to_container(composed, resolve=True)
    prepo = read_config(config)
    data = check_all(config, prepo)
    warm = check_warm_start(config, prepo, data)
    from recipe.prepo.verl_checks import check_with_verl

    device = config["trainer"]["device"]
    lacks_gpu = device != CPU_PLATFORM and not has_gpu()
    sizes = f"{prepo.num_selected} prompts x {prepo.rollouts_per_prompt} rollouts"
    step = f"{prepo.num_candidates or 'all prompts as'} candidates -> {sizes}"
    if prepo.skips_prompts:
        step = f"{prepo.min_prompts} prompts first, refilled until {sizes} have a signal"
    return [
        *check_with_verl(composed, prepo, data).lines,
        f"device    {device}" + (": this machine shows no GPU, so run it on one that has some" if lacks_gpu else ""),
        "rules     " + " ".join(f"{group}={options['name']}" for group, options in prepo.rules.items()),
        f"step      {step}",
        *warm,
        "ok: this run would start",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    try:
        print("\n".join(diagnose(sys.argv[1:] if argv is None else argv)))
    except PrepoError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
