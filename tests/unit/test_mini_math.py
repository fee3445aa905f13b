"""Mini-math: the generator and its data files."""

import itertools
import random
import re

import pandas as pd
import pytest

from data_prep.mini_math.task import (
    CELLS,
    TASKS,
    CorpusStyle,
    extract_answer,
    sample_corpus_document,
    sample_pool,
    split_of,
    worked_solution,
)


@pytest.mark.parametrize("task", TASKS)
def test_pool_is_even_and_without_repeats_and_its_answers_are_those_of_the_question(task):
    problems = sample_pool(10 * len(CELLS), split="dev", seed=0, task=task)
    counts = pd.Series([(problem.num_ops, problem.scale) for problem in problems]).value_counts()
    assert counts.to_dict() == dict.fromkeys(CELLS, 10)
    for name in ("question", "prompt_id"):
        assert len({getattr(problem, name) for problem in problems}) == len(problems)
    for problem in problems:
        expected = _evaluate_words(problem.question) if task == "words" else _evaluate_expression(problem.question)
        assert problem.answer == extract_answer(worked_solution(problem)) == expected, problem.question


def _evaluate_expression(question):
    """`x = 5, +7, *2, x = ?` by nesting parentheses and letting Python evaluate them."""
    first, *operations, last = question.split(", ")
    variable, expression = first.split(" = ")
    assert last == f"{variable} = ?"
    for operation in operations:
        expression = f"({expression}{operation})"
    return eval(expression, {"__builtins__": {}})


def _evaluate_words(question):
    """The story read sentence by sentence through its verbs, not through the generator's steps."""
    opening, *sentences, _ = re.findall(r"[^.?]+[.?]", question)
    (value,) = map(int, re.findall(r"\d+", opening))
    for sentence in sentences:
        numbers = [int(number) for number in re.findall(r"\d+", sentence)]
        if "friends" in sentence:
            value += numbers[0] * numbers[1]
        elif factor := re.search("doubles|triples", sentence):
            value *= 2 if factor[0] == "doubles" else 3
        elif re.search(r"loses|takes|sells|runs off|borrows", sentence):
            value -= numbers[0]
        else:
            assert re.search(r"buys|brings|finds|hands over|mails", sentence), sentence
            value += numbers[0]
        assert value >= 0
    return value


def test_no_question_is_in_two_splits_and_the_corpus_holds_no_held_out_question():
    rng = random.Random(0)
    sizes = {"train": 600, "test": 300, "dev": 300}
    questions = {name: {p.question for p in sample_pool(size, split=name, seed=1)} for name, size in sizes.items()}
    for first, second in itertools.combinations(questions, 2):
        assert not questions[first] & questions[second]
    corpus = {sample_corpus_document(rng, CorpusStyle())[0] for _ in range(2000)}
    assert {split_of(question) for question in corpus} == {"train"}
    assert {split_of(question) for question in questions["dev"]} == {"dev"}
