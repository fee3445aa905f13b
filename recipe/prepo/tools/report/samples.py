"""Sample generations from verl's dumps, and text from a run's files made fit for a page.

verl writes one file per step, `<step>.jsonl`, one object per generation with `input`, `output`, `gts` and `score`.
"""

from __future__ import annotations

import json
import math
import os
import unicodedata
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from recipe.prepo.tools.report.load import Run, finite

# (setting, directory in the run directory that is tried first, heading)
SOURCES = (
    ("trainer.rollout_data_dir", "rollouts", "Training rollouts"),
    ("trainer.validation_data_dir", "validation", "Validation generations"),
)
MAX_LINES, MAX_LINE_BYTES, PER_KIND = 4096, 16 * 1024 * 1024, 2
# Control, format (direction overrides, zero-width marks), surrogate, private and unassigned code points.
INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
MAX_MARKS = 2


@dataclass(frozen=True)
class Sample:
    """One generation; texts are raw."""

    step: int
    prompt: str
    output: str
    gold: str
    score: float


def find_samples(run: Run) -> list[tuple[str, list[Sample]]]:
    """(heading, samples): a few correct and incorrect generations of the first and the last dumped step."""
    found = []
    for setting, default, heading in SOURCES:
        configured = run.setting(setting)
        folders = [run.path / default, *([Path(configured)] if isinstance(configured, str) and configured else [])]
        folder = next((folder for folder in folders if os.path.isdir(folder)), None)
        files = {int(path.stem): path for path in folder.glob("*.jsonl") if path.stem.isdecimal()} if folder else {}
        ends = sorted({min(files), max(files)}) if files else []
        samples = [sample for step in ends for sample in _correct_and_incorrect(files[step], step)]
        found += [(heading, samples)] if samples else []
    return found


def _correct_and_incorrect(path: Path, step: int) -> list[Sample]:
    """The first generations with a positive score and the first without, of different prompts if possible."""
    kinds: dict[bool, dict[str, Sample]] = {True: {}, False: {}}
    with path.open("rb") as file:
        for line in islice(iter(lambda: file.readline(MAX_LINE_BYTES), b""), MAX_LINES):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):  # damaged, or too long
                continue
            score = finite(entry.get("score")) if isinstance(entry, dict) else math.nan
            kind = kinds[score > 0]
            if math.isnan(score) or len(kind) >= PER_KIND:
                continue
            texts = [entry.get(name) for name in ("input", "output", "gts")]
            prompt, output, gold = ("" if text is None else str(text) for text in texts)
            kind.setdefault(prompt, Sample(step, prompt, output, gold, score))
            if all(len(kind) == PER_KIND for kind in kinds.values()):
                break
    return [*kinds[True].values(), *kinds[False].values()]


def shorten(text: str, limit: int) -> str:
    """Text of about `limit` characters, fit for a page: see :func:`visible`.

    >>> shorten("0123456789" * 10, 30)
    '01234567890123456789 […70 characters…] 0123456789'
    """
    if len(text) > limit:
        head = 2 * limit // 3
        text = f"{text[:head]} […{len(text) - limit:,} characters…] {text[head - limit :]}"
    return visible(text)


def visible(text: str) -> str:
    """Spell out code points that cannot be seen or that reverse the text, and leave out stacked combining marks.

    >>> visible("a\\x00b\\u202ec")
    'a<U+0000>b<U+202E>c'
    """
    if text.isascii() and text.isprintable():
        return text
    parts, marks = [], 0
    for char in text:
        category = unicodedata.category(char)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if category in INVISIBLE and char not in "\n\t":
            parts.append(f"<U+{ord(char):04X}>")
        elif marks <= MAX_MARKS:
            parts.append(char)
    return "".join(parts)
