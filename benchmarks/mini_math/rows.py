"""The rows of the comparison: which experiment of ``conf/`` each one is. No option of a rule is set here again."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, cast

from omegaconf import OmegaConf

from benchmarks.mini_math import oracle
from recipe.prepo.config import PrepoConfig, read_config
from recipe.prepo.doctor import compose_config
from recipe.prepo.errors import ConfigError

# E3's bounds widen with each of three epochs; 80 steps of the pool would not be two.
THREE_EPOCHS = "prepo.budget.epoch_steps=27"
# Token means of the first step are 0.26 to 0.37 nats in uniform (early, mid, late), and 0.02 to 0.24 in the schedule.
UNIFORMS_ENTROPY = "prepo.temperature.target_nats=0.3"
GRESOS_FIRST = ("prepo.selection.p_easy=0.5", "prepo.selection.p_hard=0.5")


def method(name: str) -> tuple[str, str]:
    """The overrides that choose a method in the small comparison."""
    return "experiment=comparison", f"method={name}"


ROWS: dict[str, tuple[str, ...]] = {
    "uniform": (*method("random"),),
    "full": (*method("grpo"),),
    "grpo": (*method("grpo"),),
    "prepo": (*method("prepo"),),
    "schedule": (*method("schedule_only"),),
    "weights": (*method("weights_only"),),
    "low": (*method("low_only"),),
    "high": (*method("high_only"),),
    "greso": (*method("greso"),),
    "e3": (*method("e3"), THREE_EPOCHS),
    "prepo_e3": (*method("prepo_e3"), THREE_EPOCHS),
    "prepo_e3_target": (*method("prepo_e3"), THREE_EPOCHS, UNIFORMS_ENTROPY),
    "prepo_budget": (*method("prepo_e3"), THREE_EPOCHS, "prepo/temperature=constant"),
    "dapo": (*method("dapo"),),
    "prepo_end25": (*method("prepo"), "prepo.selection.progress_end=0.25"),
    "prepo_end50": (*method("prepo"), "prepo.selection.progress_end=0.5"),
    "prepo_end75": (*method("prepo"), "prepo.selection.progress_end=0.75"),
    "uniform_skip": (*method("uniform_skip"),),
    "prepo_skip": (*method("prepo_skip"),),
    "uniform_skip50": (*method("uniform_skip"), *GRESOS_FIRST),
    "prepo_skip50": (*method("prepo_skip"), *GRESOS_FIRST),
    "mopps": (*method("mopps"),),
    "mopps_ppl": (*method("mopps_ppl"),),
    "oracle": (*method("random"),),
}
"""Row -> overrides, as ``python -m recipe.prepo.main`` takes them."""

MEANINGS = {
    "uniform": "K of the |B| = 5 K candidates, drawn uniformly",
    "full": "all |B| candidates: steps of five times as many rollouts, a fifth as many",
    "grpo": "the next K prompts of the data",
    "prepo": "K by the perplexity schedule, rollouts weighted by relative entropy",
    "schedule": "the perplexity schedule without weights",
    "weights": "drawn uniformly, rollouts weighted by relative entropy",
    "low": "the K prompts of lowest perplexity",
    "high": "the K prompts of highest perplexity",
    "greso": "the next prompts of the data, less those that it skips, until K groups have a signal",
    "e3": "the next K prompts; rollouts by difficulty (three epochs of 27 steps); temperature that holds the entropy",
    "prepo_e3": "prepo and e3",
    "prepo_e3_target": "prepo and e3, whose target is about the entropy of uniform's first step, 0.3 nats",
    "prepo_budget": "prepo and e3's budget, without its temperature",
    "dapo": "the next prompts, until K groups have a signal",
    "prepo_end25": "prepo, its schedule ending at ρ = 0.25",
    "prepo_end50": "prepo, its schedule ending at ρ = 0.5",
    "prepo_end75": "prepo, its schedule ending at ρ = 0.75",
    "uniform_skip": "drawn uniformly of the candidates that are left when those without a signal lately are skipped",
    "prepo_skip": "prepo among the candidates that are left",
    "uniform_skip50": "uniform_skip with the probabilities that greso begins with: 0.5, not 0.1, of keeping a prompt",
    "prepo_skip50": "prepo_skip with the same",
    "mopps": "the K candidates whose pass rates, predicted from their earlier rollouts, are nearest to a half",
    "mopps_ppl": "mopps, whose prior for a prompt comes from earlier groups of prompts of near perplexity",
    "oracle": "the K candidates of largest p(1 - p), by measured pass rates; all else as in uniform",
}
"""What each row does, for a table's reader."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row with what ``conf/`` says about it; the optimiser is the loop's own.

    Attributes:
        prepo: rules and sizes, as the trainers read them.
        filters_groups: groups without reward variance are dropped and refilled (``algorithm.filter_groups``).
        clip_ratio, clip_ratio_c, max_grad_norm: of the PPO loss and the update, as the trainers read them.
        loss_scale_tokens: what sums over a rollout's tokens are divided by.
        max_response_tokens: most tokens of a response.
    """

    name: str
    prepo: PrepoConfig
    filters_groups: bool
    clip_ratio: float
    clip_ratio_c: float
    max_grad_norm: float
    loss_scale_tokens: int
    max_response_tokens: int

    @property
    def rules(self) -> dict[str, dict[str, Any]]:
        """Options of each rule group, with the oracle in its row."""
        if self.name != oracle.NAME:
            return self.prepo.rules
        return {**self.prepo.rules, "selection": {"name": oracle.NAME}}


def read_row(name: str, *, num_selected: int, rollouts_per_prompt: int, seed: int) -> Row:
    """Compose a row's experiment at K = ``num_selected``, M = ``rollouts_per_prompt``.

    Raises:
        ConfigError: unknown row, or sizes that its rules cannot work with.
    """
    check_rows([name])
    row = _composed(name, num_selected, rollouts_per_prompt)
    return dataclasses.replace(row, prepo=dataclasses.replace(row.prepo, seed=seed))


@functools.cache
def _composed(name: str, num_selected: int, rollouts_per_prompt: int) -> Row:
    overrides = (*ROWS[name], f"actor_rollout_ref.rollout.n={rollouts_per_prompt}")
    config = _plain((*overrides, f"data.train_batch_size={num_selected}"))
    if name == "full":
        num_candidates = round(num_selected * config["prepo"]["candidate_ratio"])
        config = _plain((*overrides, f"data.train_batch_size={num_candidates}"))
    actor = config["actor_rollout_ref"]["actor"]
    assert actor["loss_agg_mode"] == "seq-mean-token-sum-norm" and not actor["use_kl_loss"]
    return Row(
        name=name,
        prepo=read_config(config),
        filters_groups=bool(config["algorithm"]["filter_groups"]["enable"]),
        clip_ratio=float(actor["clip_ratio"]),
        clip_ratio_c=float(actor["clip_ratio_c"]),
        max_grad_norm=float(actor["grad_clip"]),
        loss_scale_tokens=int(actor["loss_scale_factor"]),
        max_response_tokens=int(config["data"]["max_response_length"]),
    )


def _plain(overrides: tuple[str, ...]) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(compose_config(overrides), resolve=True))


def check_rows(names: Sequence[str]) -> None:
    """Refuse rows that are not known.

    Raises:
        ConfigError: lists the known rows.
    """
    unknown = [name for name in names if name not in ROWS]
    if unknown or not names:
        what = f"{', '.join(map(repr, unknown))} is no row of this benchmark" if names else "no row was given"
        raise ConfigError(f"--rows: {what}; known rows: {', '.join(ROWS)}. Give some of them, with commas between.")
