"""The methods of the comparison: each is a method of ``conf/method/``, some with an override."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from omegaconf import OmegaConf

from benchmarks.mini_math import oracle
from recipe.prepo.config import PrepoConfig, read_config
from recipe.prepo.doctor import compose_config
from recipe.prepo.errors import ConfigError

# E3's bounds widen with each of three epochs; 80 steps of the pool would not be two.
THREE_EPOCHS = "prepo.budget.epoch_steps=27"
# The first step's token entropy is 0.26 to 0.37 nats with random prompts and 0.02 to 0.24 with PREPO's schedule.
ENTROPY_OF_RANDOM = "prepo.temperature.target_nats=0.3"
FIRST_OF_GRESO = ("prepo.selection.p_easy=0.5", "prepo.selection.p_hard=0.5")
# A full round is 24 prompts here and 384 in the paper.
SMALL_ROUNDS = "prepo.selection.min_round=4"


class Entry(NamedTuple):
    """A method of ``conf/method/``, its overrides, and what it does."""

    method: str
    overrides: tuple[str, ...]
    meaning: str


METHODS: dict[str, Entry] = {
    "random": Entry("random", (), "K of the |B| = 5 K candidates, drawn uniformly"),
    "grpo_5x": Entry("grpo", (), "`grpo` with all |B| candidates: steps five times as large, a fifth as many"),
    "grpo": Entry("grpo", (), "the next K prompts of the data"),
    "prepo": Entry("prepo", (), "K by the perplexity schedule, rollouts weighted by relative entropy"),
    "schedule_only": Entry("schedule_only", (), "the perplexity schedule without weights"),
    "weights_only": Entry("weights_only", (), "drawn uniformly, rollouts weighted by relative entropy"),
    "low_only": Entry("low_only", (), "the K prompts of lowest perplexity"),
    "high_only": Entry("high_only", (), "the K prompts of highest perplexity"),
    "greso": Entry("greso", (SMALL_ROUNDS,), "the next prompts that GRESO does not skip, until K groups have a signal"),
    "e3": Entry(
        "e3", (THREE_EPOCHS,), "the next K prompts; rollouts by difficulty; temperature that holds the entropy"
    ),
    "prepo_e3": Entry("prepo_e3", (THREE_EPOCHS,), "`prepo` and `e3`"),
    "prepo_e3_target": Entry(
        "prepo_e3",
        (THREE_EPOCHS, ENTROPY_OF_RANDOM),
        "`prepo_e3` with a target of 0.3 nats, as in `random`'s first step",
    ),
    "prepo_budget": Entry(
        "prepo_e3", (THREE_EPOCHS, "prepo/temperature=constant"), "`prepo` and E3's budget, without E3's temperature"
    ),
    "dapo": Entry("dapo", (), "the next prompts, until K groups have a signal"),
    "prepo_end25": Entry("prepo", ("prepo.selection.progress_end=0.25",), "`prepo`, its schedule ending at ρ = 0.25"),
    "prepo_end50": Entry("prepo", ("prepo.selection.progress_end=0.5",), "`prepo`, its schedule ending at ρ = 0.5"),
    "prepo_end75": Entry("prepo", ("prepo.selection.progress_end=0.75",), "`prepo`, its schedule ending at ρ = 0.75"),
    "uniform_skip": Entry("uniform_skip", (), "drawn uniformly, after prompts without a recent signal are skipped"),
    "prepo_skip": Entry("prepo_skip", (), "`prepo`, after prompts without a recent signal are skipped"),
    "uniform_skip50": Entry(
        "uniform_skip", FIRST_OF_GRESO, "`uniform_skip` that keeps a prompt with probability 0.5, not 0.1"
    ),
    "prepo_skip50": Entry(
        "prepo_skip", FIRST_OF_GRESO, "`prepo_skip` that keeps a prompt with probability 0.5, not 0.1"
    ),
    "mopps": Entry("mopps", (), "the K prompts whose predicted pass rate is nearest to a half"),
    "mopps_ppl": Entry("mopps_ppl", (), "`mopps` with a prior from prompts of similar perplexity"),
    "forecast": Entry("forecast", (), "K of the prompts of the whole pool that are likely to give live groups"),
    "oracle": Entry("random", (), "the K prompts of largest p(1 - p), by measured pass rates"),
}
"""Label -> method. A label differs from its method where options or sizes do.

