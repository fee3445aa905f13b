"""Compare methods on the tiny model: ``python -m benchmarks.mini_math --methods random,prepo --seeds 0,1 --out DIR``.

Writes DIR/results.json, DIR/table.md and DIR/*.png. Finished runs are kept: the same command continues a comparison,
and more methods or seeds can be added later. Exit status 2 for bad input, 1 when a run failed.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.mini_math.methods import METHODS, check_names, current_name
from benchmarks.mini_math.options import MODELS, SETTINGS, Options, flag
from benchmarks.mini_math.runs import claim_directory, gather, is_finished, make_task, options_of, read_options, run_all
from data_prep.mini_math.task import TASKS
from recipe.prepo.errors import EXIT_BAD_INPUT, ConfigError, PrepoError
from recipe.prepo.tools.stats import spearman


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mini_math",
        description=__doc__,
        epilog=f"methods: {', '.join(METHODS)}; tasks: {', '.join(TASKS)}; models: {', '.join(MODELS)}; settings: "
        f"{', '.join(SETTINGS)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--methods", "--rows", default="random,prepo", help="names, separated by commas")
    parser.add_argument("--seeds", default="0", help="whole numbers, separated by commas")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument(
        "--cache", type=Path, default=Path("outputs/bench/cache"), help="models and pools that were made"
    )
    parser.add_argument("--audit", action="store_true", help="write DIR/audit/<method>-<seed>/audit/*.jsonl")
    parser.add_argument("--report-only", action="store_true", help="draw table and figures of DIR again")
    kinds: dict[str, Any] = {"int": int, "float": float, "str": str}
    for field in dataclasses.fields(Options):
        parser.add_argument(flag(field.name), type=kinds[str(field.type)], default=field.default)
    return parser.parse_args(argv)


def read_names(text: str) -> list[str]:
    """Distinct names from "a, b,c", in their order.

    >>> read_names("prepo, uniform,prepo,")
    ['prepo', 'uniform']
    """
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def read_seeds(text: str) -> list[int]:
    """Seeds from "0,1,2".

    Raises:
        ConfigError: none, or not whole numbers from 0.

    >>> read_seeds("0,2")
    [0, 2]
    """
    parts = read_names(text)
    if not parts or not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--seeds {text!r}: give whole numbers from 0 separated by commas, for example --seeds 0,1,2")
    return list(dict.fromkeys(map(int, parts)))


def run(arguments: argparse.Namespace) -> int:
    """Make the missing runs, and the report.

    Raises:
        PrepoError: the arguments cannot work.
    """
    out: Path = arguments.out
    errors: list[str] = []
    names: dict[str, str] = {}
    if arguments.report_only:
        saved = read_options(out)
        if saved is None:
            raise ConfigError(f"--report-only: {out} holds no results (no config.json). Run without it first")
        options = options_of(saved, out)
    else:
        options = Options(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Options)})
        asked = read_names(arguments.methods)
        seeds = read_seeds(arguments.seeds)
        if arguments.jobs < 1:
            raise ConfigError(f"--jobs {arguments.jobs}: give at least 1")
        check_names(asked)
        names = {current_name(name): name for name in asked}
        tasks = [
            make_task(name, seed, options, cache=arguments.cache, out=out, audit=arguments.audit)
            for seed in seeds
            for name in names
        ]
        claim_directory(out, options)
        missing = [task for task in tasks if not is_finished(task)]
        print(f"{len(tasks)} runs, {len(tasks) - len(missing)} of them finished already", flush=True)
        if missing:
            describe_pool(options, arguments.cache)
            errors = run_all(missing, jobs=arguments.jobs)
    results = gather(out, options, cache=arguments.cache, names=names)
    if not results:
        raise ConfigError(f"{out} holds no finished run of this configuration. Give --methods and --seeds to make some")
    from benchmarks.mini_math.report import write_report

    print(write_report(results, options, out))
    print("\n".join(errors), file=sys.stderr, end="\n" if errors else "")
    return 1 if errors else 0


def describe_pool(options: Options, cache: Path) -> None:
    """Make base model and pool before the runs, and print what the pool is like."""
    import torch

    from benchmarks.mini_math.settings import perplexities, prepare_base, prepare_pool

    torch.set_num_threads(1)
    base = prepare_base(options, cache)
    pool = prepare_pool(options, base, cache)
    print(
        f"pool of {len(pool.prompts)} {options.task} problems, setting {options.setting}, base {base.name}: measured "
        f"by {pool.num_samples} samples each, {pool.live_frac:.3f} of the groups of {options.rollouts_per_prompt} are "
        f"live, {pool.all_correct_frac:.3f} all correct, {pool.all_wrong_frac:.3f} all incorrect",
        flush=True,
    )
    ppl_N, rate_N = perplexities(pool, base), pool.correct_N / pool.num_samples
    kinds = {"always": rate_N == 1.0, "sometimes": (rate_N > 0.0) & (rate_N < 1.0), "never": rate_N == 0.0}
    means = ", ".join(
        f"{kind} {ppl_N[is_kind].mean():.2f} ({is_kind.sum()})" for kind, is_kind in kinds.items() if is_kind.any()
    )
    print(
        f"mean perplexity (number) of prompts solved {means}; Spearman's rho of perplexity and pass rate "
        f"{spearman(ppl_N, rate_N):.2f}",
        flush=True,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's text for the exit status."""
    arguments = parse(argv)
    try:
        return run(arguments)
    except PrepoError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
