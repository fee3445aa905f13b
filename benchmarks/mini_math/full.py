"""Methods and seeds in every setting, with one summary: ``python -m benchmarks.mini_math.full [--out DIR]``.

Writes DIR/<setting>/ as ``python -m benchmarks.mini_math`` does, and DIR/{README.md, overview.md, accuracy.png,
savings.png, runs.jsonl}. Finished runs are kept: the same command continues, and more methods or seeds can be added.
A setting may name another model or task after a hyphen: early-llama, fresh-expressions.

``--from FILE`` makes the summary of a runs.jsonl again, in seconds and without training. ``--with FILE`` adds the runs
of such a file, so that a method can join a published comparison without repeating the others.
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
from benchmarks.mini_math.overview import draw_curves, draw_savings, overview
from benchmarks.mini_math.runs import gather, options_of, read_options
from benchmarks.mini_math.summary import Comparison, render
from data_prep.mini_math.task import TASKS
from recipe.prepo.errors import EXIT_BAD_INPUT, ConfigError

MAIN_METHODS = ("random", "prepo", "schedule_only", "weights_only", "low_only", "greso", "dapo", "e3")
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
                f"--settings {name}: {other!r} is neither a model ({', '.join(MODELS)}) nor a task ({', '.join(TASKS)})"
            )
        flags += ["--model" if other in MODELS else "--task", other]
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status as of ``benchmarks.mini_math``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--settings", help=f"of {', '.join(SETTINGS)}, separated by commas (default {MAIN_SETTINGS})")
    parser.add_argument("--methods", "--rows", default=",".join(MAIN_METHODS))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--jobs", default="2", help="processes of one thread each")
    parser.add_argument("--out", type=Path, help=f"default {OUT}, with --from {OUT_OF_ARCHIVE}")
    parser.add_argument("--cache", type=Path, default=Path("outputs/bench/cache"))
    parser.add_argument("--report-only", action="store_true", help="write the summary of finished runs")
    parser.add_argument("--with", dest="kept", type=Path, help="add the runs of this runs.jsonl")
    parser.add_argument("--from", dest="archive", type=Path, help="write the summary of this runs.jsonl")
    arguments, further = parser.parse_known_args(argv)
    if further and (arguments.report_only or arguments.archive):
        parser.error(f"unknown, or of use only for training: {' '.join(further)}")
    out: Path = arguments.out or (OUT_OF_ARCHIVE if arguments.archive else OUT)
    status = 0
    common = ["--methods", arguments.methods, "--seeds", arguments.seeds, "--jobs", arguments.jobs]
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
        (out / "overview.md").write_text(overview(comparisons), encoding="utf-8")
        (out / "accuracy.png").write_bytes(draw_curves(comparisons))
        (out / "savings.png").write_bytes(draw_savings(comparisons))
        if arguments.archive is None:
            write_archive(comparisons, out / "runs.jsonl")
        print(text)
    return status


def gather_settings(names: Sequence[str], out: Path, cache: Path) -> list[Comparison]:
    """The finished runs of each setting's folder; settings without one are left out."""
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
