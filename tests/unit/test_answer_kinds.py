"""Answers that responses give in practice and the rules of ``docs/grader.md``: correct ones, and near misses.

A line of ``answers.txt`` is ``gold | + correct | - incorrect``, continued by lines that start with ``|``. The test puts
an answer into a box. An answer that starts with ``>`` is a whole response, in which ``⏎`` is a line break.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.near_misses import mutate
from recipe.prepo.reward import compute_score


def _cases() -> list[Any]:
    cases, kind, gold = [], "", ""
    for line in Path(__file__).with_name("answers.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            kind = line[2:]
            continue
        first, *answers = line.split(" | ") if line[0] != " " else ["", *line.strip()[2:].split(" | ")]
        gold = first or gold
        for answer in answers:
            text = answer[2:].removeprefix("> ").replace("⏎", "\n")
            response = text if answer.startswith(("+ >", "- >")) else rf"Hence \boxed{{{text}}}."
            cases.append(pytest.param(gold, response, answer[0] == "+", id=f"{kind}: {gold} | {answer}"))
    return cases


CASES = _cases()


@pytest.mark.parametrize(("gold", "response", "is_correct"), CASES)
def test_answer(gold: str, response: str, is_correct: bool) -> None:
    assert compute_score("math", response, gold, {}, time_limit_s=60)["score"] == float(is_correct)


@pytest.mark.parametrize(
    ("golds", "correct", "incorrect"),
    [
        (["22", "22.0"], ["22", "22.0"], ["23"]),
        (["3", "4"], ["3", "4"], ["5", "3, 4", "34"]),
        (("3", "4"), ["4"], ["5"]),
        (np.array(["3", "4"], dtype=object), ["4"], ["5"]),
        (np.array([3, 4]), ["4"], ["5"]),
        (np.array([0.5]), [r"\frac12"], ["5"]),
        (np.int64(42), ["42"], ["41"]),
        (42.0, ["42"], ["41"]),
        (1e22, ["10^{22}"], ["10^{21}"]),
        (1.5e-7, [r"1.5 \times 10^{-7}"], ["0"]),
        ([3, 4.5, None, float("nan"), ""], ["3", "4.5"], ["None", "nan", ""]),
        ('["3", "4"]', ["4"], ["5"]),
        ("['3', '4']", ["4"], ["5"]),
        (r'["\frac{1}{2}", "x"]', ["0.5", "x"], ["2"]),
        (r'["\\frac{1}{2}"]', ["0.5"], ["2"]),
        ("[3,4]", ["[3,4]"], ["3", "4"]),
        ([["3", "4"]], ["4"], ["5"]),
        (["B", "(B)"], [r"\text{B}"], ["C"]),
        (["1,2"], ["2,1"], ["1"]),
    ],
)
def test_any_gold_of_a_list_counts(golds: Any, correct: list[str], incorrect: list[str]) -> None:
    scores = {a: compute_score("math", rf"\boxed{{{a}}}", golds, {})["score"] for a in (*correct, *incorrect)}
    assert scores == {a: float(a in correct) for a in scores}


@pytest.mark.parametrize(
    ("gold", "fields", "right", "wrong"),
    [
        ("45", {"unit": "minute"}, [r"45\text{ minutes}", "45 min", "45"], [r"45\text{ hours}", "45 km"]),
        ("4.2", {"unit": "%", "error": "1e-1"}, [r"4.3\%", "4.1"], [r"4.31\%", "420", "4.2 km"]),
        ("$166$", {"unit": "$cm^2$"}, ["166 cm^2", "166 square centimeters"], ["166 cm", "166 m^2"]),
        ("(1,3)", {"is_multiple_answer": True}, ["(1, 3)"], ["(3,1)"]),
        ("58,500", {"is_multiple_answer": True}, ["500, 58"], ["58500", "58,500,0"]),
        ("58,500", {"is_multiple_answer": False}, ["58500", "58,500"], ["500, 58"]),
        (r"$90^{\circ}$,$60^{\circ}$", {"is_multiple_answer": True, "unit": r"^{\circ}"}, ["60, 90"], ["60 kg, 90 kg"]),
    ],
)
def test_fields_of_the_row(gold: str, fields: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    scores = {a: compute_score("o", rf"\boxed{{{a}}}", gold, fields)["score"] for a in (*right, *wrong)}
    assert scores == {a: float(a in right) for a in scores}


RULES = ("integers", "fractions", "percent", "units and", "choices", "names and", "lists", "tuples", "intervals")
RULES += ("bases", "expressions")


@pytest.mark.parametrize("num_answers", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_answers_neither_crash_nor_hang(num_answers: int) -> None:
    """Of every kind of gold; the long run is ``python -m benchmarks.grader --fuzz``."""
    generator = random.Random(num_answers)
    golds = list(dict.fromkeys(case.values[0] for case in CASES if case.id.startswith(RULES)))
    num_stopped, slowest_s = 0, 0.0
    for _ in range(num_answers):
        gold = generator.choice(golds)
        answer = mutate(gold, generator)
        start = time.monotonic()
        result = compute_score("any", rf"so \boxed{{{answer}}}", gold, time_limit_s=1)
        slowest_s = max(slowest_s, time.monotonic() - start)
        assert list(result) == ["score", "acc", "timed_out"], answer
        assert all(type(value) is float and value in (0.0, 1.0) for value in result.values()), answer
        num_stopped += int(result["timed_out"])
    assert num_stopped <= 20
    assert slowest_s < 30  # the limit, and the start of a new worker on a busy machine
