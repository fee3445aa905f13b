"""The tables of a comparison: a row's numbers, each seed's, and what it took to reach a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recipe.prepo.tools.report.load import Run
from recipe.prepo.tools.report.prompts import never_chosen, never_chosen_text
from recipe.prepo.tools.report.rows import Row
from recipe.prepo.tools.report.summary import (
    MISSING,
    ROLLOUTS,
    STEP_SECONDS,
    TOKENS,
    ZERO_ADVANTAGE,
    gain,
    last,
    mean,
    number,
    rule,
    setting_text,
    steps_text,
    total,
)

COMPARE_HEAD = (
    "row",
    "seeds",
    "selection",
    "weighting",
    "budget",
    "temperature",
    "steps",
    "final held-out score",
    "gain",
    "rollouts",
    "response tokens",
    "seconds in steps",
    "zero-advantage share",
    "prompts never chosen",
)


def compare_rows(rows: Sequence[Row], names: Sequence[str]) -> list[list[str]]:
    """One list a row, in the order of `COMPARE_HEAD`; `names` are the held-out scores that all runs have."""
    found = []
    for row in rows:
        first = row.runs[0]

        def over(values: Callable[[Run], float | None], form: str, runs: Sequence[Run] = row.runs) -> str:
            return spread_text([values(run) for run in runs], form)

        found.append(
            [
                row.name,
                ", ".join(setting_text(seed) for seed in row.seeds),
                *(rule(first, kind) for kind in ("selection", "weighting", "budget", "temperature")),
                _same([steps_text(run) for run in row.runs]),
                over(lambda run: final_score(run, names), ",.4f"),
                over(lambda run: gained(run, names), "+,.4f"),
                over(lambda run: last(run, ROLLOUTS), ",.0f"),
                over(lambda run: last(run, TOKENS), ",.0f"),
                over(lambda run: total(run, STEP_SECONDS), ",.1f"),
                over(lambda run: mean(run, ZERO_ADVANTAGE), ",.4f"),
                never_chosen_text(first) if len(row.runs) == 1 else over(never_chosen_count, ",.1f"),
            ]
        )
    return found


def never_chosen_count(run: Run) -> float | None:
    return float(len(never_chosen(run))) if run.selections and run.selections.times_drawn else None


def final_score(run: Run, names: Sequence[str]) -> float | None:
    entry = gain(run, names, "")
    return entry.last if entry else None


def gained(run: Run, names: Sequence[str]) -> float | None:
    entry = gain(run, names, "")
    return entry.last - entry.first if entry else None


def spread_text(values: Sequence[float | None], form: str) -> str:
    """The mean, with the lowest and the highest of several unlike ones in brackets; unknown ones are left out.

    >>> spread_text([0.25, 0.25], ".2f"), spread_text([1.0, 2.0, None], ".1f")
    ('0.25', '1.5 [1.0, 2.0]')
    """
    known = [value for value in values if value is not None]
    if not known:
        return MISSING
    text = format(sum(known) / len(known), form)
    return text if min(known) == max(known) else f"{text} [{min(known):{form}}, {max(known):{form}}]"


def _same(texts: Sequence[str]) -> str:
    return texts[0] if len(set(texts)) == 1 else "; ".join(texts)


def seed_rows(rows: Sequence[Row], names: Sequence[str]) -> tuple[tuple[str, ...], list[list[str]]]:
    """(head, lines): one line a run."""
    head = ("run", "seed", "steps", "final held-out score", "gain", "rollouts", "response tokens",
            "seconds in steps", "prompts never chosen")  # fmt: skip
    lines = []
    for row in rows:
        for run, seed in zip(row.runs, row.seeds, strict=True):
            score, more = final_score(run, names), gained(run, names)
            lines.append(
                [
                    run.name,
                    setting_text(seed),
                    steps_text(run),
                    number(score, 4),
                    MISSING if more is None else f"{more:+.4f}",
                    number(last(run, ROLLOUTS)),
                    number(last(run, TOKENS)),
                    number(total(run, STEP_SECONDS), 1),
                    never_chosen_text(run),
                ]
            )
    return head, lines
