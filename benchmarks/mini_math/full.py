"""The main rows in every setting, with one summary: ``python -m benchmarks.mini_math.full [--out DIR]``.

Writes DIR/<setting>/ as ``python -m benchmarks.mini_math`` does, DIR/README.md and DIR/accuracy.png. What is done stays
done: the same command goes on where it was, and more rows or seeds add to it. About an hour on two cores. A run of the
row oracle takes five minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.mini_math.__main__ import main as compare
from benchmarks.mini_math.__main__ import read_names
from benchmarks.mini_math.options import SETTINGS
from benchmarks.mini_math.runs import gather, options_of, read_options
from benchmarks.mini_math.summary import Comparison, draw, render

MAIN_ROWS = ("uniform", "prepo", "low", "greso")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status as of ``benchmarks.mini_math``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", default="early,mid,late", help=f"of {', '.join(SETTINGS)}, with commas between")
    parser.add_argument("--rows", default=",".join(MAIN_ROWS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--jobs", default="2", help="processes of one thread each")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/mini_math"))
    parser.add_argument("--cache", type=Path, default=Path("outputs/bench/cache"))
    parser.add_argument("--report-only", action="store_true", help="write the summary of what is there")
    arguments, further = parser.parse_known_args(argv)
    status = 0
    settings = read_names(arguments.settings)
    common = ["--rows", arguments.rows, "--seeds", arguments.seeds, "--jobs", arguments.jobs]
    for setting in settings if not arguments.report_only else []:
        places = ["--out", str(arguments.out / setting), "--cache", str(arguments.cache)]
        status = max(status, compare(["--setting", setting, *common, *places, *further]))
    comparisons = []
    for setting in settings:
        saved = read_options(arguments.out / setting)
        if saved is not None:
            options = options_of(saved, arguments.out / setting)
            results = gather(arguments.out / setting, options, cache=arguments.cache)
            comparisons += [Comparison(options, results)] if results else []
    if comparisons:
        text = render(comparisons)
        (arguments.out / "README.md").write_text(text, encoding="utf-8")
        (arguments.out / "accuracy.png").write_bytes(draw(comparisons))
        print(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
