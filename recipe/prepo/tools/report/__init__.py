"""The report of a run, or the comparison of several: one HTML page with its pictures beside it and inside it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recipe.prepo.errors import DataError
from recipe.prepo.tools.report import audit_figures, decision_figures, figures, page, prompts, style, time_figures
from recipe.prepo.tools.report.load import Run, load_run
from recipe.prepo.tools.report.rows import Row, find_baseline, group_rows
from recipe.prepo.tools.report.summary import common_held_out, unfinished
from recipe.prepo.tools.report.targets import target_table

COMPARISON_DIR = Path("outputs/report")

__all__ = ["COMPARISON_DIR", "write_report"]


def write_report(
    run_dirs: Sequence[Path],
    out_dir: Path | None = None,
    *,
    target: float | None = None,
    baseline: str | None = None,
    refresh_s: int | None = None,
) -> Path:
    """Draws the report of one run, or compares several, from the files of their run directories.

    Runs that differ in their seed only are one row, drawn as their mean with its spread. Every file is replaced as a
    whole, so that a browser never loads half a page.

    Args:
        run_dirs: one run directory or more.
        out_dir: where `index.html` and its PNG files go; by default `report/` in the run directory, and
            `outputs/report/` for several.
        target: a held-out score; the page says what each row took to reach it. None takes the baseline's final one.
        baseline: a row's or a run's name, or a run directory (one more row, then); None takes the uniform row.
        refresh_s: seconds after which a browser loads the page again while a run is unfinished; None for never.

    Returns:
        The page's path.

    Raises:
        DataError: no run directory is given, one of them is none, or the baseline is none of the rows. Missing or
            damaged files inside one are no error: the page names them.
    """
    if not run_dirs:
        raise DataError("no run directory is given: name one or more (outputs/<name>)")
    runs = _distinct_names([load_run(run_dir) for run_dir in _with_baseline(run_dirs, baseline)])
    rows, names = group_rows(runs), common_held_out(runs)
    found = target_table(rows, names, target, find_baseline(rows, baseline) if len(rows) > 1 or baseline else None)
    refresh_s = refresh_s if any(unfinished(run) for run in runs) else None
    with style.look():
        overlaid = [*figures.metric_drawings(rows, found.level if found else None), decision_figures.decisions(rows)]
        if len(runs) == 1:
            parts = [page.RunPart(runs[0], _own_drawings(runs[0]))]
            html = page.run_page(parts[0], overlaid, found, refresh_s=refresh_s)
        else:
            parts = [_part(row, index) for index, row in enumerate(rows, start=1)]
            html = page.compare_page(rows, names, overlaid, parts, found, refresh_s=refresh_s)
    folder = out_dir or (COMPARISON_DIR if len(runs) > 1 else run_dirs[0] / "report")
    folder.mkdir(parents=True, exist_ok=True)
    for drawing in [*overlaid, *(drawing for part in parts for drawing in part.drawings)]:
        picture = folder / f"{drawing.name}.png"
        if drawing.png is None:
            picture.unlink(missing_ok=True)
        else:
            _replace(picture, drawing.png)
    index = folder / "index.html"
    _replace(index, html.encode("utf-8", errors="xmlcharrefreplace"))
    return index


def _own_drawings(run: Run) -> list[style.Drawing]:
    return [
        audit_figures.window_path(run),
        audit_figures.perplexity_pass_rate(run),
        audit_figures.weights(run),
        prompts.choices(run),
        time_figures.step_time(run),
    ]


def _part(row: Row, index: int) -> page.RunPart:
    """A row's first run by itself, its figures' names told apart by the row's number."""
    suffix = f"_{index}"
    drawings = [replace(drawing, name=drawing.name + suffix) for drawing in _own_drawings(row.runs[0])]
    return page.RunPart(row.runs[0], drawings, suffix)


def _with_baseline(run_dirs: Sequence[Path], baseline: str | None) -> list[Path]:
    """A baseline that is a directory, and not among the others, is one more run."""
    given = {run_dir.resolve() for run_dir in run_dirs}
    more = Path(baseline) if baseline else None
    if more is None or not more.is_dir() or more.resolve() in given:
        return list(run_dirs)
    return [*run_dirs, more]


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _distinct_names(runs: list[Run]) -> list[Run]:
    """Runs whose directories have the same name are told apart by the folder above, or by a number."""
    counts = Counter(run.name for run in runs)
    named = [f"{run.path.resolve().parent.name}/{run.name}" if counts[run.name] > 1 else run.name for run in runs]
    again = Counter(named)
    return [
        replace(run, name=f"{name} ({index})" if again[name] > 1 else name)
        for index, (run, name) in enumerate(zip(runs, named, strict=True), start=1)
    ]
