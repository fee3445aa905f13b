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


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 after one message on standard error."""
    parser = argparse.ArgumentParser(prog="prepo report", description=__doc__)
    parser.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", type=Path, help="directory that a training run wrote")
    parser.add_argument("--target", metavar="SCORE", type=float, help="held-out score to reach (default: baseline's)")
    baseline_help = "method, run or run directory to compare with (default: the method with the fewest rules)"
    parser.add_argument("--baseline", metavar="METHOD", help=baseline_help)
    out_help = f"where the page goes (default: RUN_DIR/report; {COMPARISON_DIR} for several runs)"
    parser.add_argument("--out", metavar="DIR", type=Path, help=out_help)
    live_help = f"draw at lowest priority; while a run is unfinished, the page reloads every {REFRESH_S} s"
    parser.add_argument("--live", action="store_true", help=live_help)
    options = parser.parse_args(arguments)
    if options.target is not None and not math.isfinite(options.target):
        parser.error(f"--target {options.target} is not a finite number: pass a held-out score, such as 0.5")
    if options.live:
        os.nice(19)
    try:
        page = write_report(
            options.run_dirs,
            options.out,
            target=options.target,
            baseline=options.baseline,
            refresh_s=REFRESH_S if options.live else None,
        )
    except PrepoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
