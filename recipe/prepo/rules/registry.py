"""The only place that names rules. A new rule is one file, one line here, and one yaml in ``conf/prepo``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from recipe.prepo.errors import ConfigError
from recipe.prepo.rules.base import BudgetRule, Rule, SelectionRule, ShapingRule, TemperatureRule, WeightingRule
from recipe.prepo.rules.budget.difficulty import Difficulty
from recipe.prepo.rules.neutral import All, Constant, Fixed, NoShaping, NoWeighting, Uniform
from recipe.prepo.rules.selection.forecast import Forecast
from recipe.prepo.rules.selection.greso import Greso
from recipe.prepo.rules.selection.mopps import Mopps
from recipe.prepo.rules.selection.mopps_ppl import MoppsPpl
from recipe.prepo.rules.selection.ppl_schedule import PplSchedule
from recipe.prepo.rules.selection.skip_dead import PplScheduleSkip, UniformSkip
from recipe.prepo.rules.shaping.length_bias import LengthBias
from recipe.prepo.rules.temperature.entropy_target import EntropyTarget
from recipe.prepo.rules.weighting.relative_entropy import RelativeEntropy

SELECTION: dict[str, type[SelectionRule]] = {
    "all": All,
    "forecast": Forecast,
    "greso": Greso,
    "mopps": Mopps,
    "mopps_ppl": MoppsPpl,
    "ppl_schedule": PplSchedule,
    "ppl_schedule_skip": PplScheduleSkip,
    "uniform": Uniform,
    "uniform_skip": UniformSkip,
}
WEIGHTING: dict[str, type[WeightingRule]] = {"none": NoWeighting, "relative_entropy": RelativeEntropy}
BUDGET: dict[str, type[BudgetRule]] = {"difficulty": Difficulty, "fixed": Fixed}
TEMPERATURE: dict[str, type[TemperatureRule]] = {"constant": Constant, "entropy_target": EntropyTarget}
SHAPING: dict[str, type[ShapingRule]] = {"length_bias": LengthBias, "none": NoShaping}
REGISTRIES: dict[str, Mapping[str, type[Rule]]] = {
    "selection": SELECTION,
    "weighting": WEIGHTING,
    "budget": BUDGET,
    "temperature": TEMPERATURE,
    "shaping": SHAPING,
}


def build_rule(group: str, options: Mapping[str, Any], *, seed: int) -> Rule:
    """Build the rule of a group that ``options["name"]`` names, with the other options as its ``Config``.

    Raises:
        ConfigError: unknown name (the error lists the known ones), missing or unknown option, or value out of range.
    """
    known = REGISTRIES[group]
    given = dict(options)
    name = given.pop("name", None)
    if not isinstance(name, str) or name not in known:
        raise ConfigError(
            f"prepo.{group}.name={name!r} is not a known {group} rule; known: {', '.join(sorted(known))}. "
            f"Choose one with prepo/{group}=<name>."
        )
    expected = {field.name for field in dataclasses.fields(cast(Any, known[name].Config))}
    try:
        if wrong := sorted(expected ^ set(given)):
            raise ValueError(f"missing or unknown options {wrong}; its options are {sorted(expected)}")
        config = known[name].Config(**given)
    except ValueError as error:
        raise ConfigError(f"prepo.{group} for the rule {name!r}: {error}. Correct the override.") from error
    return known[name](config, seed=seed)
