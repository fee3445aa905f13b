"""Mutation test: break the code in twenty places, one at a time, and report which test notices.

    make mutants                      all of them
    python scripts/mutants.py NAME …  some of them

Each mutant replaces one piece of text in a copy of the project and runs the fast tests of that room. Exit status 1 when
a mutant survives, or no longer applies to the code.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "recipe/prepo"


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        name: what it breaks.
        file: path below ``recipe/prepo``.
        old, new: text that stands in the file exactly once, and its replacement.
        tests: test files or folders to run.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS: tuple[Mutant, ...] = ()


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
    done = subprocess.run(command, cwd=folder, env=_environment() | environment, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return found[1] if found else f"pytest ended with status {done.returncode}"


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def main(names: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    survivors = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_of_the_project(folder)
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
