"""Recompute the choices and weights of a run from its audit lines alone: ``check_audit.py RUN_DIR``.

Checks here what holds for every rule, and calls the checks that the run's rules bring: these are plain Python and share
no code with what chooses and weighs. Prints one line; exits 1 with the first difference.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from recipe.prepo.rules.base import SelectionRule, WeightingRule
from recipe.prepo.rules.registry import SELECTION, WEIGHTING

TOLERANCE = 1e-6


class Difference(Exception):
    """An audit line disagrees with what the run's rules do."""


def read_lines(path: Path) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def check_choice(line: Mapping[str, Any], options: Mapping[str, Any], chosen_before: set[str]) -> str:
    """Difference of one choice from what holds for every rule, then from its rule; "" for none."""
    ids = [candidate["prompt_id"] for candidate in line["candidates"]]
    if line["rule"] != options["name"]:
        return f"rule {line['rule']}, but config.yaml has {options['name']}"
    if len(line["selected"]) != line["num_selected"] or Counter(line["selected"]) - Counter(ids):
        return f"{len(line['selected'])} prompts chosen, {line['num_selected']} expected, all of them candidates"
    if Counter(skip["prompt_id"] for skip in line["skipped"]) != Counter(ids) - Counter(line["selected"]):
        return "the skipped prompts are not the rest"
    if set(line["rollout_n"]) != set(line["selected"]):
        return "rollout_n does not name the chosen prompts"
    for candidate in line["candidates"]:
        nll, ppl = candidate["nll_nats"], candidate["ppl"]
        if nll is not None and not math.isclose(ppl, math.exp(nll), rel_tol=TOLERANCE):
            return f"ppl of {candidate['prompt_id']} is not exp(nll_nats)"
    for skip in line["skipped"]:
        if skip["reason"].endswith("_before") and skip["prompt_id"] not in chosen_before:
            return f"{skip['prompt_id']} was skipped for its earlier rollouts, but had none before"
    return SELECTION.get(options["name"], SelectionRule).check_choice(line, options)  # the base for unregistered rules


def check_selection(path: Path, options: Mapping[str, Any]) -> int:
    """Check every choice of the run; returns their number."""
    choices = read_lines(path)
    chosen_before: set[str] = set()
    for step, calls in itertools.groupby(choices, key=lambda line: line["step"]):
        chosen_now: set[str] = set()
        for line in calls:
            if difference := check_choice(line, options, chosen_before):
                raise Difference(f"{path.name}, step {step}, call {line['call']}: {difference}")
            chosen_now.update(line["selected"])
        chosen_before |= chosen_now
    return len(choices)


def check_rollouts(path: Path, options: Mapping[str, Any]) -> int:
    """Check the weights of every step (of every update, if a step has several); returns the number of rollouts."""
    batches = defaultdict(list)
    for line in read_lines(path):
        batches[line["step"], line.get("update", 0)].append(line)
    for (step, _), rollouts in batches.items():
        where = f"{path.name}, step {step}"
        if difference := WEIGHTING.get(options["name"], WeightingRule).check_weights(rollouts, options):
            raise Difference(f"{where}: {difference}")
        mean_weight = sum(line["weight"] for line in rollouts) / len(rollouts)
        if abs(mean_weight - 1.0) > TOLERANCE:
            raise Difference(f"{where}: mean weight {mean_weight}")
        for line in rollouts:
            product = line["weight"] * line["advantage"]
            if abs(line["advantage_weighted"] - product) > TOLERANCE * max(1.0, abs(product)):
                which = f"prompt {line['prompt_id']}, rollout {line['rollout']}"
                found = line["advantage_weighted"]
                raise Difference(f"{where}, {which}: advantage_weighted {found}, recomputed {product}")
    return sum(map(len, batches.values()))


def check_run(run_dir: Path) -> str:
    """Check a run directory; returns the line to print. Raises the first ``Difference``."""
    rules = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))["prepo"]
    num_choices = check_selection(run_dir / "audit" / "selection.jsonl", rules["selection"])
    num_rollouts = check_rollouts(run_dir / "audit" / "rollouts.jsonl", rules["weighting"])
    return f"ok: {num_choices} choices and {num_rollouts} rollouts agree within {TOLERANCE}"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: check_audit.py RUN_DIR")
    try:
        print(check_run(Path(sys.argv[1])))
    except Difference as difference:
        print(f"difference: {difference}")
        sys.exit(1)
