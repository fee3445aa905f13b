"""Options of a run besides its method and seed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, get_args

from data_prep.mini_math.pretrain import Arch
from data_prep.mini_math.task import TASKS
from recipe.prepo.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where in a training a comparison stands.

    Attributes:
        live_frac: share of groups of M rollouts with reward variance at the start. Unsolvable and, where the base has
            any, solved prompts are added to reach it; None leaves the pool as it is.
        is_sharpened: start from a base that makes fewer slips than the shipped one, so that some prompts are solved.
        learning_rate: for every method; the best of those tried for random.
        unsolvable: "hard": longer problems with larger operands, which perplexity tells apart;
            "mislabelled": ordinary problems with another one's answer, which it does not.
    """

    live_frac: float | None
    is_sharpened: bool
    learning_rate: float
    unsolvable: str = "hard"


# Learning rates: the best of three in each setting, by `python -m benchmarks.mini_math.rates`, its table in
# docs/results/rates.md. late_mislabelled is not in it and uses the rate of late.
SETTINGS: dict[str, Setting] = {
    "fresh": Setting(None, False, 1e-4),
    "early": Setting(0.55, False, 1e-4),
    "mid": Setting(0.30, True, 1e-4),
    "late": Setting(0.15, True, 1e-4),
    "late_mislabelled": Setting(0.15, True, 1e-4, "mislabelled"),
}
MODELS: tuple[str, ...] = get_args(Arch)
HELD_OUT_SPLITS = ("test", "dev")


@dataclasses.dataclass(frozen=True)
class Options:
    """Sizes and settings of a comparison, the same for every method.

    Attributes:
        steps: of K x M rollouts. A method with larger steps makes fewer: all stop at the same number of rollouts.
        num_selected: K. |B| follows from ``prepo.candidate_ratio`` in ``conf/``.
        rollouts_per_prompt: M.
        pool: training prompts. Of 800, 80 steps of |B| = 80 draw each 8 times.
        mini_batches: policy updates of a step; PPO's clip is active from the second on.
        held_out: problems for the accuracy, one sample each.
        eval_every: steps of K x M rollouts between two evaluations.
        probe: held-out prompts for the entropy that methods are compared by.
        oracle_samples: samples of each candidate, for the oracle only.
        pool_samples: samples that measure the pool's pass rates.
        learning_rate: of AdamW, constant; 0 takes the setting's.
        sharpen_steps: further pre-training steps of the settings mid and late.
        split: of the held-out problems; "dev" for choosing a learning rate.
    """

    task: str = "words"
    model: str = "qwen2"
    setting: str = "fresh"
    steps: int = 80
    num_selected: int = 16
    rollouts_per_prompt: int = 8
    pool: int = 800
    learning_rate: float = 0.0
    mini_batches: int = 2
    held_out: int = 1_000
    eval_every: int = 10
    probe: int = 64
    oracle_samples: int = 64
    pool_samples: int = 32
    sharpen_steps: int = 400
    split: str = "test"

    def __post_init__(self) -> None:
        choices = {"task": TASKS, "model": MODELS, "setting": tuple(SETTINGS), "split": HELD_OUT_SPLITS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"--{name} {getattr(self, name)!r} is not known; known: {', '.join(known)}")
        at_least = {"steps": 2, "rollouts_per_prompt": 2, "oracle_samples": 2}
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), at_least.get(field.name, 1)
            if field.type == "int" and value < least:
                raise ConfigError(f"{flag(field.name)} {value} is too small: give at least {least}")
        if not 0.0 <= self.learning_rate < float("inf"):
            raise ConfigError(f"--learning-rate {self.learning_rate} must be a number above 0")
        if self.learning_rate == 0.0:
            object.__setattr__(self, "learning_rate", SETTINGS[self.setting].learning_rate)
        if self.pool_samples < self.rollouts_per_prompt:
            raise ConfigError(
                f"--pool-samples {self.pool_samples} must be at least M (--rollouts-per-prompt "
                f"{self.rollouts_per_prompt}): the share of live groups is estimated from them"
            )


def flag(name: str) -> str:
    """The command-line flag of an option.

    >>> flag("num_selected")
    '--num-selected'
    """
    return f"--{name.replace('_', '-')}"


def digest(content: Mapping[str, Any]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of JSON-able content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
