"""HTML of the report: a document with its style inside, tables, figures. No script, nothing fetched."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

from recipe.prepo.tools.report.style import Drawing
from recipe.prepo.tools.report.text import safe

MAX_CAPTION = 2000
STYLE = """
:root { color-scheme: light dark; --text: #111; --back: #fff; --soft: #333; --rule: #ccc; --note: #f2f2f2; }
@media (prefers-color-scheme: dark) {
  :root { --text: #eee; --back: #141414; --soft: #ccc; --rule: #4a4a4a; --note: #262626; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 0.8rem; max-width: 78rem; color: var(--text); background: var(--back);
       font: 1rem/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; }
h2 { font-size: 1.1rem; margin: 1.6rem 0 0.4rem; }
h3 { font-size: 1rem; margin: 0.4rem 0; }
.scroll { overflow-x: auto; margin: 0.6rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.5rem; border-bottom: 1px solid var(--rule); text-align: left; vertical-align: top; }
th, .num td { overflow-wrap: normal; }
td:first-child { min-width: 7.5rem; overflow-wrap: anywhere; }
.text td + td { min-width: 10rem; }
.num td + td, .num thead th + th { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.num thead th + th { white-space: normal; }
@media (max-width: 40rem) { .num td + td { white-space: normal; } }
.notes { border-left: 0.3rem solid var(--text); padding: 0.2rem 0.8rem; background: var(--note); }
.notes ul { margin: 0.3rem 0; padding-left: 1.2rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); gap: 1.2rem; }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; background: #fff; border-radius: 0.2rem; }
figcaption, .small { font-size: 0.9rem; color: var(--soft); }
figcaption { margin-top: 0.3rem; }
summary { cursor: pointer; margin: 0.8rem 0; font-weight: 600; }
pre { margin: 0.3rem 0; padding: 0.4rem 0.6rem; background: var(--note); white-space: pre-wrap; overflow: hidden;
      font-size: 0.85rem; unicode-bidi: isolate; }
pre.output { border-left: 0.3rem solid var(--rule); }
.sample { margin: 0.8rem 0; }
.sample p { margin: 0; }
""".strip()


def document(title: str, body: Iterable[str], *, refresh_s: int | None = None) -> str:
    """A whole HTML document; `title` is text, `body` is HTML. With `refresh_s` a browser loads it again and again."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            *([refresh_tag(refresh_s)] if refresh_s else []),
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            f"<title>{safe(title)}</title>",
            f"<style>\n{STYLE}\n</style></head><body>",
            f"<h1>{safe(title)}</h1>",
            *body,
            "</body></html>",
            "",
        ]
    )


def refresh_tag(seconds: int) -> str:
    return f'<meta http-equiv="refresh" content="{seconds}">'


def table(name: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True) -> str:
    """An HTML table of text cells; with `numbers`, all columns but the first stand right."""
    lines = [f'<div class="scroll"><table id="{safe(name)}" class="{"num" if numbers else "text"}">']
    if head:
        lines.append("<thead><tr>" + "".join(f"<th>{safe(cell)}</th>" for cell in head) + "</tr></thead>")
    lines += ["<tbody>"]
    lines += ["<tr>" + "".join(f"<td>{safe(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</tbody></table></div>"])


def figure_html(drawing: Drawing) -> str:
    """A picture with its caption and the same words as alternative text; a note where nothing could be drawn."""
    caption = safe(drawing.caption, MAX_CAPTION)
    picture = f'<p class="notes">Not drawn: {caption}</p>'
    if drawing.png is not None:
        data = base64.b64encode(drawing.png).decode("ascii")
        width, height = (int.from_bytes(drawing.png[at : at + 4], "big") for at in (16, 20))
        alt = safe(f"{drawing.title}. {drawing.caption}", MAX_CAPTION)
        picture = f'<img alt="{alt}" width="{width}" height="{height}" src="data:image/png;base64,{data}">'
        picture += f"<figcaption>{caption}</figcaption>"
    return f'<figure id="{safe(drawing.name)}"><h3>{safe(drawing.title)}</h3>{picture}</figure>'


def figures_html(drawings: Iterable[Drawing]) -> str:
    return '<div class="figures">' + "\n".join(map(figure_html, drawings)) + "</div>"


def notes_html(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{safe(note, MAX_CAPTION)}</li>" for note in notes)
    return f'<div class="notes" id="notes"><b>Missing, damaged or unlike</b><ul>{items}</ul></div>'


def details(summary: str, content: str) -> str:
    return f"<details><summary>{safe(summary)}</summary>{content}</details>"
