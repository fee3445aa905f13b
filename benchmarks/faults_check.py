"""Whether a run that was hurt and resumed is the run that it would have been, and the table of what happened."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

SELECTION = (
    "step",
    "call",
    "progress",
    "num_selected",
    "window_start",
    "selected",
    "skipped",
    "rollout_n",
    "temperature",
)
ROLLOUT = ("prompt_id", "rollout", "reward", "num_tokens", "temperature")


def read(path: Path) -> list[dict[str, Any]]:
    """Lines of a log; empty if it does not exist."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def decisions(run_dir: Path) -> dict[int, dict[str, Any]]:
    """Choices and rollouts of each step of a run."""
    found: dict[int, dict[str, Any]] = {}
    for line in read(run_dir / "audit" / "selection.jsonl"):
        step = found.setdefault(line["step"], {"choices": [], "rollouts": []})
        candidates = [candidate["prompt_id"] for candidate in line["candidates"]]
        step["choices"].append({**{name: line[name] for name in SELECTION}, "candidates": candidates})
    for line in read(run_dir / "audit" / "rollouts.jsonl"):
        step = found.setdefault(line["step"], {"choices": [], "rollouts": []})
        step["rollouts"].append(tuple(line[name] for name in ROLLOUT))
    for step in found.values():
        step["rollouts"].sort()
    return found


def differences(reference: Path, run_dir: Path, *, num_steps: int) -> list[str]:
    """Steps that are lost, doubled or different in the first ``num_steps``; empty if all equal the reference."""
    problems = []
    lines = Counter(line["step"] for line in read(run_dir / "metrics.jsonl") if "timing_s/step" in line["data"])
    wanted = range(1, num_steps + 1)
    problems += [f"step {step} is {lines[step]} times in metrics.jsonl" for step in wanted if lines[step] != 1]
    expected, found = decisions(reference), decisions(run_dir)
    for step in wanted:
        for part in ("choices", "rollouts"):
            if expected.get(step, {}).get(part) != found.get(step, {}).get(part):
                problems.append(f"the {part} of step {step} differ from the undisturbed run")
    return problems


def summary(events: list[dict[str, Any]]) -> str:
    """Markdown: how runs ended, one line for each kind of fault."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        kind = event["part"] if event["part"] in ("reward", "disk") else event["fault"]
        kinds.setdefault(kind, []).append(event)
    text = [
        "| fault | times | exit status | seconds to the end | one message | killed by the script | left behind |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, group in kinds.items():
        statuses = ", ".join(sorted({str(event["exit_status"]) for event in group}))
        seconds = [event["seconds"] for event in group]
        with_message = sum(event["error"].count("error: ") == 1 for event in group)
        left = ", ".join(sorted({event["leftovers"] for event in group}))
        count, killed = (sum(event[name] for event in group) for name in ("count", "num_killed"))
        text.append(
            f"| {kind} | {count} | {statuses} | {min(seconds):.1f} to {max(seconds):.1f} "
            f"| {with_message} of {len(group)} | {killed} | {left} |"
        )
    return "\n".join(text) + "\n"


def table(events: list[dict[str, Any]], checks: list[dict[str, Any]]) -> str:
    """Markdown: the summary, a line for each fault, then the result of each chain of runs."""
    text = [
        summary(events),
        "| part | fault | at step | exit status | seconds to the end | message | killed by the script | left behind |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for event in events:
        message = event["error"].removeprefix("error: ").replace("|", "/")
        text.append(
            f"| {event['part']} | {event['fault']} | {event['step']} | {event['exit_status']} | {event['seconds']:.1f} "
            f"| {message or '–'} | {event['num_killed']} | {event['leftovers']} |"
        )
    text += [
        "",
        "| part | run | faults survived | steps compared | lost, doubled or different |",
        "|---|---|---|---|---|",
    ]
    for check in checks:
        problems = "; ".join(check["problems"]) or "none"
        text.append(f"| {check['part']} | {check['run']} | {check['faults']} | {check['steps']} | {problems} |")
    return "\n".join(text) + "\n"
