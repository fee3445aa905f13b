"""The report of a run, or the comparison of several: one HTML page, its pictures inside it and beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import methodcaller
from pathlib import Path

from recipe.prepo.errors import DataError
from recipe.prepo.run.files import write_atomically
from recipe.prepo.tools.report.charts import run_drawings, shared_drawings
from recipe.prepo.tools.report.compare import common_held_out, find_baseline, group_methods
from recipe.prepo.tools.report.load import load_run
from recipe.prepo.tools.report.page import make_page
from recipe.prepo.tools.report.targets import judge

COMPARISON_DIR = Path("outputs/report")


def write_report(
    run_dirs: Sequence[Path],
    out_dir: Path | None = None,
    *,
    target: float | None = None,
    baseline: str | None = None,
    refresh_s: int | None = None,
) -> Path:
    """Draw the report of one run, or compare several, from the files of their run directories.

    Args:
        out_dir: where `index.html` and its PNG files go; by default `report/` in the run directory, and
            `outputs/report/` for several.
        target: a held-out score; the page reports what it took to reach it. None takes the baseline's final score.
        baseline: a method, a run, or a run directory (which joins the comparison); None picks the plainest method.
        refresh_s: seconds after which a browser loads the page again while a run is unfinished; None for never.

    Returns:
        The page's path. Files are replaced atomically, so a browser never loads half a page.

    Raises:
        DataError: there is no run directory, one is not a run directory, or the baseline matches no method. Missing
            or damaged files are no error: the page lists them.
    """
    if not run_dirs:
        raise DataError("no run directory: pass one or more (outputs/<name>)")
    if baseline and Path(baseline).is_dir() and Path(baseline).resolve() not in {path.resolve() for path in run_dirs}:
        run_dirs = [*run_dirs, Path(baseline)]
    runs = [load_run(run_dir) for run_dir in run_dirs]
    counts = Counter(run.name for run in runs)
    for run in runs:
        if counts[run.name] > 1:
            run.name = f"{run.path.resolve().parent.name}/{run.name}"
    methods = group_methods(runs)
    base = find_baseline(methods, baseline) if len(methods) > 1 or baseline else None
    names = common_held_out(runs)
    costs, verdict = judge(methods, names, target, base)
    shared, own = shared_drawings(methods, costs.level if costs else None), []
    for index, method in enumerate(methods, start=1):
        suffix = f"_{index}" if len(runs) > 1 else ""
        own.append((method.runs[0], suffix, run_drawings(method.runs[0], suffix)))
    refresh_s = refresh_s if any(run.is_unfinished for run in runs) else None
    html = make_page(methods, shared, own, costs, verdict, refresh_s=refresh_s)
    folder = out_dir or (COMPARISON_DIR if len(runs) > 1 else run_dirs[0] / "report")
    for each in [*shared, *(each for *_, drawings in own for each in drawings)]:
        picture = folder / f"{each.name}.png"
        if each.png is None:
            picture.unlink(missing_ok=True)
        else:
            write_atomically(picture, methodcaller("write", each.png))
    write_atomically(folder / "index.html", html)
    return folder / "index.html"
