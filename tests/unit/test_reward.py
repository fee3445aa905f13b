"""The reward: answers of every kind (``answers.txt``), golds of every form, and what a hostile response may cost.

A line of ``answers.txt`` is ``gold | + correct | - incorrect``, continued by lines that start with ``|``. The test puts
an answer into a box. An answer that starts with ``>`` is a whole response, in which ``⏎`` is a line break.
"""

import asyncio
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.near_misses import mutate
from recipe.prepo.errors import ConfigError, DataError
from recipe.prepo.reward.extract import last_boxed
from recipe.prepo.reward.quantity import plain_number
from recipe.prepo.reward.score import DEFAULT_TIME_LIMIT_S, compute_score

CONF_DIR = Path(__file__).parents[2] / "conf"
HANGS = r"\boxed{9^{9^{9^{9}}}}"
CORRECT = {"score": 1.0, "acc": 1.0, "timed_out": 0.0}
INCORRECT = {"score": 0.0, "acc": 0.0, "timed_out": 0.0}
STOPPED = {"score": 0.0, "acc": 0.0, "timed_out": 1.0}


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
    expected = CORRECT if is_correct else INCORRECT
    assert compute_score("math", response, gold, {}, time_limit_s=60) == expected


def scores(golds: Any, answers: list[str], fields: dict[str, Any] | None = None) -> dict[str, float]:
    return {a: compute_score("o", rf"\boxed{{{a}}}", golds, fields)["score"] for a in answers}


@pytest.mark.parametrize(
    ("golds", "correct", "incorrect"),
    [
        (["22", "22.0"], ["22", "22.0"], ["23"]),
        (["3", "4"], ["3", "4"], ["5", "3, 4", "34"]),
        (np.array(["3", "4"], dtype=object), ["4"], ["5"]),
        (np.array([0.5]), [r"\frac12"], ["5"]),
        (np.int64(42), ["42"], ["41"]),
        (1e22, ["10^{22}"], ["10^{21}"]),
        (1.5e-7, [r"1.5 \times 10^{-7}"], ["0"]),
        ([3, 4.5, None, float("nan"), ""], ["3", "4.5"], ["None", "nan", ""]),
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
    found = scores(golds, correct + incorrect)
    assert found == {a: float(a in correct) for a in found}


@pytest.mark.parametrize(
    ("gold", "fields", "correct", "incorrect"),
    [
        ("45", {"unit": "minute"}, [r"45\text{ minutes}", "45 min", "45"], [r"45\text{ hours}", "45 km"]),
        ("4.2", {"unit": "%", "error": "1e-1"}, [r"4.3\%", "4.1"], [r"4.31\%", "4.31", "420", "4.2 km"]),
        ("4.2", {"error": "no number"}, ["4.2"], ["4.3"]),
        ("$166$", {"unit": "$cm^2$"}, ["166 cm^2", "166 square centimeters"], ["166 cm", "166 m^2"]),
        ("(1,3)", {"is_multiple_answer": True}, ["(1, 3)"], ["(3,1)"]),
        ("58,500", {"is_multiple_answer": True}, ["500, 58"], ["58500", "58,500,0"]),
        ("58,500", {"is_multiple_answer": None}, ["58500", "58,500"], ["500, 58"]),
        (r"$90^{\circ}$,$60^{\circ}$", {"is_multiple_answer": True, "unit": r"^{\circ}"}, ["60, 90"], ["60 kg, 90 kg"]),
    ],
)
def test_fields_of_the_row_change_what_is_correct(
    gold: str, fields: dict[str, Any], correct: list[str], incorrect: list[str]
) -> None:
    found = scores(gold, correct + incorrect, fields)
    assert found == {a: float(a in correct) for a in found}


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
        assert result in (CORRECT, INCORRECT, STOPPED), answer
        num_stopped += int(result["timed_out"])
    assert num_stopped <= 20
    assert slowest_s < 30  # the limit, and the start of a new worker on a busy machine


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}} and {more}", r"\frac{1}{2}"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\fbox{7}", "7"),
        (r"\boxed 3 or \boxed 4", "4"),
        (r"\boxed{5} and \boxed{6", "5"),  # the last complete one; the grader calls such a response cut off
        (r"{ stray \boxed{5}", "5"),
        (r"\boxed{\boxed{8}}", "8"),
        (r"\boxed{}", ""),
        ("no box", None),
        (r"\boxed{never closed", None),
    ],
)
def test_last_balanced_box(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize("text", ["", "1,00", "1 2", "1e5", "--1", "1.2.3", "٣", "1/2", "0x10", "9" * 1000, "1_000"])
def test_not_a_plain_number(text: str) -> None:
    assert plain_number(text) is None


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("5 +7=12 #### 12", CORRECT),
        ("#### 3 #### 012\n", CORRECT),
        ("#### 12.0", INCORRECT),
        ("#### 12 apples", INCORRECT),
        ("#### 12 #### ", INCORRECT),
        (r"\boxed{12}", INCORRECT),
        ("#### 13", INCORRECT),
        ("", INCORRECT),
        ("#### " + "1" * 10_000, INCORRECT),
    ],
)
def test_mini_math_takes_only_an_integer_at_the_end(response: str, expected: dict[str, float]) -> None:
    verls = {"extra_info": {"num_turns": 1}, "reward_router_address": "host:1", "reward_model_tokenizer": None}
    assert compute_score(data_source="mini_math", solution_str=response, ground_truth="12", **verls) == expected


