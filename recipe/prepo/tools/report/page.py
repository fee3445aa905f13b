"""The page of one run or of a comparison: its tables and sample generations, in the template `page.html`.

verl dumps generations as one file per step, `<step>.jsonl`, one object per generation with `input`, `output`, `gts`
and `score`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import unicodedata
from collections.abc import Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from recipe.prepo.maths.correctness import correctness
from recipe.prepo.rules.registry import REGISTRIES
from recipe.prepo.run.metric_names import ZERO_ADVANTAGE, held_out_set
from recipe.prepo.tools.report.charts import Drawing
from recipe.prepo.tools.report.compare import COSTS, Method, all_runs, common_held_out, comparison_warnings, mean_of
from recipe.prepo.tools.report.load import DAMAGE, Run, finite
from recipe.prepo.tools.report.style import COLORS, DARK_COLORS, LOOKS
from recipe.prepo.tools.report.targets import MISSING, TargetTable, Verdict

MAX_TEXT, MAX_CELL, MAX_LINES = 2000, 200, 4096
SETTINGS = {
    "trainer mode": "trainer.v1.trainer_mode",
    "model": "actor_rollout_ref.model.path",
    "training data": "data.train_files",
    "held-out data": "data.val_files",
}
# Label in the summary -> format, other than ",.4f".
FORMATS = {
    "gain": "+,.4f", "rollouts": ",.0f", "response tokens": ",.0f", "seconds in steps": ",.1f",
    "seconds in validation": ",.1f",
}  # fmt: skip
# (setting, directory in the run directory that is tried first, heading, correct and incorrect ones of a step)
DUMPS = (
    ("trainer.validation_data_dir", "validation", "Validation generations", 20),
    ("trainer.rollout_data_dir", "rollouts", "Training rollouts", 2),
)


def make_page(
    methods: Sequence[Method],
    shared: Sequence[Drawing],
    own: Sequence[tuple[Run, str, Sequence[Drawing]]],
    target: TargetTable | None,
    verdict: Verdict,
    *,
    refresh_s: int | None = None,
) -> str:
    """The whole HTML document; `own` holds (run, suffix of its ids, its figures) of each run shown by itself too.

    Its one script is named by its hash, so that a browser runs no other.
    """
    script = files(__package__).joinpath("page.js").read_text("utf-8")
    runs = all_runs(methods)
    names = common_held_out(runs)
    environment = Environment(
        loader=PackageLoader("recipe.prepo.tools.report", ""),
        autoescape=True,
        trim_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else shorten(str(value), MAX_TEXT),
    )
    table, same = summary(methods, names), {}
    if len(runs) == 1:
        table = table.T.rename_axis("run")
    else:  # what does not tell the methods apart needs no column
        same = {name: table[name].iloc[0] for name in (*REGISTRIES, "seed", "steps") if table[name].nunique() == 1}
        table = table.drop(columns=list(same))
    environment.filters |= {
        "shorten": shorten,
        "cell": cell,
        "base64": lambda png: Markup(base64.b64encode(png).decode("ascii")),
    }
    return environment.get_template("page.html").render(
        title=f"Run {runs[0].name}" if len(runs) == 1 else f"{len(methods)} methods, {len(runs)} runs",
        refresh_s=refresh_s,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        schemes={"light": COLORS, "dark": DARK_COLORS},
        looks=[dashes for _, _, dashes, _ in LOOKS],
        verdict=verdict,
        warnings=comparison_warnings(methods) + [f"{run.name}: {text}" for run in runs for text in run.warnings],
        summary=table,
        same=same,
        runs=runs,
        names=[held_out_set(name) for name in names],
        without=[run.name for run in runs if not run.held_out_names],
        target=target,
        shared=shared,
        seeds=summary([Method(run.name, (run,)) for run in runs], names) if len(runs) > len(methods) else None,
        parts=[
            {"run": run, "suffix": suffix, "drawings": drawings, "tables": run_tables(run), "dumps": find_samples(run)}
            for run, suffix, drawings in own
        ],
        empty=[each for each in (*shared, *(each for *_, drawings in own for each in drawings)) if not each.png],
    )


def summary(methods: Sequence[Method], names: Sequence[str]) -> pd.DataFrame:
    """A line of texts for each method; `names` are the held-out scores in common."""
    lines = {}
    for method in methods:
        config = method.runs[0].config
        numbers = pd.DataFrame([run_numbers(run, names) for run in method.runs])
        lines[method.name] = {
            "seed": ", ".join(map(cell, method.seeds)),
            **{group: cell(config.get(f"prepo.{group}.name")) for group in REGISTRIES},
            "steps": "; ".join(dict.fromkeys(f"{run.steps_done} of {run.steps_planned or '?'}" for run in method.runs)),
            **{label: spread_text(numbers[label], FORMATS.get(label, ",.4f")) for label in numbers},
        }
    return pd.DataFrame.from_dict(lines, orient="index").rename_axis("method")


def run_numbers(run: Run, names: Sequence[str]) -> dict[str, float]:
    """The numbers of a run in the summary; NaN where they are not logged."""
    score, sets = last(mean_of(run, names)), names if len(names) > 1 else []
    return {
        "final held-out score": score,
        **{f"final {held_out_set(name)}": last(run.series(name)) for name in sets},
        "gain": score - last(mean_of(run, names).iloc[:1]),
        **{unit: last(run.series(counter)) for _, counter, unit in COSTS},
        "seconds in validation": run.series("timing_s/testing").sum(min_count=1),
        "zero-advantage share": run.series(ZERO_ADVANTAGE).mean(),
    }


def last(values: pd.Series) -> float:
    return values.iloc[-1] if len(values) else math.nan


def spread_text(values: pd.Series, form: str) -> str:
    """The mean, with the lowest and the highest in brackets when they differ; unknown values are left out.

    >>> spread_text(pd.Series([0.25, 0.25]), ".2f"), spread_text(pd.Series([1.0, 2.0, math.nan]), ".1f")
    ('0.25', '1.5 [1.0, 2.0]')
    """
    if values.isna().all():
        return MISSING
    text, low, high = format(values.mean(), form), values.min(), values.max()
    return text if low == high else f"{text} [{low:{form}}, {high:{form}}]"


def run_tables(run: Run) -> list[tuple[str, str, pd.DataFrame]]:
    """(name, heading, table) of the folded tables of one run."""
    settings = {"run directory": run.path, **{text: run.config.get(name) for text, name in SETTINGS.items()}}
    values = {name: run.series(name) for name in sorted(run.metrics)}
    metrics = {name: {"value": last(each), "step": each.index[-1]} for name, each in values.items()}
    return [
        ("settings", "Settings", pd.DataFrame({"value": settings}).rename_axis("setting")),
        ("metrics", "Last value of every metric", pd.DataFrame(metrics).T.rename_axis("metric")),
    ]


def find_samples(run: Run) -> list[tuple[str, list[list[dict[str, Any]]]]]:
    """(heading, questions): some generations of the first and the last dumped step, those of one question together."""
    found = []
    for setting, default, heading, per_kind in DUMPS:
        folder = run.path / default
        folder = folder if folder.is_dir() else Path(str(run.config.get(setting)))
        dumps = {int(path.stem): path for path in folder.glob("*.jsonl") if path.stem.isdecimal()}
        questions: dict[str, list[dict[str, Any]]] = {}
        for step in sorted({min(dumps), max(dumps)}) if dumps else []:
            for sample in correct_and_incorrect(run, dumps[step], per_kind):
                questions.setdefault(sample["input"], []).append(sample | {"step": step})
        found += [(heading, list(questions.values()))] if questions else []
    return found


def correct_and_incorrect(run: Run, path: Path, per_kind: int) -> list[dict[str, Any]]:
    """The first correct generations of a dump and the first incorrect ones, of different prompts."""
    kinds: dict[bool, dict[str, dict[str, Any]]] = {True: {}, False: {}}
    scale = {name: run.config.get(f"prepo.{name}") for name in ("correct_above", "reward_range")}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in islice(lines, MAX_LINES):
            try:
                entry = json.loads(line)
                texts = {name: str(entry[name]) for name in ("input", "output", "gts")}
                score, acc = finite(entry["score"]), entry.get("acc")
                acc = float(acc) if isinstance(acc, bool) else finite(acc)
            except DAMAGE:
                continue
            is_correct = bool(correctness(np.array([score]), np.array([acc]), **scale)[0] > 0.5)
            kind = kinds[is_correct]
            if len(kind) < per_kind and not math.isnan(score):
                kind.setdefault(texts["input"], {"score": score, "correct": is_correct, **texts})
    return [*kinds[True].values(), *kinds[False].values()]


def cell(value: object) -> str:
    """A value of a table as a short text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    return shorten(f"{value:,.6g}" if isinstance(value, float) else str(value), MAX_CELL)


def shorten(text: str, limit: int) -> str:
    """Text of about `limit` characters, with code points spelled out that cannot be seen or that reverse the text.

    >>> shorten("0123456789" * 10, 30)
    '01234567890123456789 […70 characters…] 0123456789'
    >>> shorten("a\\x00b\\u202ec", 30)
    'a<U+0000>b<U+202E>c'
    """
    if len(text) > limit:
        head = 2 * limit // 3
        text = f"{text[:head]} […{len(text) - limit:,} characters…] {text[head - limit :]}"
    return "".join(
        char if char.isprintable() or char in "\n\t" or unicodedata.category(char) == "Zs" else f"<U+{ord(char):04X}>"
        for char in text
    )
