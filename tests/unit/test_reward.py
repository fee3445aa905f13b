"""The reward: correct answers, near misses that are incorrect, and what a hostile response may cost."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipe.prepo.errors import ConfigError, DataError
from recipe.prepo.reward.extract import last_boxed
from recipe.prepo.reward.notation import split_list
from recipe.prepo.reward.quantity import plain_number
from recipe.prepo.reward.score import DEFAULT_TIME_LIMIT_S, compute_score

CONF_DIR = Path(__file__).parents[2] / "conf"
HANGS = r"\boxed{9^{9^{9^{9}}}}"
RIGHT = {"score": 1.0, "acc": 1.0, "timed_out": 0.0}
WRONG = {"score": 0.0, "acc": 0.0, "timed_out": 0.0}
STOPPED = {"score": 0.0, "acc": 0.0, "timed_out": 1.0}


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}} and {more}", r"\frac{1}{2}"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\fbox{7}", "7"),
        (r"$\boxed 3$ apples", "3"),
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


@pytest.mark.parametrize(
    "text", ["", "1,00", "1 2", "1e5", "--1", "1.2.3", "٣", "x", "1/2", "0x10", "9" * 1000, "1_000"]
)
def test_not_a_plain_number(text: str) -> None:
    assert plain_number(text) is None


def test_lists_are_split_outside_brackets_only() -> None:
    assert split_list(r"(1,2), \{3,4\}, \frac{1}{2}") == ["(1,2)", r"\{3,4\}", r"\frac{1}{2}"]
    assert split_list(r"\{1, 2\}") == ["1", "2"]
    assert split_list("(1,2),(3,4)") == ["(1,2)", "(3,4)"]
    assert split_list(r"1, 2 \text{, and } 3") == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("gold", "response"),
    [
        ("25", r"\boxed{025}"),
        ("025", r"\boxed{25}"),
        ("27.0", r"\boxed{27}"),
        ("1000", r"\boxed{1,000}"),
        (r"10,\!080", r"\boxed{10080}"),
        ("18", "She earns 18.\n#### 18"),
        ("18", "#### $18.\nThat is all."),
        ("18", "so the answer is 18."),
        ("18", r"#### 17 \boxed{18}"),
        (r"\frac{1}{2}", r"\boxed{0.5}"),
        (r"2\sqrt{3}", r"\boxed{\sqrt{12}}"),
        (r"3\sqrt{13}", r"\boxed{3\sqrt{13}}"),
        (r"\frac 59", r"\boxed{\dfrac{5}{9}}"),
        (r"8\%", r"\boxed{8}"),
        (r"8\%", r"\boxed{8\%}"),
        ("62.5%", r"\boxed{62.5\%}"),
        (r"\text{(C)}", r"\boxed{C}"),
        (r"\text{Evelyn}", r"\boxed{Evelyn}"),
        ("1,-2", r"\boxed{-2, 1}"),
        ("1,-2", r"\boxed{x=1 \text{ or } x=-2}"),
        ("$221,$8$", r"\boxed{8, 221}"),
        ("-2,-2", r"\boxed{-2,-2}"),
        ("a + b + c", r"\boxed{c+a+b}"),
        (r"t(0,4]", r"\boxed{t(0, 4]}"),
        (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\boxed{\begin{pmatrix} 0.2 \\ -3.6 \end{pmatrix}}"),
        (r"x \in [-2,7]", r"\boxed{[-2,7]}"),
        (r"1 \pm \sqrt{19}", r"\boxed{1-\sqrt{19}, 1+\sqrt{19}}"),
    ],
)
def test_correct_answers(gold: str, response: str) -> None:
    assert compute_score("any", f"Thus {response}", gold) == RIGHT


@pytest.mark.parametrize(
    ("gold", "response"),
    [
        ("18", r"\boxed{18.0000001}"),
        ("18", r"\boxed{-18}"),
        ("1000", r"\boxed{1,0000}"),
        ("18", r"\boxed{18} but no, \boxed{19}"),
        ("18", r"18 is it. \boxed{}"),
        ("18", "18\n####"),
        ("18", ""),
        ("5", r"\boxed{5, 6}"),
        ("5", r"\boxed{5 \text{ or } 6}"),
        ("3", r"\boxed{3\sqrt{13}}"),
        (r"3\sqrt{13}", r"\boxed{3}"),
        (r"\frac{1}{3}", r"\boxed{0.333}"),
        (r"8\%", r"\boxed{0.08}"),
        ("(6,5)", r"\boxed{(5,6)}"),
        ("(2,4)", r"\boxed{[2,4]}"),
        ("16,3,1,1", r"\boxed{1,3,16}"),
        ("-2,-2", r"\boxed{-2}"),
        ("1,3,5", r"\boxed{1.3}"),
        (r"\text{even}", r"\boxed{\text{odd}}"),
        (r"\sin^2 t", r"\boxed{\sin^2 m}"),
        ("a + b + c", r"\boxed{a + b + d}"),
        ("5", r"\boxed{__import__('os').getpid()}"),
    ],
)
def test_near_misses_are_incorrect(gold: str, response: str) -> None:
    assert compute_score("any", response, gold) == WRONG


def test_fields_of_the_row_change_what_is_correct() -> None:
    assert compute_score("o", r"\boxed{500, 58}", "58,500", {"is_multiple_answer": True}) == RIGHT
    assert compute_score("o", r"\boxed{58500}", "58,500", {"is_multiple_answer": True}) == WRONG
    assert compute_score("o", r"\boxed{58500}", "58,500", {"is_multiple_answer": None}) == RIGHT
    assert compute_score("o", r"\boxed{4.3\%}", "4.2", {"error": "1e-1"}) == RIGHT
    assert compute_score("o", r"\boxed{4.31}", "4.2", {"error": "1e-1"}) == WRONG
    assert compute_score("o", r"\boxed{4.3}", "4.2", {"error": "no number"}) == WRONG


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("5 +7=12 #### 12", RIGHT),
        ("#### 3 #### 12", RIGHT),
        ("#### 012\n", RIGHT),
        ("#### 12.0", WRONG),
        ("#### 12 apples", WRONG),
        ("#### 12 #### ", WRONG),
        (r"\boxed{12}", WRONG),
        ("12", WRONG),
        ("#### 13", WRONG),
        ("#### " + "1" * 10_000, WRONG),
    ],
)
def test_mini_math_takes_only_an_integer_at_the_end(response: str, expected: dict[str, float]) -> None:
    assert compute_score("mini_math", response, "12") == expected


def test_arguments_as_verl_passes_them() -> None:
    result = compute_score(
        data_source="math",
        solution_str=r"\boxed{2}",
        ground_truth="2",
        extra_info={"num_turns": 1, "rollout_reward_scores": {}},
        reward_router_address="host:1",
        reward_model_tokenizer=None,
    )
    assert result == RIGHT


@pytest.mark.parametrize("gold", ["", "  ", None])
def test_empty_gold_is_an_error(gold: Any) -> None:
    with pytest.raises(DataError, match="gold answer is empty"):
        compute_score("math", r"\boxed{}", gold)


def test_default_time_limit_is_the_configurations() -> None:
    configured = yaml.safe_load((CONF_DIR / "prepo_trainer.yaml").read_text())["prepo"]["grading_time_limit_s"]
    assert configured == DEFAULT_TIME_LIMIT_S == 5.0


@pytest.mark.parametrize("limit", ["0", "-1", "soon", "inf", "nan"])
def test_time_limit_must_be_a_positive_number(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREPO_GRADING_TIME_LIMIT_S", limit)
    with pytest.raises(
        ConfigError, match=rf"'{limit}'.*positive.*prepo\.grading_time_limit_s=5.*PREPO_GRADING_TIME_LIMIT_S"
    ):
        compute_score("math", r"\boxed{1}", "1")
    assert compute_score("math", r"\boxed{1}", "1", time_limit_s=1) == RIGHT


def test_hung_grading_is_stopped_in_a_thread_and_the_next_answer_is_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREPO_GRADING_TIME_LIMIT_S", "0.3")
    compute_score("math", r"\boxed{\frac12}", "0.5")  # starts the worker before the clock runs
    with ThreadPoolExecutor(1) as pool:
        start = time.monotonic()
        assert pool.submit(compute_score, "math", HANGS, "5").result() == STOPPED
        assert time.monotonic() - start < 2
        assert pool.submit(compute_score, "math", r"\boxed{\frac12}", "0.5", time_limit_s=5).result() == RIGHT


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
    start = time.monotonic()
    assert compute_score("math", response, "5") == WRONG
    assert time.monotonic() - start < 3


def test_many_threads_of_an_event_loop_get_their_own_results() -> None:
    async def grade_all() -> list[dict[str, float]]:
        loop = asyncio.get_running_loop()
        cases = [(rf"\boxed{{\frac{{{i}}}{{7}}}}", rf"\frac{{{2 * i}}}{{{14 + i % 2}}}") for i in range(1, 25)]
        return await asyncio.gather(*(loop.run_in_executor(None, compute_score, "math", a, g) for a, g in cases))

    assert [r["score"] for r in asyncio.run(grade_all())] == [float(i % 2 == 0) for i in range(1, 25)]
