"""Finished runs in one small file, one JSON object a line: enough to make the summary again without training."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.mini_math.methods import METHODS, base_of, current_name, in_order
from benchmarks.mini_math.numbers import GROUP_SHARES
from benchmarks.mini_math.runs import differing_options, options_of
from benchmarks.mini_math.summary import Comparison
from recipe.prepo.errors import ConfigError
from recipe.prepo.run.files import write_atomically

TRAIN_KEYS = ("rollouts", "groups", *GROUP_SHARES, "train_entropy_nats", "temperature")
"""What the summary needs of each step."""
CURVE_KEYS = ("step", "rollouts", "tokens", "accuracy", "entropy_nats", *GROUP_SHARES)
RUN_KEYS = ("row", "seed", "seconds", "seconds_with_evaluation", "made_by")


def write_archive(comparisons: Sequence[Comparison], path: Path) -> None:
    """Write the runs of these comparisons, floats with six significant digits.

    A line with "name" and "options" begins a comparison. Its runs follow: curves and steps as one list for each key.
    """
    lines = []
    for comparison in comparisons:
        lines.append({"name": comparison.name, "options": dataclasses.asdict(comparison.options)})
        for run in comparison.results:
            curve = {key: [point[key] for point in run["curve"]] for key in run["curve"][0]}
            train = {key: run["train"][key] for key in TRAIN_KEYS}
            scoring = {"scoring": run["scoring"]} if "scoring" in run else {}
            lines.append({**{key: run[key] for key in RUN_KEYS}, **scoring, "curve": curve, "train": train})
    write_atomically(path, "".join(json.dumps(_rounded(line), separators=(",", ":")) + "\n" for line in lines))


def read_archive(path: Path) -> list[Comparison]:
    """Read a file of :func:`write_archive`.

    Raises:
        ConfigError: no such file, or not of this kind or version.
    """
    comparisons: list[Comparison] = []
    try:
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            if "options" in line:
                comparisons.append(Comparison(line["name"], options_of(line["options"], path), []))
                continue
            curve = line["curve"]
            points = [dict(zip(curve, values, strict=True)) for values in zip(*curve.values(), strict=True)]
            parts = ((RUN_KEYS, line), (CURVE_KEYS, curve), (TRAIN_KEYS, line["train"]))
            lacking = {key for keys, part in parts for key in keys if key not in part}
            name = current_name(line.get("row"))
            if lacking or base_of(name) not in METHODS:
                raise ValueError(f"a run of {name!r} lacks {', '.join(sorted(lacking)) or 'a known method'}")
            of = comparisons[-1].options
            run = {**line, "row": name, "curve": points, "task": of.task, "model": of.model, "setting": of.setting}
            comparisons[-1] = dataclasses.replace(comparisons[-1], results=[*comparisons[-1].results, run])
        if not comparisons or not all(comparison.results for comparison in comparisons):
            raise ValueError("no runs")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} holds no runs of this version of the benchmark: {error}") from error
    return comparisons


def merged(kept: Sequence[Comparison], found: Sequence[Comparison]) -> list[Comparison]:
    """Add runs to the comparisons of a file; ``found`` wins where both have a run.

    Raises:
        ConfigError: two comparisons of one name have different options.
    """
    by_name = {comparison.name: comparison for comparison in kept}
    for comparison in found:
        before = by_name.get(comparison.name, dataclasses.replace(comparison, results=[]))
        if before.options != comparison.options:
            mine, theirs = (dataclasses.asdict(each.options) for each in (comparison, before))
            differing = differing_options(theirs, mine)
            raise ConfigError(f"--with: its runs of {comparison.name} have other options: {differing}. Give the same")
        again = {(run["row"], run["seed"]) for run in comparison.results}
        runs = [run for run in before.results if (run["row"], run["seed"]) not in again] + list(comparison.results)
        runs.sort(key=lambda run: (in_order(run["row"]), run["seed"]))
        by_name[comparison.name] = dataclasses.replace(comparison, results=runs)
    return list(by_name.values())


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        short = float(f"{value:.6g}")
        return int(short) if short.is_integer() else short
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
