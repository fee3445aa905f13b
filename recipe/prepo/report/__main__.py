"""`python -m recipe.prepo.report RUN_DIR [RUN_DIR …] [--out DIR]`: draws one run, or compares several."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from recipe.prepo.errors import PrepoError
from recipe.prepo.report import COMPARISON_DIR, write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 after one message on standard error."""
    parser = argparse.ArgumentParser(prog="python -m recipe.prepo.report", description=__doc__)
    parser.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", type=Path, help="folder that a training run wrote")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help=f"where the page goes (default: RUN_DIR/report; {COMPARISON_DIR} for several runs)",
    )
    options = parser.parse_args(arguments)
    try:
        print(write_report(options.run_dirs, options.out))
    except PrepoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
