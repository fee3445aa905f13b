"""Draws the report of one run, or compares several; runs that differ in their seed only are one row."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from recipe.prepo.errors import PrepoError
from recipe.prepo.tools.report import COMPARISON_DIR, write_report

REFRESH_S = 20


def finite_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is no finite number: give a held-out score, such as 0.5")
    return value


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipe.prepo.report", description=__doc__)
    parser.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", type=Path, help="folder that a training run wrote")
    parser.add_argument(
        "--target",
        metavar="SCORE",
        type=finite_number,
        help="say what it took to reach this held-out score (default: the baseline's final one)",
    )
    parser.add_argument(
        "--baseline",
        metavar="ROW",
        help="row to compare with: its name, the name of one of its runs, or a run directory "
        "(default: the row with uniform selection)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help=f"where the page goes (default: RUN_DIR/report; {COMPARISON_DIR} for several runs)",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help=f"while a run is unfinished, let the browser load the page again every {REFRESH_S} s; "
        "draw at the lowest priority",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 after one message on standard error."""
    options = make_parser().parse_args(arguments)
    if options.live:
        os.nice(19)
    try:
        index = write_report(
            options.run_dirs,
            options.out,
            target=options.target,
            baseline=options.baseline,
            refresh_s=REFRESH_S if options.live else None,
        )
    except PrepoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(index)
    return 0
