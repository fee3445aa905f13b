"""The trainings that ``scale_model`` is fitted to, and others that it must predict, made on the real stack.

Prompts, rollouts a prompt and candidates a prompt each vary while the others stay, so that their costs can be told
apart. Learning rate 0: a run's responses are as long at its end as at its beginning.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.alternated import COMMON
from benchmarks.real_stack import train

NUM_STEPS = 12


@dataclass(frozen=True)
class Sizes:
    """K prompts, M rollouts of each, chosen among ``candidate_ratio`` times as many (1: none is scored)."""

    num_selected: int
    rollouts_per_prompt: int
    candidate_ratio: int

    @property
    def name(self) -> str:
        return f"K{self.num_selected}-M{self.rollouts_per_prompt}-ratio{self.candidate_ratio}"

    @property
    def overrides(self) -> list[str]:
        """Of a training with these sizes."""
        return [
            *COMMON,
            *(["method=random"] if self.candidate_ratio == 1 else [f"prepo.candidate_ratio={self.candidate_ratio}"]),
            f"data.train_batch_size={self.num_selected}",
            f"actor_rollout_ref.actor.ppo_mini_batch_size={self.num_selected}",
            f"actor_rollout_ref.rollout.n={self.rollouts_per_prompt}",
            f"trainer.total_training_steps={NUM_STEPS}",
            "prepo.report_every=0",
        ]


FITTED = (
    Sizes(16, 8, 5),
    Sizes(8, 8, 5),
    Sizes(16, 4, 5),
    Sizes(16, 8, 2),
    Sizes(16, 8, 10),
    Sizes(16, 8, 1),
    Sizes(32, 4, 5),
)
HELD_OUT = (Sizes(32, 8, 5), Sizes(8, 16, 8), Sizes(24, 6, 3), Sizes(12, 12, 1))


def make_runs(out: Path, designs: Sequence[Sizes]) -> list[Path]:
    """Run directories of these trainings, each made where it is missing.

    Raises:
        RuntimeError: a training failed; its output stands beside its directory.
    """
    found = []
    for sizes in designs:
        run_dir = out / sizes.name
        if not (run_dir / "finished").exists():
            shutil.rmtree(run_dir, ignore_errors=True)
            print(f"training {sizes.name} …", flush=True)
            train([*sizes.overrides, f"trainer.default_local_dir={run_dir.absolute()}"], out / f"{sizes.name}.log")
            (run_dir / "finished").touch()
        found.append(run_dir)
    return found