Options of the ``prepo`` section may follow a label, as in ``mopps_ppl+candidate_ratio=all+rescore_after=5``.
"""

OLD_NAMES = {
    "uniform": "random",
    "full": "grpo_5x",
    "schedule": "schedule_only",
    "weights": "weights_only",
    "low": "low_only",
    "high": "high_only",
}
"""Names up to version 0.1, which are still accepted."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A method with what ``conf/`` says about it; the optimiser is the loop's own.

    Attributes:
        prepo: rules and sizes, as the trainers read them.
        filters_groups: groups without reward variance are discarded and replaced (``algorithm.filter_groups``).
        clip_ratio, clip_ratio_c, max_grad_norm: of the PPO loss and the update, as the trainers read them.
        loss_scale_tokens: divisor of sums over a rollout's tokens.
        max_response_tokens: length limit of a response.
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
        """Options of each rule group; the oracle takes the place of its selection rule."""
        if base_of(self.name) != oracle.NAME:
            return self.prepo.rules
        return {**self.prepo.rules, "selection": {"name": oracle.NAME}}


def overrides_of(name: str) -> tuple[str, ...]:
    """Overrides of a label, as ``python -m recipe.prepo.main`` takes them."""
    entry, (_, *changes) = METHODS[base_of(name)], name.split("+")
    changed = (f"prepo.{change}" for change in changes)
    return ("experiment=comparison", f"method={entry.method}", *entry.overrides, *changed)


def base_of(label: str) -> str:
    """The label without the options that follow it."""
    return label.split("+")[0]


def meaning_of(label: str) -> str:
    """What a method does."""
    base, *changes = label.split("+")
    return METHODS[base].meaning + (f", with `{' '.join(changes)}`" if changes else "")


def in_order(label: str) -> tuple[int, str]:
    """Sort key: the order of ``METHODS``."""
    return list(METHODS).index(base_of(label)), label


def read_method(name: str, *, num_selected: int, rollouts_per_prompt: int, seed: int) -> Method:
    """Compose a method at K = ``num_selected``, M = ``rollouts_per_prompt``.

    Raises:
        ConfigError: unknown name, or sizes that its rules cannot work with.
    """
    check_names([name])
    method = _composed(name, num_selected, rollouts_per_prompt)
    return dataclasses.replace(method, prepo=dataclasses.replace(method.prepo, seed=seed))


@functools.cache
def _composed(name: str, num_selected: int, rollouts_per_prompt: int) -> Method:
    overrides = (*overrides_of(name), f"actor_rollout_ref.rollout.n={rollouts_per_prompt}")
    config = _plain((*overrides, f"data.train_batch_size={num_selected}"))
    if base_of(name) == "grpo_5x":
        num_candidates = round(num_selected * config["prepo"]["candidate_ratio"])
        config = _plain((*overrides, f"data.train_batch_size={num_candidates}"))
    actor = config["actor_rollout_ref"]["actor"]
    assert actor["loss_agg_mode"] == "seq-mean-token-sum-norm" and not actor["use_kl_loss"]
    return Method(
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


def current_name(name: str) -> str:
    """The name that a method has now.

    >>> current_name("uniform"), current_name("prepo")
    ('random', 'prepo')
    """
    return OLD_NAMES.get(name, name)


def check_names(names: Sequence[str]) -> None:
    """Refuse unknown methods.

    Raises:
        ConfigError: lists the known ones.
    """
    unknown = [name for name in names if base_of(current_name(name)) not in METHODS]
    if unknown or not names:
        what = f"{', '.join(map(repr, unknown))} is unknown" if names else "no method was given"
        raise ConfigError(f"--methods: {what}; known: {', '.join(METHODS)}. Separate several with commas.")
