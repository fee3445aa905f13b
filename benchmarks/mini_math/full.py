"""Rows and seeds in every setting, with one summary: ``python -m benchmarks.mini_math.full [--out DIR]``.

Writes DIR/<setting>/ as ``python -m benchmarks.mini_math`` does, and DIR/{README.md, accuracy.png, differences.png,
runs.jsonl}.
What is done stays done: the same command goes on where it was, and more rows or seeds add to it. A setting is one of
those of the benchmark, with another model or task behind it after a hyphen: early-llama, fresh-expressions.

``--from FILE`` makes the summary of a runs.jsonl again, in seconds and without training; ``--with FILE`` adds the runs
of one to those that are there, so that a row can be added to a published comparison without making the others again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.mini_math.__main__ import main as compare
from benchmarks.mini_math.__main__ import read_names
from benchmarks.mini_math.archive import merged, read_archive, write_archive
from benchmarks.mini_math.options import MODELS, SETTINGS
from benchmarks.mini_math.runs import gather, options_of, read_options
from benchmarks.mini_math.summary import Comparison, draw, draw_differences, render
from data_prep.mini_math.task import TASKS
from recipe.prepo.errors import EXIT_BAD_INPUT, ConfigError

MAIN_ROWS = ("uniform", "prepo", "schedule", "weights", "low", "greso", "dapo", "e3")
MAIN_SETTINGS = "early,mid,late"
OUT, OUT_OF_ARCHIVE = Path("outputs/bench/mini_math"), Path("outputs/bench/mini_math_again")


def flags_of(name: str) -> list[str]:
    """The flags of ``benchmarks.mini_math`` for a setting's name.

    Raises:
        ConfigError: a part of the name is not known.

    >>> flags_of("early-llama")
    ['--setting', 'early', '--model', 'llama']
    """
    setting, *others = name.split("-")
    flags = ["--setting", setting]
    for other in others:
        if other not in (*MODELS, *TASKS):
            raise ConfigError(
                f"--settings {name}: {other!r} is no model ({', '.join(MODELS)}) or task ({', '.join(TASKS)})"
            )
        flags += ["--model" if other in MODELS else "--task", other]
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status as of ``benchmarks.mini_math``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--settings", help=f"of {', '.join(SETTINGS)}, with commas between (default {MAIN_SETTINGS})")
    parser.add_argument("--rows", default=",".join(MAIN_ROWS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--jobs", default="2", help="processes of one thread each")
    parser.add_argument("--out", type=Path, help=f"default {OUT}, with --from {OUT_OF_ARCHIVE}")
    parser.add_argument("--cache", type=Path, default=Path("outputs/bench/cache"))
    parser.add_argument("--report-only", action="store_true", help="write the summary of what is there")
    parser.add_argument("--with", dest="kept", type=Path, help="a runs.jsonl whose runs join those that are there")
    parser.add_argument("--from", dest="archive", type=Path, help="write the summary of this file's runs")
    arguments, further = parser.parse_known_args(argv)
    if further and (arguments.report_only or arguments.archive):
        parser.error(f"without training there is no use for {' '.join(further)}")
    out: Path = arguments.out or (OUT_OF_ARCHIVE if arguments.archive else OUT)
    status = 0
    common = ["--rows", arguments.rows, "--seeds", arguments.seeds, "--jobs", arguments.jobs]
    try:
        settings = {name: flags_of(name) for name in read_names(arguments.settings or MAIN_SETTINGS)}
        if arguments.archive is not None:
            comparisons = read_archive(arguments.archive)
            if arguments.settings:
                comparisons = [comparison for comparison in comparisons if comparison.name in settings]
        else:
            for name, flags in settings.items() if not arguments.report_only else ():
                places = ["--out", str(out / name), "--cache", str(arguments.cache)]
                status = max(status, compare([*flags, *common, *places, *further]))
            comparisons = gather_settings(list(settings), out, arguments.cache)
            if arguments.kept is not None:
                comparisons = merged(read_archive(arguments.kept), comparisons)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    if comparisons:
        out.mkdir(parents=True, exist_ok=True)
        text = render(comparisons)
        (out / "README.md").write_text(text, encoding="utf-8")
        (out / "accuracy.png").write_bytes(draw(comparisons))
        (out / "differences.png").write_bytes(draw_differences(comparisons))
        if arguments.archive is None:
            write_archive(comparisons, out / "runs.jsonl")
        print(text)
    return status


def gather_settings(names: Sequence[str], out: Path, cache: Path) -> list[Comparison]:
    """The finished runs of each setting's folder; settings without any are left out."""
    comparisons = []
    for name in names:
        saved = read_options(out / name)
        if saved is not None:
            options = options_of(saved, out / name)
            results = gather(out / name, options, cache=cache)
            comparisons += [Comparison(name, options, results)] if results else []
    return comparisons


if __name__ == "__main__":
    sys.exit(main())
