"""The report's page: one HTML file with its style and pictures inside, no script, nothing fetched."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

from recipe.prepo.report.load import Run
from recipe.prepo.report.style import Drawing
from recipe.prepo.report.summary import COMPARE_HEAD, MISSING, compare_rows, gains, head_rows, number, unfinished

MAX_PROMPTS = 20
STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 0.8rem; max-width: 78rem; color: #111; background: #fff;
       font: 1rem/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0.4rem 0; }
.scroll { overflow-x: auto; margin: 0.6rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.4rem; border-bottom: 1px solid #ccc; text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; }
td:first-child { min-width: 7.5rem; }
.text td + td { min-width: 10rem; }
.num td + td, .num thead th + th { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.notes { border-left: 0.3rem solid #111; padding: 0.2rem 0.8rem; background: #f2f2f2; }
.notes ul { margin: 0.3rem 0; padding-left: 1.2rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1.2rem; }
figure { margin: 0; }
img { width: 100%; height: auto; }
figcaption { font-size: 0.9rem; color: #333; }
summary { cursor: pointer; margin: 0.8rem 0; font-weight: 600; }
""".strip()


def page(title: str, body: Iterable[str]) -> str:
    """A whole HTML document; `title` is text, `body` is HTML."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{STYLE}\n</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            *body,
            "</body></html>",
            "",
        ]
    )


def table(name: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True) -> str:
    """An HTML table of text cells; with `numbers`, all columns but the first stand right."""
    lines = [f'<div class="scroll"><table id="{escape(name)}" class="{"num" if numbers else "text"}">']
    if head:
        lines.append("<thead><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr></thead>")
    lines += ["<tbody>"]
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</tbody></table></div>"])


def figure_html(drawing: Drawing) -> str:
    picture = f'<p class="notes">Not drawn: {escape(drawing.caption)}</p>'
    if drawing.png is not None:
        data = base64.b64encode(drawing.png).decode("ascii")
        alt = escape(f"{drawing.title}. {drawing.caption}")
        picture = (
            f'<img alt="{alt}" src="data:image/png;base64,{data}"><figcaption>{escape(drawing.caption)}</figcaption>'
        )
    return f'<figure id="{escape(drawing.name)}"><h2>{escape(drawing.title)}</h2>{picture}</figure>'


def figures_html(drawings: Iterable[Drawing]) -> str:
    return '<div class="figures">' + "\n".join(map(figure_html, drawings)) + "</div>"


def notes_html(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<div class="notes" id="notes"><b>Missing or damaged</b><ul>{items}</ul></div>'


def details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def run_page(run: Run, drawings: Sequence[Drawing]) -> str:
    """The page of one run."""
    entries = gains(run)
    scores = [
        [entry.metric, f"{entry.first:.4f}", f"{entry.last:.4f}", f"{entry.last - entry.first:+.4f}",
         f"{entry.first_step} → {entry.last_step}"]
        for entry in entries
    ]  # fmt: skip
    body = [
        notes_html([*run.notes, *unfinished(run)]),
        table("summary", (), head_rows(run), numbers=False),
        table("held_out", ("held-out score", "first", "last", "gain", "at steps"), scores)
        if scores
        else '<p id="held_out">No validation is logged.</p>',
        figures_html(drawings),
        prompts_html(run),
        details("Last value of every metric", table("metrics", ("metric", "value", "step"), last_values(run))),
    ]
    return page(f"Run {run.name}", body)


def compare_page(runs: Sequence[Run], names: Sequence[str], drawings: Sequence[Drawing]) -> str:
    """The page that lays several runs side by side; `names` are the held-out scores all of them have."""
    notes = [f"{run.name}: {note}" for run in runs for note in [*run.notes, *unfinished(run)]]
    if names:
        basis = f"Held-out score: plain mean over {', '.join(name.removeprefix('val-core/') for name in names)}."
    else:
        basis = "The runs share no held-out score (same set, same metric, same number of samples)."
    head, *rows = zip(COMPARE_HEAD, *compare_rows(runs, names), strict=True)
    body = [
        notes_html(notes),
        table("comparison", head, rows),
        f'<p id="basis">{escape(basis)}</p>',
        figures_html(drawings),
    ]
    body += [details(f"Settings of {run.name}", table(f"summary_{index}", (), head_rows(run), numbers=False))
             for index, run in enumerate(runs)]  # fmt: skip
    return page(f"{len(runs)} runs compared", body)


def last_values(run: Run) -> list[tuple[str, str, str]]:
    """(metric, last value, step it was logged at), by name."""
    latest: dict[str, tuple[float, int]] = {}
    for step, data in run.metrics.items():
        latest.update((name, (value, step)) for name, value in data.items())
    return [(name, f"{value:.6g}", str(step)) for name, (value, step) in sorted(latest.items())]


def prompts_html(run: Run) -> str:
    """The prompts that took the most rollouts, with what came of them."""
    if run.rollouts is None or not run.rollouts.count:
        return ""
    spent: dict[str, tuple[int, int, float]] = {}
    for (step, prompt_id), count in run.rollouts.count.items():
        steps, rollouts, reward = spent.get(prompt_id, (0, 0, 0.0))
        spent[prompt_id] = (steps + 1, rollouts + count, reward + run.rollouts.reward_sum[step, prompt_id])
    most = sorted(spent.items(), key=lambda item: (-item[1][1], item[0]))[:MAX_PROMPTS]
    rows = []
    for prompt_id, (steps, rollouts, reward) in most:
        choices = run.selections.history.get(prompt_id) if run.selections else None
        ppl = number(choices[-1][1], 3) if choices else MISSING
        rows.append([prompt_id, str(steps), str(rollouts), f"{reward / rollouts:.3f}", ppl])
    head = ("prompt", "steps", "rollouts", "mean reward", "last perplexity")
    return details(f"Prompts that took the most rollouts (of {len(spent):,})", table("prompts", head, rows))
