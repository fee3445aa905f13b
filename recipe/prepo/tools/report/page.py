"""What stands on the report's page: of one run, or of the rows of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recipe.prepo.tools.report.load import Run
from recipe.prepo.tools.report.markup import details, document, figures_html, notes_html, table
from recipe.prepo.tools.report.prompts import most_rollouts_html, never_chosen_html
from recipe.prepo.tools.report.rows import Row, differences, seed_notes
from recipe.prepo.tools.report.samples import samples_html
from recipe.prepo.tools.report.style import Drawing
from recipe.prepo.tools.report.summary import gains, head_rows, held_out_names, unfinished
from recipe.prepo.tools.report.tables import COMPARE_HEAD, compare_rows, seed_rows
from recipe.prepo.tools.report.targets import TargetTable
from recipe.prepo.tools.report.text import safe


@dataclass(frozen=True)
class RunPart:
    """What a page shows of one run by itself: its figures, its prompts, its settings."""

    run: Run
    drawings: Sequence[Drawing]
    suffix: str = ""


def run_page(
    part: RunPart, overlaid: Sequence[Drawing], target: TargetTable | None = None, *, refresh_s: int | None = None
) -> str:
    """The page of one run; `overlaid` are the figures that a comparison has too."""
    run = part.run
    scores = [
        [entry.metric, f"{entry.first:.4f}", f"{entry.last:.4f}", f"{entry.last - entry.first:+.4f}",
         f"{entry.first_step} → {entry.last_step}"]
        for entry in gains(run)
    ]  # fmt: skip
    body = [
        notes_html([*run.notes, *unfinished(run)]),
        table("summary", (), head_rows(run), numbers=False),
        table("held_out", ("held-out score", "first", "last", "gain", "at steps"), scores)
        if scores
        else '<p id="held_out">No validation is logged.</p>',
        target_html(target),
        figures_html([*overlaid, *part.drawings]),
        prompts_html(part),
        details("Last value of every metric", table("metrics", ("metric", "value", "step"), last_values(run))),
    ]
    return document(f"Run {run.name}", body, refresh_s=refresh_s)


def compare_page(
    rows: Sequence[Row],
    names: Sequence[str],
    overlaid: Sequence[Drawing],
    parts: Sequence[RunPart] = (),
    target: TargetTable | None = None,
    *,
    refresh_s: int | None = None,
) -> str:
    """The page that lays rows side by side; `names` are the held-out scores that the runs share.

    Args:
        parts: runs that are shown by themselves too, below.
    """
    runs = [run for row in rows for run in row.runs]
    notes = [f"{run.name}: {note}" for run in runs for note in [*run.notes, *unfinished(run)]]
    if names:
        basis = f"Held-out score: plain mean over {', '.join(name.removeprefix('val-core/') for name in names)}."
    else:
        basis = "The runs share no held-out score (same set, same metric, same number of samples)."
    without = [run.name for run in runs if names and not held_out_names(run)]
    basis += f" No validation is logged in {', '.join(without)}." if without else ""
    if len(runs) > len(rows):
        basis += " Of several seeds: the mean, and in brackets the lowest and the highest of them."
    head, *columns = zip(COMPARE_HEAD, *compare_rows(rows, names), strict=True)
    body = [
        notes_html([*differences(rows), *seed_notes(rows), *notes]),
        table("comparison", head, columns),
        f'<p id="basis" class="small">{safe(basis, 1000)}</p>',
        target_html(target),
        figures_html(overlaid),
    ]
    if len(runs) > len(rows):
        body.append(details("Each seed", table("seeds", *seed_rows(rows, names))))
    for part in parts:
        settings = table(f"summary{part.suffix}", (), head_rows(part.run), numbers=False)
        body += [
            f"<h2>{safe(part.run.name)}, by itself</h2>",
            figures_html(part.drawings),
            prompts_html(part),
            details(f"Settings of {part.run.name}", settings),
        ]
    return document(title_of(rows, len(runs)), body, refresh_s=refresh_s)


def title_of(rows: Sequence[Row], num_runs: int) -> str:
    if len(rows) == 1:
        return f"{rows[0].name}, {num_runs} seeds"
    return f"{len(rows)} rows compared, {num_runs} runs" if num_runs > len(rows) else f"{num_runs} runs compared"


def target_html(target: TargetTable | None) -> str:
    """What it took to reach the target, with the rule by which it was counted."""
    if target is None:
        return '<p id="target">No target: <code>--target 0.5</code> states one, <code>--baseline ROW</code> a row.</p>'
    notes = "".join(f'<p class="small">{safe(note, 1000)}</p>' for note in target.notes)
    head, *lines = zip(target.head, *target.rows, strict=True)
    return f"<h2>{safe(target.title)}</h2>{table('target', head, lines if target.rows else [])}{notes}"


def prompts_html(part: RunPart) -> str:
    run, suffix = part.run, part.suffix
    return never_chosen_html(run, suffix) + most_rollouts_html(run, suffix) + samples_html(run, suffix)


def last_values(run: Run) -> list[tuple[str, str, str]]:
    """(metric, last value, step it was logged at), by name."""
    latest: dict[str, tuple[float, int]] = {}
    for step, data in run.metrics.items():
        latest.update((name, (value, step)) for name, value in data.items())
    return [(name, f"{value:.6g}", str(step)) for name, (value, step) in sorted(latest.items())]
