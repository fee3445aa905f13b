"""Choose the learning rate for ``random``: ``python -m benchmarks.mini_math.rates``.

Trains at several rates in each setting, with seeds of its own, and evaluates on the dev split, so that the comparison's
held-out problems have no part in the choice. Writes DIR/README.md; finished runs are kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.mini_math import provenance
from benchmarks.mini_math.__main__ import main as compare
from benchmarks.mini_math.__main__ import read_names, read_seeds
from benchmarks.mini_math.numbers import REFERENCE, Budget, Curves, final_of, paired_difference, read_curves
from benchmarks.mini_math.options import SETTINGS
from benchmarks.mini_math.report import estimate_text, spread_text
from benchmarks.mini_math.runs import gather, options_of, read_options
from recipe.prepo.errors import EXIT_BAD_INPUT, ConfigError
from recipe.prepo.run.files import write_atomically


def table(setting: str, by_rate: Mapping[float, Curves]) -> list[str]:
    """Lines of one setting; differences are to the rate that the comparison uses there."""
    own = by_rate.get(SETTINGS[setting].learning_rate)
    lines = []
    for rate, curves in by_rate.items():
        places = range(len(curves.seeds))
        area = Budget.of(own or curves).area
        cells = [f"`{setting}`", f"{rate:g}"]
        for statistic in (final_of, area):
            cells.append(spread_text([statistic(place, curves) for place in places]))
            is_other = own is not None and curves is not own
            cells.append(estimate_text(paired_difference(curves, own, statistic), "+.3f") if is_other else "")  # type: ignore[arg-type]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status as of ``benchmarks.mini_math``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--settings", default="early,mid,late", help=f"of {', '.join(SETTINGS)}, separated by commas")
    parser.add_argument("--rates", default="5e-5,1e-4,2e-4")
    parser.add_argument("--seeds", default="1000,1001,1002")
    parser.add_argument("--jobs", default="2", help="processes of one thread each")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/rates"))
    parser.add_argument("--cache", type=Path, default=Path("outputs/bench/cache"))
    arguments, further = parser.parse_known_args(argv)
    try:
        settings, rates = read_names(arguments.settings), read_rates(arguments.rates)
        if unknown := [name for name in settings if name not in SETTINGS]:
            raise ConfigError(f"--settings: {', '.join(unknown)} not known; known: {', '.join(SETTINGS)}")
        read_seeds(arguments.seeds)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    status, lines, runs = 0, [], []
    for setting in settings:
        by_rate: dict[float, Curves] = {}
        for rate in rates:
            out = arguments.out / f"{setting}-{rate:g}"
            flags = [*further, "--setting", setting, "--split", "dev", "--learning-rate", str(rate)]
            flags += ["--methods", REFERENCE, "--seeds", arguments.seeds, "--jobs", arguments.jobs]
            of_rate = compare([*flags, "--cache", str(arguments.cache), "--out", str(out)])
            status = max(status, of_rate)
            saved = read_options(out) if of_rate != EXIT_BAD_INPUT else None
            found = gather(out, options_of(saved, out), cache=arguments.cache) if saved else []
            runs += found
            curves = read_curves(found)
            if REFERENCE in curves:
                by_rate[rate] = curves[REFERENCE]
        lines += table(setting, by_rate)
    if lines:
        command = f"python -m benchmarks.mini_math.rates {' '.join(sys.argv[1:] if argv is None else argv)}".strip()
        head = ["# Learning rates", "", f"`{command}`; {provenance.text(runs)}.", ""]
        head += [
            f"`{REFERENCE}` on problems of the dev split, which no comparison uses. Final accuracy is the mean of the "
            "last two evaluations. Differences are to the rate that the comparison uses in that setting, over the "
            "same seeds, with Student's 95% intervals.",
            "",
            "| setting | rate | final accuracy | difference | area | difference |",
            "|---|---|---|---|---|---|",
        ]
        text = "\n".join([*head, *lines]) + "\n"
        write_atomically(arguments.out / "README.md", text)
        print(text)
    return status


def read_rates(text: str) -> list[float]:
    """Learning rates from "5e-5,1e-4".

    Raises:
        ConfigError: none, or not numbers above 0.

    >>> read_rates("5e-5, 1e-4")
    [5e-05, 0.0001]
    """
    try:
        rates = [float(part) for part in read_names(text)]
    except ValueError:
        rates = []
    if not rates or not all(0.0 < rate < float("inf") for rate in rates):
        raise ConfigError(f"--rates {text!r}: give numbers above 0 separated by commas, for example --rates 5e-5,1e-4")
    return rates


if __name__ == "__main__":
    sys.exit(main())
