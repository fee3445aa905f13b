"""The report of a run, or the comparison of several: one HTML page with its pictures beside it and inside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from recipe.prepo.errors import DataError
from recipe.prepo.report import audit_figures, decision_figures, figures, page, style
from recipe.prepo.report.load import Run, load_run
from recipe.prepo.report.summary import common_held_out

COMPARISON_DIR = Path("outputs/report")

__all__ = ["COMPARISON_DIR", "write_report"]


def write_report(run_dirs: Sequence[Path], out_dir: Path | None = None) -> Path:
    """Draws the report of one run, or compares several, from the files of their run directories.

    Args:
        run_dirs: one run directory or more.
        out_dir: where `index.html` and its PNG files go; by default `report/` in the run directory, and
            `outputs/report/` for several.

    Returns:
        The page's path.

    Raises:
        DataError: no run directory is given, or one of them is none. Missing or damaged files inside one are no
            error: the page names them.
    """
    if not run_dirs:
        raise DataError("no run directory is given: name one or more (outputs/<name>)")
    runs = _distinct_names([load_run(run_dir) for run_dir in run_dirs])
    with style.look():
        if len(runs) == 1:
            drawings = [
                *figures.metric_drawings(runs),
                audit_figures.window_path(runs[0]),
                audit_figures.perplexity_pass_rate(runs[0]),
                audit_figures.weights(runs[0]),
                decision_figures.decisions(runs),
                figures.step_time(runs[0]),
            ]
            html = page.run_page(runs[0], drawings)
        else:
            drawings = [*figures.metric_drawings(runs), decision_figures.decisions(runs)]
            html = page.compare_page(runs, common_held_out(runs), drawings)
    target = out_dir or (COMPARISON_DIR if len(runs) > 1 else run_dirs[0] / "report")
    target.mkdir(parents=True, exist_ok=True)
    for drawing in drawings:
        picture = target / f"{drawing.name}.png"
        if drawing.png is None:
            picture.unlink(missing_ok=True)
        else:
            picture.write_bytes(drawing.png)
    index = target / "index.html"
    index.write_text(html, encoding="utf-8", errors="xmlcharrefreplace")
    return index


def _distinct_names(runs: list[Run]) -> list[Run]:
    """Runs whose directories have the same name are told apart by the folder above, or by a number."""
    counts = Counter(run.name for run in runs)
    named = [f"{run.path.resolve().parent.name}/{run.name}" if counts[run.name] > 1 else run.name for run in runs]
    again = Counter(named)
    return [
        replace(run, name=f"{name} ({index})" if again[name] > 1 else name)
        for index, (run, name) in enumerate(zip(runs, named, strict=True), start=1)
    ]
