"""The answer grader on the evaluation sets: golds against themselves, near misses, throughput, hostile answers, fuzz.

``python -m benchmarks.grader --data DIR [--out outputs/bench] [--fuzz 100000]``. ``DIR`` has a folder per set
(``aime24``, ``aime25``, ``amc23``, ``math500``, ``olympiadbench``, ``gsm8k``, ``e3``). Missing sets are left out.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.near_misses import bare, mutate, near_misses, same_answers
from benchmarks.results import write_results
from data_prep.registry import DATASETS
from data_prep.sources import read_file
from recipe.prepo.reward import grading_process as worker
from recipe.prepo.reward.extract import is_prose
from recipe.prepo.reward.score import DEFAULT_TIME_LIMIT_S, compute_score

FILES = {
    "aime24": "aime24/test.jsonl",
    "aime25": "aime25/aime25.jsonl",
    "amc23": "amc23/test.jsonl",
    "math500": "math500/test.jsonl",
    "olympiadbench": "olympiadbench/test.jsonl",
    "gsm8k": "gsm8k/test.jsonl",
    "e3": "e3/test.json",
}
HOSTILE = {
    "10^6 letters, no box": "a" * 1_000_000,
    "10^6 digits in a box": rf"\boxed{{{'9' * 1_000_000}}}",
    "10^5 boxes never closed": r"\boxed{" * 100_000,
    "3·10^5 nested braces": "{" * 300_000 + "}" * 300_000,
    "5·10^5 open parentheses in a box": r"\boxed{" + "(" * 500_000 + "}",
    "1,000 commas in a box": r"\boxed{" + "1," * 1_000 + "}",
    "30 nested roots": r"\boxed{" + r"\sqrt{" * 30 + "5" + "}" * 31,
    "1,000 nested roots": r"\boxed{" + r"\sqrt{" * 1000 + "5" + "}" * 1001,
    "null bytes and lone surrogates": "\x00\ud800 \\boxed{\x00\ud8005}",
    "unclosed braces": r"\boxed{\frac{1}{2}",
    "400 \\frac without arguments": r"\boxed{" + r"\frac" * 400 + "}",
    "9^9^9": r"\boxed{9^{9^{9}}}",
    "9^9^9^9": r"\boxed{9^{9^{9^{9}}}}",
    "(10^10)!": r"\boxed{(10^{10})!}",
    "code": r"\boxed{__import__('os').system('sleep 9')}",
    "sum of 10^9 terms": r"\boxed{\sum_{k=1}^{1000000000} \sin(k^{k})}",
    "200 nested fractions": r"\boxed{" + r"\frac{1}{1+" * 200 + "x" + "}" * 201,
    "100 terms": r"\boxed{" + "+".join(rf"\sin(x^{{{k}}})" for k in range(100)) + "}",
}


@dataclass(frozen=True)
class Gold:
    where: str
    text: str
    data_source: str
    extra_info: dict[str, Any]


@dataclass
class Result:
    """Counts of one set. ``exceptions``: (where, gold, rule, answer, the grader's mistake)."""

    num_golds: int = 0
    num_correct: Counter[str] = field(default_factory=Counter)
    num_forms: Counter[str] = field(default_factory=Counter)
    num_refused: Counter[str] = field(default_factory=Counter)
    num_misses: Counter[str] = field(default_factory=Counter)
    exceptions: list[tuple[str, str, str, str, str]] = field(default_factory=list)
    seconds: float = 0.0


def read_golds(data_dir: Path, name: str) -> list[Gold]:
    """The golds of one set as data preparation reads them, without golds in prose, which it drops."""
    golds = []
    for number, (where, row) in enumerate(read_file(data_dir / FILES[name])):
        if name == "e3":
            golds.append(Gold(f"{where} ({row['source']})", str(row["answer"]), str(row["source"]), {}))
        else:
            problem = DATASETS[name].to_problem(row)
            golds.append(Gold(problem.source_id or f"line {number + 1}", problem.gold, name, dict(problem.extra)))
    return [gold for gold in golds if not is_prose(gold.text)]


def grade(gold: Gold, answer: str, time_limit_s: float | None = None) -> dict[str, float]:
    """The reward of a response that ends in ``answer``."""
    response = rf"Therefore the answer is \boxed{{{answer}}}."
    return compute_score(gold.data_source, response, gold.text, gold.extra_info, time_limit_s)


def judge_set(golds: list[Gold]) -> Result:
    """Every gold against itself, its other forms and its near misses."""
    result, start = Result(num_golds=len(golds)), time.perf_counter()
    for gold in golds:
        is_list = bool(gold.extra_info.get("is_multiple_answer"))
        for rule, answer in same_answers(gold.text, is_list=is_list):
            result.num_forms[rule] += 1
            if grade(gold, answer)["score"] == 1.0:
                result.num_correct[rule] += 1
            else:
                result.exceptions.append((gold.where, gold.text, rule, answer, "equal, judged incorrect"))
        for rule, answer in near_misses(gold.text, is_list=is_list, unit=gold.extra_info.get("unit")):
            result.num_misses[rule] += 1
            if grade(gold, answer)["score"] == 0.0:
                result.num_refused[rule] += 1
            else:
                result.exceptions.append((gold.where, gold.text, rule, answer, "near miss, judged correct"))
    result.seconds = time.perf_counter() - start
    return result


def throughput(golds: list[Gold], *, only_expressions: bool) -> tuple[int, float, float]:
    """Number of answers (each gold and one near miss, no duplicates), seconds, and CPU seconds with the workers'.

    Starts a new worker, so that caches are empty.
    """
    pairs = {}
    for gold in golds:
        if only_expressions and re.fullmatch(r"\$?-?[0-9.,]+\$?", gold.text):
            continue
        for _, answer in [("", bare(gold.text)), *near_misses(gold.text)[:1]]:
            pairs[(gold.text, answer)] = gold
    begin_cpu = start_cpu = 0.0
    for _ in range(2):  # the first worker only shows what a start costs
        worker._grader.close()
        begin_cpu, start_cpu = start_cpu, sum(os.times()[:4])  # with ended children
        grade(Gold("", "x", "any", {}), "y")
    start = time.perf_counter()
    for (_, answer), gold in pairs.items():
        grade(gold, answer)
    seconds = time.perf_counter() - start
    worker._grader.close()
    return len(pairs), seconds, sum(os.times()[:4]) - start_cpu - (start_cpu - begin_cpu)


def cost_of_hostile_answers() -> Iterator[tuple[str, float, dict[str, float], float]]:
    """Name, seconds, result, and seconds of the next ordinary answer (with a new worker if the last one was killed)."""
    good = Gold("", r"\frac{x}{2}", "any", {})
    for name, response in HOSTILE.items():
        start = time.perf_counter()
        result = compute_score("any", response, r"\frac{1}{7}")
        middle = time.perf_counter()
        assert grade(good, r"0.5 \cdot x")["score"] == 1.0
        yield name, middle - start, result, time.perf_counter() - middle


def fuzz(golds: list[Gold], num_answers: int, seed: int = 0) -> dict[str, Any]:
    """Grade mutated golds. Raises on any exception or value of another type."""
    generator, times = random.Random(seed), []
    counts: Counter[str] = Counter()
    for number in range(num_answers):
        gold = generator.choice(golds)
        answer = mutate(bare(gold.text), generator)
        start = time.perf_counter()
        result = grade(gold, answer, time_limit_s=2)
        times.append(time.perf_counter() - start)
        assert all(type(value) is float for value in result.values()), (gold, answer, result)
        counts.update(key for key in ("score", "timed_out") if result[key])
        if number % 10_000 == 9_999:
            print(f"fuzz: {number + 1} answers, {sum(times):.0f} s, {counts['timed_out']} stopped", flush=True)
    times.sort()
    return {
        "answers": num_answers,
        "seconds": sum(times),
        "correct": counts["score"],
        "stopped": counts["timed_out"],
        "median_ms": 1000 * times[len(times) // 2],
        "p99_ms": 1000 * times[len(times) * 99 // 100],
        "slowest_s": times[-1],
    }


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def tables(results: dict[str, Result], speeds: list[tuple[str, int, float, float]], rest: dict[str, Any]) -> str:
    """All figures as Markdown."""
    lines = [
        "| set | golds | correct against themselves | other forms judged correct | near misses judged incorrect | s |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in results.items():
        own, forms, misses = r.num_correct["itself"], r.num_forms.total(), r.num_misses.total()
        lines.append(
            f"| {name} | {r.num_golds} | {own} ({100 * own / r.num_golds:.1f} %) | {r.num_correct.total()} of {forms} |"
            f" {r.num_refused.total()} of {misses} | {r.seconds:.1f} |"
        )
    exceptions = [(name, *e) for name, r in results.items() for e in r.exceptions]
    lines += ["", "| set | row | gold | change | answer | judgement |", "|---|---|---|---|---|---|"]
    lines += [f"| {n} | {w} | {_code(g)} | {rule} | {_code(a)} | {what} |" for n, w, g, rule, a, what in exceptions]
    changes: Counter[str] = sum((r.num_misses for r in results.values()), Counter())
    refused: Counter[str] = sum((r.num_refused for r in results.values()), Counter())
    lines += ["", "| change of the gold | near misses | judged incorrect |", "|---|---|---|"]
    lines += [f"| {rule} | {count} | {refused[rule]} |" for rule, count in changes.most_common()]
    lines += ["", "| answers | number | s | CPU s | answers per CPU second |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {count} | {s:.2f} | {cpu_s:.2f} | {count / cpu_s:.0f} |" for name, count, s, cpu_s in speeds]
    lines += ["", "| hostile answer | s | score | stopped | s of the next answer |", "|---|---|---|---|---|"]
    for name, seconds, result, next_s in rest["hostile"]:
        stopped = "yes" if result["timed_out"] else "no"
        lines.append(f"| {name} | {seconds:.3f} | {result['score']:.0f} | {stopped} | {next_s:.3f} |")
    if f := rest["fuzz"]:
        lines += ["", "| fuzzed answers | s | judged correct | stopped at 2 s | median ms | p99 ms | slowest s |"]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [
            f"| {f['answers']} | {f['seconds']:.0f} | {f['correct']} | {f['stopped']} | {f['median_ms']:.2f} |"
            f" {f['p99_ms']:.1f} | {f['slowest_s']:.2f} |"
        ]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    parser.add_argument("--fuzz", type=int, default=0, metavar="N")
    arguments = parser.parse_args(argv)
    sets = {name: read_golds(arguments.data, name) for name in FILES if (arguments.data / FILES[name]).is_file()}
    if not sets:
        parser.error(f"--data {arguments.data} holds none of {', '.join(FILES.values())}")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before the worker starts: it inherits the one core
    own = [gold for name, golds in sets.items() if name != "e3" for gold in golds]
    speeds = [
        ("expressions, lists, tuples, intervals", *throughput(own, only_expressions=True)),
        ("all sets but e3", *throughput(own, only_expressions=False)),
    ]
    results = {name: judge_set(golds) for name, golds in sets.items()}
    hostile = list(cost_of_hostile_answers())
    rest = {"hostile": hostile, "fuzz": fuzz(own, arguments.fuzz) if arguments.fuzz else None}
    machine = f"Python {platform.python_version()}, one core, time limit {DEFAULT_TIME_LIMIT_S:.0f} s.\n\n"
    text = machine + tables(results, speeds, rest)
    write_results(arguments.out, "grader", {"speeds": speeds, **rest}, text)
    print(text)


if __name__ == "__main__":
    main()
