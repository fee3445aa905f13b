"""Mutation test: break the code in twenty places, one at a time, and report which test notices.

    make mutants                      all of them
    python scripts/mutants.py NAME …  some of them

Each mutant replaces one piece of text in a copy of the project and runs the fast tests of that room. Exit status 1 when
a mutant survives, or no longer applies to the code.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "recipe/prepo"


class Mutant(NamedTuple):
    """What it breaks; a file below ``recipe/prepo``; text that stands there once; its replacement; tests to run."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


RULES = ("tests/unit/test_rules.py", "tests/unit/test_controller.py", "tests/unit/test_maths.py")
HOOKS = ("tests/contract/test_hooks.py",)
SCHEDULE = "rules/selection/ppl_schedule.py"
MUTANTS = (
    Mutant("weights inverted", "rules/weighting/relative_entropy.py",
           "return entropy_nats_R / mean if mean", "return mean / entropy_nats_R if mean", RULES),
    Mutant("weights reversed", "rules/weighting/relative_entropy.py",
           "return entropy_nats_R / mean if mean", "return entropy_nats_R[::-1] / mean if mean", RULES),
    Mutant("window rounded up", SCHEDULE, "return math.floor(progress", "return math.ceil(progress", RULES),
    Mutant("progress one step late", "controller.py",
           "min(1.0, (step - 1) / (total_steps - 1))", "min(1.0, step / total_steps)", RULES),
    Mutant("a tenth of a reward is correct", "maths/correctness.py", "CORRECT_ABOVE = 0.5", "CORRECT_ABOVE = 0.05",
           ("tests/unit/test_reward_scales.py",)),
    Mutant("GRESO's probabilities swapped", "rules/selection/greso.py",
           "np.where(run_P > 0, p_easy, p_hard)", "np.where(run_P > 0, p_hard, p_easy)",
           ("tests/unit/test_skipping.py", "tests/unit/test_skip_dead.py", "recipe/prepo/rules")),
    Mutant("totals not restored", "controller.py",
           "self.rollouts_total, self.response_tokens_total = int(totals", "_, _ = int(totals", RULES),
    Mutant("any integer is correct", "reward/score.py",
           'int(answer or "") == int(gold)', "True", ("tests/unit/test_reward.py",)),
    Mutant("discarded tokens counted twice", "controller.py",
           "for batch in (rollouts, *discarded))", "for batch in (rollouts, *discarded, *discarded))", RULES),
    Mutant("entropy over tool tokens", "maths/entropy.py",
           "[np.asarray(mask_T).astype(bool)]", "[np.asarray(mask_T) >= 0]", RULES),
    Mutant("one candidate too few", "controller.py",
           "round(num_selected * self.identity.num_candidates / self.identity.num_selected))",
           "round(num_selected * self.identity.num_candidates / self.identity.num_selected) - 1)", RULES),
    Mutant("rollout temperature ignored", "trainer/rollout.py",
           'params["temperature"] = float(kwargs[columns.TEMPERATURE])', "pass", HOOKS),
    Mutant("prompt log-probs shifted by one", "trainer/prompt_scoring.py",
           "for row in log_probs[:-1]]", "for row in log_probs[1:]]", HOOKS),
    Mutant("update reads the batch's temperature", "trainer/hooks.py",
           '"compute_ref_log_prob", "update_actor")', '"compute_ref_log_prob")', HOOKS),
    Mutant("temperature not in the batch", "trainer/hooks.py",
           "columns.set_temperature(batch, decision.temperature)", "pass", HOOKS),
    Mutant("group sizes not in the batch", "trainer/hooks.py",
           "columns.set_sizes_and_call(batch, decision.rollout_n_P, self.prepo.rollouts_per_prompt, call)", "pass",
           HOOKS),
    Mutant("chosen rows sorted, sizes not", "trainer/hooks.py",
           "columns.take_rows(drawn, places_P)", "columns.take_rows(drawn, np.sort(places_P))", HOOKS),
    Mutant("shaped rewards left in the batch", "trainer/columns.py",
           '    finally:\n        put_column(meta, "rm_scores", raw)', "    finally:\n        pass", HOOKS),
    Mutant("rollout seed ignores the call", "trainer/rollout.py",
           "call=int(kwargs.get(columns.CALL, 0))", "call=0", HOOKS),
    Mutant("MoPPS' tie generator not restored", "rules/selection/mopps.py",
           '("generator", "ties", "correct_N"', '("generator", "correct_N"',
           ("tests/unit/test_mopps.py", "tests/contract/test_registry.py")),
)  # fmt: skip


def copy_of_the_project(folder: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        if (source := ROOT / name).is_file():
            (target := folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def first_failure(folder: Path, tests: tuple[str, ...]) -> str:
    """Name of the first test that fails, or "" when all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--doctest-modules"]
    command += ["-m", "not slow and not alarm and not e2e", *tests]
    environment = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return found[1] if found else f"pytest ended with status {done.returncode}"


def main(names: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    survivors = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_of_the_project(folder)
        for tests in dict.fromkeys(mutant.tests for mutant in chosen):
            if failure := first_failure(folder, tests):
                print(f"{failure} fails without any mutant: fix it first")
                return 1
        for mutant in chosen:
            path = folder / PACKAGE / mutant.file
            original = path.read_text(encoding="utf-8")
            begin = time.monotonic()
            if original.count(mutant.old) != 1:
                verdict = f"DOES NOT APPLY: {original.count(mutant.old)} places"
                survivors.append(mutant.name)
            else:
                path.write_text(original.replace(mutant.old, mutant.new), encoding="utf-8")
                verdict = first_failure(folder, mutant.tests)
                path.write_text(original, encoding="utf-8")
                if not verdict:
                    verdict = "SURVIVES"
                    survivors.append(mutant.name)
            print(f"{mutant.name}: {verdict} ({time.monotonic() - begin:.0f} s)", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants caught")
    return 1 if survivors or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
