"""What made a run: commit, versions and machine."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


@functools.cache
def made_by() -> dict[str, str]:
    """This checkout, these libraries and this machine."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "commit": described.stdout.strip() or "unknown",
        "torch": version("torch").partition("+")[0],
        "transformers": version("transformers"),
        "python": platform.python_version(),
        "processor": _processor(),
    }


def text(results: Sequence[Mapping[str, Any]]) -> str:
    """What made these runs, as part of a sentence; several of a kind where they differ.

    >>> text([{"made_by": {"commit": "a1", "torch": "2"}}, {"made_by": {"commit": "b2", "torch": "2"}}])
    'commit a1 and b2, torch 2'
    """
    found: dict[str, dict[str, None]] = {}
    for result in results:
        for name, value in result.get("made_by", {"commit": "unknown"}).items():
            found.setdefault(name, {})[value] = None
    return ", ".join(f"{name} {' and '.join(values)}" for name, values in found.items())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [row.partition(":")[2].strip() for row in lines if row.startswith("model name")]
    return f"{names[0]} ({len(names)} cores, one thread a run)" if names else platform.machine()
