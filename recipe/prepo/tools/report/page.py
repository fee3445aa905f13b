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
from recipe.prepo.tools.report.compare import Method, all_runs, common_held_out, comparison_warnings, mean_of
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
    return lambda run, names: of(values) if len(values := mean_of(run, names)) else None


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
    """The labels, and then a list of cells for each method; `names` are the held-out scores in common."""
    sets: list[tuple[str, Number, str]] = [
        (f"final {held_out_set(name)}", logged(name, last), ",.4f") for name in names
    ]
    numbers = [("final held-out score", scored(last), ",.4f"), *(sets if len(names) > 1 else []), *NUMBERS]
    columns = [["method", "seed", *REGISTRIES, "steps", *(label for label, *_ in numbers)]]
    for method in methods:
        rules = [setting_text(method.runs[0].setting(f"prepo.{group}.name")) for group in REGISTRIES]
        steps = "; ".join(dict.fromkeys(f"{run.steps_done} of {run.steps_planned or '?'}" for run in method.runs))
        cells = [spread_text([value(run, names) for run in method.runs], form) for _, value, form in numbers]
        columns.append([method.name, ", ".join(map(setting_text, method.seeds)), *rules, steps, *cells])
    return columns


def run_tables(run: Run) -> list[tuple[str, str, Sequence[str], list[list[str]]]]:
    """(name, heading, head, lines) of the folded tables of one run."""
    prompt_ids = list(run.codes)
    tables: list[tuple[str, str, Sequence[str], list[list[str]]]] = []
    head: tuple[str, ...]

    def prompt_lines(frame: pd.DataFrame) -> list[list[str]]:
        lines = frame.head(MAX_PROMPTS).itertuples()
        return [[prompt_ids[prompt], *map(_number, values)] for prompt, *values in lines]

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
    settings = [["run directory", str(run.path)]]
    settings += [[text, setting_text(run.setting(name))] for text, name in SETTINGS.items()]
    if run.skip_reasons:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in run.skip_reasons.most_common(5))
        settings.append(["candidates skipped", reasons])
    tables.append(("settings", "Settings", (), settings))
    values = [(name, run.series(name)) for name in sorted(run.metrics)]
    lines = [[name, f"{series.iloc[-1]:.6g}", str(series.index[-1])] for name, series in values]
    return [*tables, ("metrics", "Last value of every metric", ("metric", "value", "step"), lines)]


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
    warnings = [f"{'' if single else f'{run.name}: '}{text}" for run in runs for text in run.warnings]
    each_run = [Method(run.name, (run,)) for run in runs]
    return environment().get_template("page.html").render(
        title=f"Run {runs[0].name}" if single else f"{len(methods)} methods, {len(runs)} runs",
        refresh_s=refresh_s,
        warnings=[*comparison_warnings(methods), *warnings],
        summary=summary_columns(methods, names),
        runs=runs,
        names=[held_out_set(name) for name in names],
        without=[run.name for run in runs if not run.held_out_names],
        target=target,
        shared=shared,
        seeds=summary_columns(each_run, names) if len(runs) > len(methods) else [],
        parts=[
            {"run": run, "suffix": suffix, "drawings": drawings, "tables": run_tables(run),
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
        "transposed": lambda columns: list(zip(*columns, strict=True)),
        "cell": lambda value: shorten(str(value), MAX_CELL),
        "pixels": lambda png, at: int.from_bytes(png[at : at + 4], "big"),
        "base64": lambda png: Markup(base64.b64encode(png).decode("ascii")),
    }
    return found
