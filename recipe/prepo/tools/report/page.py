"""The page of one run or of a comparison: its tables, and the HTML through the template `page.html`."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from recipe.prepo.rules.registry import REGISTRIES
from recipe.prepo.run.metric_names import ROLLOUTS, STEP_SECONDS, TOKENS, ZERO_ADVANTAGE, held_out_set
from recipe.prepo.tools.report.charts import Drawing, NoData, times_chosen
from recipe.prepo.tools.report.compare import Method, all_runs, common_held_out, comparison_warnings, held_out
from recipe.prepo.tools.report.load import Run
from recipe.prepo.tools.report.samples import find_samples, shorten
from recipe.prepo.tools.report.targets import MISSING, TargetTable

MAX_TEXT, MAX_CELL, MAX_PROMPTS, MAX_LISTED = 2000, 200, 20, 8
SETTINGS = {
    "trainer mode": "trainer.v1.trainer_mode",
    "model": "actor_rollout_ref.model.path",
    "training data": "data.train_files",
    "held-out data": "data.val_files",
}


Number = Callable[[Run, Sequence[str]], float | None]


def logged(metric: str, of: Callable[[pd.Series], float]) -> Number:
    """`of` the metric's values; None when it is not logged."""
    return lambda run, names: of(values) if len(values := run.series(metric)) else None


def scored(of: Callable[[pd.Series], float]) -> Number:
    """`of` the held-out scores over the sets in common; None without any."""
    return lambda run, names: of(values) if len(values := held_out(run, names)) else None


def last(values: pd.Series) -> float:
    return values.iloc[-1]


def prompts(run: Run) -> pd.DataFrame | None:
    try:
        return times_chosen(run)
    except NoData:
        return None


def never_chosen(run: Run, names: Sequence[str]) -> float | None:
    found = prompts(run)
    return None if found is None else float((found["chosen"] == 0).mean())


# (label, number of a run given the held-out scores in common, format)
NUMBERS: tuple[tuple[str, Number, str], ...] = (
    ("final held-out score", scored(last), ",.4f"),
    ("gain", scored(lambda values: values.iloc[-1] - values.iloc[0]), "+,.4f"),
    ("rollouts", logged(ROLLOUTS, last), ",.0f"),
    ("response tokens", logged(TOKENS, last), ",.0f"),
    ("seconds in steps", logged(STEP_SECONDS, pd.Series.sum), ",.1f"),
    ("seconds in validation", logged("timing_s/testing", pd.Series.sum), ",.1f"),
    ("zero-advantage share", logged(ZERO_ADVANTAGE, pd.Series.mean), ",.4f"),
    ("prompts never chosen", never_chosen, ".1%"),
)


def setting_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        more = f" and {len(value) - MAX_LISTED} more" if len(value) > MAX_LISTED else ""
        return ", ".join(setting_text(item) for item in value[:MAX_LISTED]) + more
    return MISSING if value is None or isinstance(value, dict) else str(value)


def spread_text(values: Sequence[float | None], form: str) -> str:
    """The mean, with the lowest and the highest in brackets when they differ; unknown values are left out.

    >>> spread_text([0.25, 0.25], ".2f"), spread_text([1.0, 2.0, None], ".1f")
    ('0.25', '1.5 [1.0, 2.0]')
    """
    known = [float(value) for value in values if value is not None]
    if not known:
        return MISSING
    text = format(sum(known) / len(known), form)
    return text if min(known) == max(known) else f"{text} [{min(known):{form}}, {max(known):{form}}]"


def summary_columns(methods: Sequence[Method], names: Sequence[str]) -> list[list[str]]:
    """The lines of the summary: a label, and a cell for each method."""
    columns = [["method", "seed", *REGISTRIES, "steps", *(label for label, *_ in NUMBERS)]]
    for method in methods:
        rules = [setting_text(method.runs[0].setting(f"prepo.{group}.name")) for group in REGISTRIES]
        steps = "; ".join(dict.fromkeys(f"{run.steps_done} of {run.steps_planned or '?'}" for run in method.runs))
        numbers = [spread_text([value(run, names) for run in method.runs], form) for _, value, form in NUMBERS]
        columns.append([method.name, ", ".join(map(setting_text, method.seeds)), *rules, steps, *numbers])
    return [list(line) for line in zip(*columns, strict=True)]


def seed_lines(methods: Sequence[Method], names: Sequence[str]) -> list[list[str]]:
    """One line per run, the head first."""
    lines = [["run", "seed", "steps", *(label for label, *_ in NUMBERS)]]
    for run in all_runs(methods):
        numbers = [spread_text([value(run, names)], form) for _, value, form in NUMBERS]
        lines.append([run.name, setting_text(run.seed), str(run.steps_done), *numbers])
    return lines


def score_lines(run: Run) -> list[list[str]]:
    """First and last held-out score of each set and, with several sets, of their mean."""
    names = run.held_out_names
    sets = [(held_out_set(name) or name, [name]) for name in names]
    sets += [("mean over the sets", names)] if len(names) > 1 else []
    found = [(text, held_out(run, part)) for text, part in sets]
    return [
        [text, f"{score.iloc[0]:.4f}", f"{score.iloc[-1]:.4f}", f"{score.iloc[-1] - score.iloc[0]:+.4f}",
         f"{score.index[0]} → {score.index[-1]}"]
        for text, score in found if len(score)
    ]  # fmt: skip


