"""Command line: ``python -m data_prep <dataset or own> --source <hub id or local path> --out DIR``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.common import DEFAULT_INSTRUCTION, Summary
from data_prep.own import OwnOptions, prepare_own, show_first_rows
from data_prep.prepare import PromptStyle, prepare
from data_prep.registry import DATASETS
from recipe.prepo.errors import PrepoError


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare one data set and print a summary of each file. Returns 2 for errors that the user can fix."""
    arguments = _parser().parse_args(argv)
    try:
        summaries = _run(arguments)
    except PrepoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for summary in summaries:
        print(summary)
    return 0


def _run(arguments: argparse.Namespace) -> list[Summary]:
    if arguments.dataset == "mini_math":
        from data_prep.mini_math import prepare as prepare_mini_math  # other sets do not need its generator

        sizes = {"num_train": arguments.num_train, "num_test": arguments.num_test}
        return prepare_mini_math(arguments.out, **sizes, seed=arguments.seed)
    if arguments.dataset == "own":
        names = ("question", "answer", "id", "keep", "name", "config", "hold_out")
        summaries = prepare_own(
            arguments.source,
            OwnOptions(**{name: getattr(arguments, name) for name in names}),
            splits=arguments.split,
            out_dir=arguments.out,
            style=PromptStyle(arguments.instruction, arguments.system),
        )
        print(show_first_rows(summaries[0].path, arguments.model))
        return summaries
    return prepare(
        DATASETS[arguments.dataset],
        source=arguments.source,
        splits=arguments.split,
        out_dir=arguments.out,
        style=PromptStyle(arguments.instruction, arguments.system),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep",
        description="Make parquet files for verl from a public data set, or from your own rows.",
    )
    datasets = parser.add_subparsers(dest="dataset", required=True, metavar="dataset")
    for spec in DATASETS.values():
        one = datasets.add_parser(spec.name, help=f"default source: {spec.hub_id} (Hugging Face hub)")
        one.add_argument("--source", help=f"hub id, or local file or folder (default: {spec.hub_id})")
        one.add_argument("--out", type=Path, required=True, help="folder for the parquet and summary files")
        one.add_argument("--split", nargs="+", choices=list(spec.splits), help="default: all in the source")
        one.add_argument("--instruction", default=DEFAULT_INSTRUCTION, help='text after the question; "" for none')
        one.add_argument("--system", help="system message (default: none)")
    own = datasets.add_parser("own", help="your own rows: JSON lines, JSON, CSV, parquet, or a hub id")
    own.add_argument("--source", required=True, help="file, folder with files of each split, or hub id")
    own.add_argument("--out", type=Path, required=True, help="folder for the parquet and summary files")
    for key in ("question", "answer"):
        own.add_argument(f"--{key}", metavar="KEY", help=f"column of the {key}; a.b for nested ones (default: by name)")
    own.add_argument("--id", metavar="KEY", help="column of unique ids (default: by name, else from the question)")
    own.add_argument("--keep", nargs="+", default=[], metavar="KEY", help="columns for your reward, into extra_info")
    own.add_argument("--name", help="name of the files, and data_source of rows without one (default: the source's)")
    own.add_argument("--split", nargs="+", help="default: all in the source; for one file, its name's, else train")
    own.add_argument("--hold-out", type=int, default=0, metavar="ROWS", help="put so many rows into a test file")
    own.add_argument("--config", help="configuration of a data set on the hub")
    own.add_argument("--instruction", help='text after the question; "" for none (default: \\boxed{} for plain text)')
    own.add_argument("--system", help="system message (default: none, or the source's)")
    own.add_argument("--model", help="model whose chat template shows the first rows")
    mini_math = datasets.add_parser("mini_math", help="generated word problems; needs no source")
    mini_math.add_argument("--out", type=Path, required=True, help="folder for the parquet and summary files")
    mini_math.add_argument("--seed", type=int, default=0)
    mini_math.add_argument("--num-train", type=int, default=3000)
    mini_math.add_argument("--num-test", type=int, default=300)
    return parser


if __name__ == "__main__":
    sys.exit(main())
