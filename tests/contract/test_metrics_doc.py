"""docs/metrics.md lists every shared metric that the code emits, and none that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from simulated_run import all_options, make_controller

from recipe.prepo.types import Candidates, RolloutBatch

ROOT = Path(__file__).parents[2]
CODE = ROOT / "recipe" / "prepo"
NAME = re.compile(r"[\"'](prepo/[a-z_]+/(?:mean|min|max|sum))[\"']")
TIMER = re.compile(r"marked_timer\(\"([a-z_]+)\"")


def listed() -> set[str]:
    """Names in the first column, braces expanded."""
    found = set()
    for line in (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            for name in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
                stem, brace, ends = name.partition("{")
                found |= {stem + end for end in ends.rstrip("}").split(",")} if brace else {name}
    return found


def in_source(*places: str) -> str:
    """Text of modules, or of all modules in folders."""
    found = [path for place in places for path in [CODE / place, *(CODE / place).rglob("*.py")]]
    return "\n".join(path.read_text(encoding="utf-8") for path in found if path.suffix == ".py")


def of_one_step() -> set[str]:
    """What the core emits for a step with scores, whatever the rules."""
    ids = [f"p{i}" for i in range(40)]
    controller = make_controller(all_options(), ids)
    candidates = Candidates(tuple(ids[:20]), np.linspace(0.1, 2.0, 20), np.full(20, 9))
    decision = controller.select(candidates, num_selected=4, step=1)
    chosen = [candidates.prompt_ids[i] for i in decision.selection.indices_P.tolist()]
    batch = RolloutBatch(
        prompt_ids=[name for name in chosen for _ in range(4)],
        group_R=np.repeat(np.arange(4), 4),
        reward_R=np.tile([0.0, 1.0], 8),
        num_tokens_R=np.full(16, 5),
        entropy_nats_R=np.full(16, 0.5),
    )
    return set(controller.finish_step(batch, controller.weigh(batch, step=1), step=1))


def test_metrics_page_lists_what_the_code_emits() -> None:
    shared = of_one_step() | set(NAME.findall(in_source("supervise", "trainer")))
    shared |= {f"timing_s/{name}" for name in TIMER.findall(in_source("trainer"))}
    of_rules = set(NAME.findall(in_source("rules", "metrics.py")))
    own = {name for name in listed() if name.startswith("prepo/")}
    assert shared - listed() == set()
    assert own - shared - of_rules == set()
