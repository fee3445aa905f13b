"""Draw the report of one run, or compare several; runs that differ only in their seed are one method."""

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
        raise argparse.ArgumentTypeError(f"{text} is not a finite number: pass a held-out score, such as 0.5")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 after one message on standard error."""
    parser = argparse.ArgumentParser(prog="python -m recipe.prepo.report", description=__doc__)
    parser.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", type=Path, help="directory that a training run wrote")
    for name, metavar, kind, text in (
        ("target", "SCORE", finite_number, "report the cost to reach this held-out score (default: the baseline's)"),
        ("baseline", "METHOD", str, "method to compare with: its name, one of its runs, or a run directory "
                                    "(default: the method with the fewest rules switched on)"),
        ("out", "DIR", Path, f"where the page goes (default: RUN_DIR/report; {COMPARISON_DIR} for several runs)"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", metavar=metavar, type=kind, help=text)
    live = (
        f"while a run is unfinished, let the browser reload the page every {REFRESH_S} s; draw at the lowest priority"
    )
    parser.add_argument("--live", action="store_true", help=live)
    options = parser.parse_args(arguments)
    if options.live:
        os.nice(19)
    refresh_s = REFRESH_S if options.live else None
    try:
        page = write_report(
            options.run_dirs, options.out, target=options.target, baseline=options.baseline, refresh_s=refresh_s
        )
    except PrepoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