@pytest.mark.parametrize("gold", ["  ", None])
def test_empty_gold_is_an_error(gold: Any) -> None:
    with pytest.raises(DataError, match="gold answer is empty"):
        compute_score("math", r"\boxed{}", gold)


@pytest.mark.parametrize("limit", ["0", "-1", "soon", "inf", "nan"])
def test_time_limit_must_be_a_positive_number(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    configured = yaml.safe_load((CONF_DIR / "prepo_trainer.yaml").read_text())["prepo"]["grading_time_limit_s"]
    assert configured == DEFAULT_TIME_LIMIT_S == 5.0
    monkeypatch.setenv("PREPO_GRADING_TIME_LIMIT_S", limit)
    with pytest.raises(ConfigError, match=rf"'{limit}'.*positive.*prepo\.grading_time_limit_s=5"):
        compute_score("math", r"\boxed{1}", "1")
    assert compute_score("math", r"\boxed{1}", "1", time_limit_s=1) == CORRECT


def test_hung_grading_is_stopped_in_a_thread_and_the_next_answer_is_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREPO_GRADING_TIME_LIMIT_S", "0.3")
    compute_score("math", r"\boxed{\frac12}", "0.5")  # starts the worker before the clock runs
    with ThreadPoolExecutor(1) as pool:
        start = time.monotonic()
        assert pool.submit(compute_score, "math", HANGS, "5").result() == STOPPED
        assert time.monotonic() - start < 2
        assert pool.submit(compute_score, "math", r"\boxed{\frac12}", "0.5", time_limit_s=5).result() == CORRECT


@pytest.mark.parametrize(
    "response",
    [
        "a" * 1_000_000,
        r"\boxed{" * 100_000,
        "{" * 300_000 + "}" * 300_000,
        r"\boxed{" + "(" * 500_000 + "}",
        r"\boxed{" + r"\sqrt{" * 100 + "5" + "}" * 101,
        "####" * 200_000,
        r"\boxed{" + "1," * 500_000 + "}",
        "\x00\ud800 \\boxed{\x00\ud800}",
    ],
)
def test_long_and_odd_responses_are_incorrect_and_cheap(response: str) -> None:
    compute_score("math", "x", "y")  # starts the worker before the clock runs
    start = time.process_time()
    assert compute_score("math", response, "5") == INCORRECT
    assert time.process_time() - start < 3


def test_many_threads_of_an_event_loop_get_their_own_results() -> None:
    async def grade_all() -> list[dict[str, float]]:
        loop = asyncio.get_running_loop()
        cases = [(rf"\boxed{{\frac{{{i}}}{{7}}}}", rf"\frac{{{2 * i}}}{{{14 + i % 2}}}") for i in range(1, 25)]
        return await asyncio.gather(*(loop.run_in_executor(None, compute_score, "math", a, g) for a, g in cases))

    assert [r["score"] for r in asyncio.run(grade_all())] == [float(i % 2 == 0) for i in range(1, 25)]
