"""Recompute every window and every weight of a run from its audit lines alone: ``check_audit.py RUN_DIR``.

Standard library only, and nothing of this project: an independent check of what the rules did. Prints one line for
each file and exits 1 with the first difference.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path

TOLERANCE = 1e-6
RATE_RULES = ("mopps", "mopps_ppl")
CHOSEN, TOO_HARD, TOO_EASY = "", "predicted_too_hard", "predicted_too_easy"
SKIPPED_EARLIER = ("all_right_before", "all_wrong_before")  # before the window was laid


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def fail(message: str) -> None:
    print(f"difference: {message}")
    sys.exit(1)


def without(candidates: list[dict], prompt_ids: list[str]) -> list[dict]:
    """The candidates less one for each of the ids: a prompt may be drawn twice."""
    number, left = Counter(prompt_ids), []
    for candidate in candidates:
        if number[candidate["prompt_id"]] > 0:
            number[candidate["prompt_id"]] -= 1
        else:
            left.append(candidate)
    return left


def check_rates(line: dict, where: str) -> None:
    """The chosen are neighbours in the order of the drawn pass rates, between the others, whatever the target is."""
    reasons = {skip["prompt_id"]: skip["reason"] for skip in line["skipped"]}
    times = Counter(candidate["prompt_id"] for candidate in line["candidates"])
    rates: dict[str, list[float]] = {CHOSEN: [], TOO_HARD: [], TOO_EASY: []}
    for candidate in line["candidates"]:
        if times[candidate["prompt_id"]] == 1:  # of a prompt that was drawn twice it is not told which was chosen
            rates[reasons.get(candidate["prompt_id"], CHOSEN)].append(candidate["drawn_pass_rate"])
    lowest, highest = min(rates[CHOSEN], default=0.5), max(rates[CHOSEN], default=0.5)
    # Rates very near 0 or 1 are equally far from the target, in floats.
    too_hard, too_easy = max(rates[TOO_HARD], default=0.0), min(rates[TOO_EASY], default=1.0)
    if too_hard > lowest + TOLERANCE or too_easy < highest - TOLERANCE:
        fail(f"{where}: a prompt that was passed by has a pass rate between those of the chosen ones")


def check_selection(path: Path, *, window_rules: dict[str, float]) -> int:
    """Recompute the window of every choice; ``window_rules`` maps a rule to its share of the way at rho = 1."""
    choices = lines(path)
    seen: set[str] = set()  # chosen in an earlier step
    chosen_now: set[str] = set()
    step = None
    for line in choices:
        if line["step"] != step:
            seen, chosen_now, step = seen | chosen_now, set(), line["step"]
        where = f"{path.name}, step {line['step']}, call {line['call']}"
        candidates, chosen, num_selected = line["candidates"], line["selected"], line["num_selected"]
        ids = [candidate["prompt_id"] for candidate in candidates]
        if len(chosen) != num_selected or Counter(chosen) - Counter(ids):
            fail(f"{where}: {len(chosen)} prompts chosen, {num_selected} expected, all of them candidates")
        if Counter(skip["prompt_id"] for skip in line["skipped"]) != Counter(ids) - Counter(chosen):
            fail(f"{where}: the skipped prompts are not the rest")
        if set(line["rollout_n"]) != set(chosen):
            fail(f"{where}: rollout_n does not name the chosen prompts")
        for candidate in candidates:
            if candidate["nll_nats"] is not None and not math.isclose(
                candidate["ppl"], math.exp(candidate["nll_nats"]), rel_tol=TOLERANCE
            ):
                fail(f"{where}: ppl of {candidate['prompt_id']} is not exp(nll_nats)")
        left_out = [skip["prompt_id"] for skip in line["skipped"] if skip["reason"] in SKIPPED_EARLIER]
        if unseen := set(left_out) - seen:
            fail(f"{where}: {sorted(unseen)[0]} is left out for its rollouts, but had none before")
        if line["rule"] in RATE_RULES:
            check_rates(line, where)
        chosen_now.update(chosen)
        if line["rule"] not in window_rules:
            if line["window_start"] is not None:
                fail(f"{where}: a window for the rule {line['rule']}")
            continue
        left = without(candidates, left_out if line["rule"].endswith("_skip") else [])
        ranked = sorted(left, key=lambda candidate: (candidate["ppl"], candidate["prompt_id"]))
        start = math.floor(line["progress"] * window_rules[line["rule"]] * (len(left) - num_selected))
        if line["rule"] == "low_ppl":
            start = 0
        elif line["rule"] == "high_ppl":
            start = len(left) - num_selected
        if line["window_start"] != start:
            fail(f"{where}: window_start {line['window_start']}, recomputed {start}")
        if chosen != [candidate["prompt_id"] for candidate in ranked[start : start + num_selected]]:
            fail(f"{where}: the chosen prompts are not the window")
        sides = {"below_window": ranked[:start], "above_window": ranked[start + num_selected :]}
        for reason, beside in sides.items():
            named = Counter(skip["prompt_id"] for skip in line["skipped"] if skip["reason"] == reason)
            if named != Counter(candidate["prompt_id"] for candidate in beside):
                fail(f"{where}: the prompts that are «{reason}» are others")
    return len(choices)


def check_rollouts(path: Path, *, weighted: bool) -> int:
    """Recompute every weight from the entropies of its step (of its update, if it has several) and its advantage."""
    batches = defaultdict(list)
    for line in lines(path):
        batches[line["step"], line.get("update", 0)].append(line)
    for (step, _), rollouts in batches.items():
        mean = sum(line["entropy_nats"] for line in rollouts) / len(rollouts)
        for line in rollouts:
            where = f"{path.name}, step {step}, prompt {line['prompt_id']}, rollout {line['rollout']}"
            weight = line["entropy_nats"] / mean if weighted and mean else 1.0
            if abs(line["weight"] - weight) > TOLERANCE:
                fail(f"{where}: weight {line['weight']}, recomputed {weight}")
            product = line["weight"] * line["advantage"]
            if abs(line["advantage_weighted"] - product) > TOLERANCE * max(1.0, abs(product)):
                fail(f"{where}: advantage_weighted {line['advantage_weighted']}, recomputed {product}")
        mean_weight = sum(line["weight"] for line in rollouts) / len(rollouts)
        if abs(mean_weight - 1.0) > TOLERANCE:
            fail(f"{path.name}, step {step}: mean weight {mean_weight}")
    return sum(len(rollouts) for rollouts in batches.values())


def main() -> None:
    if len(sys.argv) not in (2, 3, 4):
        sys.exit("usage: check_audit.py RUN_DIR [WEIGHTING_RULE [PROGRESS_END]]")
    audit = Path(sys.argv[1]) / "audit"
    weighting = sys.argv[2] if len(sys.argv) > 2 else "relative_entropy"
    progress_end = float(sys.argv[3]) if len(sys.argv) > 3 else 1.0
    window_rules = {"ppl_schedule": progress_end, "ppl_schedule_skip": progress_end, "low_ppl": 1.0, "high_ppl": 1.0}
    num_choices = check_selection(audit / "selection.jsonl", window_rules=window_rules)
    num_rollouts = check_rollouts(audit / "rollouts.jsonl", weighted=weighting == "relative_entropy")
    print(f"ok: {num_choices} choices and {num_rollouts} rollouts agree within {TOLERANCE}")


if __name__ == "__main__":
    main()