def run_tables(run: Run, *, whole: bool) -> list[tuple[str, str, Sequence[str], list[list[str]]]]:
    """(name, heading, head, lines) of the folded tables of one run; with `whole`, the last value of every metric."""
    tables: list[tuple[str, str, Sequence[str], list[list[str]]]] = []

    def prompt_lines(frame: pd.DataFrame) -> list[list[str]]:
        lines = frame.head(MAX_PROMPTS).fillna({"ppl": float("nan")}).itertuples()
        return [[run.prompt_ids[prompt], *map(_number, values)] for prompt, *values in lines]

    chosen = prompts(run)
    if chosen is not None and (chosen["chosen"] == 0).any():
        never = chosen[chosen["chosen"] == 0].sort_values("drawn", ascending=False, kind="stable")
        heading = f"Prompts that were never chosen ({len(never):,} of {len(chosen):,})"
        head = ("prompt", "times a candidate", "last perplexity")
        tables.append(("never_chosen", heading, head, prompt_lines(never[["drawn", "ppl"]])))
    if run.rollouts is not None and len(run.rollouts):
        spent = run.rollouts.groupby("prompt").agg(
            steps=("step", "nunique"), rollouts=("step", "size"), reward=("reward", "mean")
        )
        spent["ppl"] = float("nan") if chosen is None else chosen["ppl"].reindex(spent.index)
        heading = f"Prompts with the most rollouts (of {len(spent):,})"
        head = ("prompt", "steps", "rollouts", "mean reward", "last perplexity")
        lines = prompt_lines(spent.sort_values("rollouts", ascending=False, kind="stable"))
        tables.append(("prompts", heading, head, lines))
    settings = [
        ["run directory", str(run.path)],
        *([text, setting_text(run.setting(name))] for text, name in SETTINGS.items()),
    ]
    if run.skip_reasons:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in run.skip_reasons.most_common(5))
        settings.append(["candidates skipped", reasons])
    tables.append(("settings", "Settings", (), settings))
    if whole:
        values = [(name, run.series(name)) for name in sorted(run.metrics)]
        lines = [[name, f"{series.iloc[-1]:.6g}", str(series.index[-1])] for name, series in values if len(series)]
        tables.append(("metrics", "Last value of every metric", ("metric", "value", "step"), lines))
    return tables


def _number(value: float) -> str:
    return MISSING if pd.isna(value) else f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"


def make_page(
    methods: Sequence[Method],
    shared: Sequence[Drawing],
    own: Sequence[tuple[Run, str, Sequence[Drawing]]],
    target: TargetTable | None,
    *,
    refresh_s: int | None = None,
) -> str:
    """The whole HTML document.

    Args:
        shared: the figures that lay the methods over each other.
        own: (run, suffix of its ids, its figures) of each run that is shown by itself too.
        target: what it took to reach the target.
        refresh_s: seconds after which a browser loads the page again; None for never.
    """
    runs = all_runs(methods)
    names, single = common_held_out(runs), len(runs) == 1
    warnings = comparison_warnings(methods)
    for run in runs:
        unfinished = [
            f"{run.steps_done} of {run.steps_planned} steps are logged: the run is still going, or was stopped"
        ]
        prefix = "" if single else f"{run.name}: "
        warnings += [prefix + text for text in [*run.warnings, *(unfinished if run.is_unfinished else [])]]
    without = [run.name for run in runs if not run.held_out_names]
    if names:
        basis = f"Held-out score: plain mean over {', '.join(held_out_set(name) or name for name in names)}."
    else:
        basis = "No validation is logged." if single else "The runs share no held-out score (same set and statistic)."
    basis += f" No validation is logged in {', '.join(without)}." if without and names else ""
    basis += (
        " Several seeds: the mean, with the lowest and the highest in brackets." if len(runs) > len(methods) else ""
    )
    if single:
        title = f"Run {runs[0].name}"
    elif len(methods) == 1:
        title = f"{methods[0].name}, {len(runs)} seeds"
    else:
        title = f"{len(methods)} methods compared" + (f", {len(runs)} runs" if len(runs) > len(methods) else "")
    return environment().get_template("page.html").render(
        title=title,
        refresh_s=refresh_s,
        warnings=warnings,
        summary=summary_columns(methods, names),
        basis=basis,
        scores=score_lines(runs[0]) if single else [],
        target=target,
        columns=list(zip(target.head, *target.lines, strict=True)) if target else [],
        shared=shared,
        seeds=seed_lines(methods, names) if len(runs) > len(methods) else [],
        parts=[
            {"run": run, "suffix": suffix, "drawings": drawings, "tables": run_tables(run, whole=single),
             "samples": find_samples(run)}
            for run, suffix, drawings in own
        ],
    )  # fmt: skip


def environment() -> Environment:
    """Jinja with every value escaped and cut, and invisible characters spelled out."""

    def safe(value: object) -> object:
        return value if isinstance(value, Markup) else shorten(str(value), MAX_TEXT)

    found = Environment(
        loader=PackageLoader("recipe.prepo.tools.report", ""), autoescape=True, finalize=safe, trim_blocks=True
    )
    found.filters |= {
        "shorten": shorten,
        "cell": lambda value: shorten(str(value), MAX_CELL),
        "pixels": lambda png, at: int.from_bytes(png[at : at + 4], "big"),
        "base64": lambda png: Markup(base64.b64encode(png).decode("ascii")),
    }
    return found
