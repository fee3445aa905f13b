"""The report of a run, or the comparison of several: one HTML page, its pictures inside it and beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

from recipe.prepo.errors import DataError
from recipe.prepo.run.files import write_atomically
from recipe.prepo.tools.report import style
from recipe.prepo.tools.report.charts import run_drawings, shared_drawings
from recipe.prepo.tools.report.compare import common_held_out, find_baseline, group_methods
from recipe.prepo.tools.report.load import Run, load_run
from recipe.prepo.tools.report.page import make_page
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
    """Draw the report of one run, or compare several, from the files of their run directories.

    Runs that differ only in their seed are one method, drawn as their mean with its spread. Files are replaced
    atomically, so a browser never loads half a page.

    Args:
        run_dirs: one run directory or more.
        out_dir: where `index.html` and its PNG files go; by default `report/` in the run directory, and
            `outputs/report/` for several.
        target: a held-out score; the page reports what each method took to reach it. None takes the baseline's final
            score.
        baseline: a method, a run, or a run directory (which joins the comparison); None picks the plainest method.
        refresh_s: seconds after which a browser loads the page again while a run is unfinished; None for never.

    Returns:
        The page's path.

    Raises:
        DataError: there is no run directory, one is not a run directory, or the baseline matches no method. Missing
            or damaged files are no error: the page lists them.
    """
    if not run_dirs:
        raise DataError("no run directory: pass one or more (outputs/<name>)")
    extra = Path(baseline) if baseline else None
    if extra is not None and extra.is_dir() and extra.resolve() not in {run_dir.resolve() for run_dir in run_dirs}:
        run_dirs = [*run_dirs, extra]
    runs = _distinct_names([load_run(run_dir) for run_dir in run_dirs])
    methods = group_methods(runs)
    base = find_baseline(methods, baseline) if len(methods) > 1 or baseline else None
    found = target_table(methods, common_held_out(runs), target, base)
    with style.look():
        shared = shared_drawings(methods, found.level if found else None)
        if len(runs) == 1:
            own = [(runs[0], "", run_drawings(runs[0]))]
        else:
            firsts = ((method.runs[0], f"_{index}") for index, method in enumerate(methods, start=1))
            own = [(run, suffix, run_drawings(run, suffix)) for run, suffix in firsts]
    html = make_page(
        methods, shared, own, found, refresh_s=refresh_s if any(run.is_unfinished for run in runs) else None
    )
    folder = out_dir or (COMPARISON_DIR if len(runs) > 1 else run_dirs[0] / "report")
    for drawing in [*shared, *(drawing for *_, each in own for drawing in each)]:
        picture, png = folder / f"{drawing.name}.png", drawing.png
        if png is None:
            picture.unlink(missing_ok=True)
        else:
            write_atomically(picture, partial(_write, png))
    index = folder / "index.html"
    write_atomically(index, html)
    return index


def _write(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def _distinct_names(runs: list[Run]) -> list[Run]:
    """Tell runs whose directories have the same name apart by the parent directory."""
    counts = Counter(run.name for run in runs)
    parents = [f"{run.path.resolve().parent.name}/" if counts[run.name] > 1 else "" for run in runs]
    return [replace(run, name=f"{parent}{run.name}") for run, parent in zip(runs, parents, strict=True)]
