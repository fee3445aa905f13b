"""docs/metrics.md lists every shared metric, and none that does not exist."""

import re
from pathlib import Path

from simulated_run import SimulatedRun, all_options

from recipe.prepo.rules.registry import REGISTRIES

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


def emitted_with(*rules: dict[str, str], pooled: bool = False) -> set[str]:
    """What the core and these rules emit in two steps."""
    runs = [SimulatedRun(all_options(**names), pooled=pooled) for names in rules]
    return {metric for run in runs for step in (1, 2) for metric in run.step(step)["metrics"]}


def test_metrics_page_lists_what_the_code_emits() -> None:
    """A new rule does not need this page: metrics of single rules may be missing there, but none may be invented."""
    shared = (
        emitted_with({})
        | emitted_with({}, pooled=True)
        | set(NAME.findall(in_source("supervise", "trainer", "metrics.py", "candidates.py")))
    )
    shared |= {f"timing_s/{name}" for name in TIMER.findall(in_source("trainer"))}
    of_rules = emitted_with(*({group: name} for group, registry in REGISTRIES.items() for name in registry))
    assert shared - listed() == set()
    assert {name for name in listed() if name.startswith("prepo/")} - shared - of_rules == set()
