"""Sample generations out of verl's dumps (`trainer.rollout_data_dir`, `trainer.validation_data_dir`), shown as text.

verl writes one file a step, `<step>.jsonl`, one object a generation with `input`, `output`, `gts` and `score`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.prepo.tools.report.load import Run, finite
from recipe.prepo.tools.report.markup import details
from recipe.prepo.tools.report.text import safe

# (setting, folder in the run directory that is tried too, heading)
SOURCES = (
    ("trainer.rollout_data_dir", "rollouts", "Training rollouts"),
    ("trainer.validation_data_dir", "validation", "Validation answers"),
)
MAX_LINES = 4096
MAX_LINE_BYTES = 16 * 1024 * 1024
PER_KIND = 2
MAX_INPUT, MAX_OUTPUT, MAX_GOLD = 600, 900, 120


@dataclass(frozen=True)
class Sample:
    """One generation; texts are raw."""

    step: int
    prompt: str
    output: str
    gold: str
    score: float


def samples_html(run: Run, suffix: str = "") -> str:
    """A few right and wrong generations of the first and of the last dumped step; else, which override writes them."""
    parts = []
    for setting, folder, heading in SOURCES:
        found = _samples(_dump_dir(run, setting, folder))
        if found:
            parts.append(details(heading, "\n".join(map(_sample_html, found))))
    if not parts:
        parts.append(
            "<p>No generations are kept. "
            f"<code>{SOURCES[0][0]}=RUN_DIR/{SOURCES[0][1]}</code> keeps the training rollouts of each step, "
            f"<code>{SOURCES[1][0]}=RUN_DIR/{SOURCES[1][1]}</code> the answers of each validation.</p>"
        )
    return f'<section id="samples{suffix}"><h3>Sample generations</h3>{"".join(parts)}</section>'


def _dump_dir(run: Run, setting: str, folder: str) -> Path | None:
    """The configured folder, or the usual one in the run directory (which may have been moved since)."""
    configured = run.setting(setting)
    tried = [run.path / folder, *([Path(configured)] if isinstance(configured, str) and configured else [])]
    return next((path for path in tried if _is_dir(path)), None)


def _is_dir(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file system takes
        return False


def _samples(folder: Path | None) -> list[Sample]:
    if folder is None:
        return []
    steps = sorted(int(path.stem) for path in folder.glob("*.jsonl") if path.stem.isascii() and path.stem.isdigit())
    found: list[Sample] = []
    for step in dict.fromkeys([*steps[:1], *steps[-1:]]):
        found += _right_and_wrong(folder / f"{step}.jsonl", step)
    return found


def _right_and_wrong(path: Path, step: int) -> list[Sample]:
    """The first few generations with a positive score and the first few without, of different prompts if possible."""
    kinds: dict[bool, dict[str, Sample]] = {True: {}, False: {}}
    for entry in _entries(path):
        score = finite(entry.get("score"))
        if score is None:
            continue
        texts = [entry.get(name) for name in ("input", "output", "gts")]
        prompt, output, gold = ("" if text is None else str(text) for text in texts)
        kind = kinds[score > 0]
        if len(kind) < PER_KIND:
            kind.setdefault(prompt, Sample(step, prompt, output, gold, score))
        if all(len(kind) == PER_KIND for kind in kinds.values()):
            break
    return [*kinds[True].values(), *kinds[False].values()]


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of the first lines; damaged ones, and ones too long to be read, are passed over."""
    with path.open("rb") as file:
        for _ in range(MAX_LINES):
            line = file.readline(MAX_LINE_BYTES)
            if not line:
                return
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict):
                yield entry


def _sample_html(sample: Sample) -> str:
    mark = "right" if sample.score > 0 else "wrong"
    return (
        f'<article class="sample"><p><b>Step {sample.step}, {mark}</b>, score {sample.score:g}, '
        f"gold answer <code>{safe(sample.gold, MAX_GOLD)}</code></p>"
        f'<pre dir="ltr">{safe(sample.prompt.strip(), MAX_INPUT)}</pre>'
        f'<pre dir="ltr" class="output">{safe(sample.output.strip(), MAX_OUTPUT)}</pre></article>'
    )
