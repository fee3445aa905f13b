"""The rules of ``docs/grader.md`` one by one: gold, correct answers, incorrect answers."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from benchmarks.near_misses import mutate
from recipe.prepo.reward.equivalence import is_equal
from recipe.prepo.reward.score import compute_score

RULES: dict[str, list[tuple[str, list[str], list[str]]]] = {
    "integers": [
        ("25", ["025", "25.0", "+25", "$25$", "(25)", r"\frac{50}{2}"], ["26", "-25", "2", "250", "25.0000001", "25!"]),
        ("1234", ["1,234", "1{,}234", r"1,\!234", r"1\,234"], ["(1,234)", "[1,234]", "1,2,3,4", "12,34", "1.234"]),
        ("-7", ["−7", "- 7", r"-\frac{14}{2}"], ["7", "--7", "-(-7)"]),
        (r"\$32,\!348", ["32348", r"\$32,348", r"32{,}348 \text{ dollars}"], ["32", "348", r"32,348 \text{ cents}"]),
    ],
    "fractions and decimals are exact": [
        (
            r"\frac{1}{3}",
            ["1/3", r"\dfrac13", r"\tfrac{2}{6}", r"\frac 13"],
            ["0.333333", "0.3333333333333", "3", "13"],
        ),
        (r"1\frac{4}{5}", [r"\frac95", "1.8", "1 4/5", r"1 \frac45"], [r"\frac45", r"\frac{14}{5}", "1.45"]),
        (r"-\frac{35}{9}", [r"\frac{-35}{9}", r"\frac{35}{-9}", r"-3\frac{8}{9}"], [r"\frac{35}{9}", r"-\frac{9}{35}"]),
        (
            ".0000672",
            [r"6.72 \times 10^{-5}", "0.0000672", r"6.72\cdot10^{-5}"],
            [".0000671", r"6.72\times10^{-4}", "0"],
        ),
        ("2^{10}", ["1024", r"2\cdot 2^9", "4^5"], ["2^{11}", "20", "2^10^1 + 1"]),
        (r"\pi", [r"1\pi", "π", r"\frac{2\pi}{2}"], ["3.14", "3.141593", r"2\pi"]),
    ],
    "percent": [
        (r"8\%", ["8", r"8 \%", "8%", r"8 \text{ percent}"], ["0.08", r"0.08\%", "800"]),
        ("50", [r"50\%", r"50 \text{ percent}"], [r"0.5\%", "0.5"]),
        ("0.5", [r"50\%", r"\frac12"], [r"0.5\%", "50"]),
        (r"\frac{1}{4}", [r"25\%"], [r"\frac14\%", "25"]),
    ],
    "units and degrees": [
        (
            r"864 \mbox{ inches}^2",
            ["864", r"864\text{ in}^2", "864 square inches"],
            [r"864\text{ cm}^2", r"864\text{ in}"],
        ),
        ("18", ["18 apples", r"18\text{ m/s}", r"\$18", r"18\,\mathrm{km}/\mathrm{h}"], ["18k", r"18 \text{ million}"]),
        (r"5 \text{ million}", ["5000000", "5,000,000 dollars"], ["5", r"5 \text{ billion}"]),
        (r"5.4 \text{ cents}", ["5.4", "5.4 cents"], [r"\$5.4", r"5.4\%"]),
        (r"90^\circ", ["90", "90°", r"90^{\circ}", "90 degrees"], [r"\frac{\pi}{2}", r"90 \text{ radians}", "9"]),
        ("10", [r"10 \text{ km}"], [r"10 \text{ or } 11", r"10 \pmod 7", r"\text{not } 10", r"10 \text{ or more}"]),
        ("6m", ["6 m", r"m \cdot 6"], ["6t", "6", r"6\text{ m}n"]),
    ],
    "choices and words": [
        (
            r"\text{(C)}",
            ["C", "(C)", r"\text{C}", r"\textbf{(C)}\ 12", "(C) Plane", "C."],
            ["D", r"\text{(B)}", "c", "CC"],
        ),
        ("12", [r"\textbf{(C)}\ 12", r"\mathrm{(A)}\ 12"], [r"\textbf{(C)}", r"\textbf{(C)}\ 13"]),
        (
            r"\text{even}",
            ["even", r"\text{ Even }", r"\mathrm{even}"],
            ["odd", "neve", r"\text{not even}", "even function"],
        ),
        ("A", ["(A)"], ["a", "B"]),
    ],
    "names and equations": [
        ("5", ["x = 5", r"x=2+3=5", r"\angle ABC = 5", r"\text{Area} = 5"], ["x = 6", "5 = x + 1"]),
        ("x=5", ["5", "x = 5"], ["y=5", "x=-5", r"x \ne 5"]),
        ("f(n)=n", ["n", "f(x) = x", r"f(n)=n \text{ for all } n"], ["g(n)=n", "f(n)=2n", "f(x)=n"]),
        ("y = 2x + 3", ["2x+3", "y=3+2x", "y - 2x = 3"], ["y = 2x - 3", "x = 2y + 3", "y = 3x + 2"]),
        ("5x - 7y + 4 = 0", ["5x-7y=-4", "4 + 5x - 7y = 0"], ["5x - 7y - 4 = 0", "5x + 7y + 4 = 0", "0"]),
    ],
    "lists": [
        (
            "1,-2",
            ["-2, 1", r"1 \text{ and } -2", "x=1, x=-2", r"\{1,-2\}", "(1, -2)"],
            ["1", "-2", "1,2", "1,-2,3", "[1,-2]"],
        ),
        (r"\{1,2\}", ["2,1", r"\{2, 1\}", r"\{1,2,1\}"], [r"\{1\}", r"\{1,2,3\}", "[1,2]"]),
        ("-2,-2", ["-2,-2"], ["-2", "-2,-2,-2"]),
        (r"1 \pm \sqrt{19}", [r"1+\sqrt{19}, 1-\sqrt{19}", r"1 ± \sqrt{19}"], [r"1+\sqrt{19}", r"1 \pm \sqrt{18}"]),
        (r"(\pm 3, 2)", ["(3,2), (-3,2)"], ["(3,2)", "(3,2),(3,-2)"]),
        ("6", [r"\{6\}"], ["6, 6", "6, 7", r"6 \text{ or } 7"]),
    ],
    "tuples": [
        (
            "(6,5)",
            ["( 6 , 5 )", r"\left(6,5\right)", "6, 5", r"(\frac{12}{2}, 5.0)"],
            ["(5,6)", "[6,5]", "(6,5,0)", "65", "6.5"],
        ),
        ("(1,234)", ["(1, 234)"], ["1234", "1,234", "(1234)"]),
        ("(1,2),(3,4)", ["(3,4),(1,2)"], ["(1,2)", "(2,1),(3,4)", "(1,2,3,4)", "(1,3),(2,4)"]),
        (
            r"\begin{pmatrix} 1/5 \\ -3 \end{pmatrix}",
            [r"\begin{bmatrix} 0.2 \\ -3 \end{bmatrix}", "(1/5, -3)"],
            ["(-3, 1/5)"],
        ),
        (
            r"\begin{pmatrix} -1 & 0 \\ 0 & 2 \end{pmatrix}",
            [r"\begin{pmatrix}-1&0\\0&2\end{pmatrix}"],
            [r"\begin{pmatrix} -1 & 0 \\ 2 & 0 \end{pmatrix}", r"\begin{vmatrix} -1 & 0 \\ 0 & 2 \end{vmatrix}", "-2"],
        ),
    ],
    "intervals": [
        (
            "(3,4]",
            [r"3 < x \le 4", r"\left(3,4\right]", r"x \in (3,4]", r"4 \geq x > 3"],
            ["(3,4)", "[3,4]", "(4,3]", "3<x<4"],
        ),
        (r"(-\infty, 2)", ["x<2", r"2 > x", "(-∞,2)"], [r"x \leq 2", r"(-\infty,2]", r"(2,\infty)"]),
        (r"(0,9) \cup (9,36)", [r"(9,36) \cup (0,9)", r"0<x<9 \text{ or } 9<x<36"], [r"(0,9] \cup (9,36)", "(0,36)"]),
        (r"k \geqslant 2", [r"k \ge 2", r"[2,\infty)", "k≥2"], ["k > 2", r"k \le 2", "2"]),
    ],
    "bases": [("52_8", ["52_{8}", "52"], ["52_9", "42", "25_8", "52_{18}"])],
    "expressions": [
        ("x^3+3x-6", ["3x + x^3 - 6", "x(x^2+3) - 6"], ["x^2+3x-6", "x^3+3x+6", "x^3+3y-6"]),
        (r"3\sqrt{13}", [r"\sqrt{117}", r"3 \cdot \sqrt{13}"], ["3", r"3\sqrt{14}", r"\sqrt{13}", r"3\sqrt[3]{13}"]),
        ("6+9i", ["9i + 6"], ["6-9i", "6+9", "15i"]),
        (r"\sin^2 t", [r"(\sin t)^2"], [r"\sin^2 m", r"\sin t", r"\cos^2 t"]),
        ("2ab", ["2ba", r"ab \cdot 2"], ["2a", "ab", "2bc"]),
        ("n-1", ["-1+n"], [r"n-1 \text{ if } n \text{ is even}", "1-n", "n"]),
    ],
}
CASES = [
    pytest.param(gold, answer, is_right, id=f"{rule}: {answer} {'is' if is_right else 'is not'} {gold}")
    for rule, examples in RULES.items()
    for gold, right, wrong in examples
    for is_right, answers in ((True, [gold, *right]), (False, wrong))
    for answer in answers
]


@pytest.mark.parametrize(("gold", "answer", "is_right"), CASES)
def test_rule(gold: str, answer: str, is_right: bool) -> None:
    assert is_equal(gold, answer) is is_right
    assert compute_score("any", rf"So the answer is \boxed{{{answer}}}.", gold)["score"] == float(is_right)


@pytest.mark.parametrize(
    ("gold", "fields", "right", "wrong"),
    [
        ("45", {"unit": "minute"}, [r"45\text{ minutes}", "45 min", "45"], [r"45\text{ hours}", "45 km"]),
        ("4.2", {"unit": "%", "error": "1e-1"}, [r"4.3\%", "4.1"], [r"4.31\%", "420", "4.2 km"]),
        ("$166$", {"unit": "$cm^2$"}, ["166 cm^2", "166 square centimeters"], ["166 cm", "166 m^2"]),
        ("(1,3)", {"is_multiple_answer": True}, ["(1, 3)"], ["(3,1)"]),
        ("58,500", {"is_multiple_answer": True}, ["500, 58"], ["58500", "58,500,0"]),
        ("58,500", {"is_multiple_answer": False}, ["58500", "58,500"], ["500, 58"]),
        (
            "$90^{\\circ}$,$60^{\\circ}$",
            {"is_multiple_answer": True, "unit": "^{\\circ}"},
            ["60, 90"],
            ["60 kg, 90 kg"],
        ),
    ],
)
def test_fields_of_the_row(gold: str, fields: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    scores = {a: compute_score("o", rf"\boxed{{{a}}}", gold, fields)["score"] for a in (*right, *wrong)}
    assert scores == {a: float(a in right) for a in scores}


@pytest.mark.parametrize(
    ("gold", "text", "is_right"),
    [
        ("18", "so the answer is 18.", True),
        ("18", "so the answer is 19.", False),
        (r"\frac{1}{3}", r"the final answer is $\frac{1}{3}$.", True),
        (r"\frac{1}{3}", "the final answer is 0.333333.", False),
        (".0000672", "the answer is 0.0000671", False),
        ("(6,5)", "the answer is $(6,5)$", True),
        ("(6,5)", "the answer is $(5,6)$", False),
        ("5", "I do not know.", False),
    ],
)
def test_answers_outside_of_a_box(gold: str, text: str, is_right: bool) -> None:
    assert compute_score("any", text, gold)["score"] == float(is_right)


@pytest.mark.parametrize("num_answers", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_answers_neither_crash_nor_hang(num_answers: int) -> None:
    """Of every kind of gold; the long run is ``python -m benchmarks.grader --fuzz``."""
    generator = random.Random(num_answers)
    golds = [gold for examples in RULES.values() for gold, _, _ in examples]
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
