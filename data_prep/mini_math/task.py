"""Mini-math: verifiable arithmetic problems of graded, known difficulty.

A problem is a chain of one to four operations on small integers, as a story (task ``words``) or a running calculation
(task ``expressions``). There are twelve difficulty cells: number of operations times operand scale. The shipped base
model solves the easiest nearly always and the hardest nearly never. Names, items and phrasings follow long-tailed
(Zipf) distributions, so some questions are more surprising than others.

Everything is drawn from a seeded ``random.Random``. A question's text decides its split (:func:`split_of`), so held-out
questions are never in the training pool or the pre-training corpus, whatever the seeds.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import random
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeVar, get_args

from data_prep.mini_math import phrases
from recipe.prepo.errors import ConfigError, DataError

Task = Literal["words", "expressions"]
Split = Literal["train", "test", "dev"]
TASKS: tuple[Task, ...] = get_args(Task)

SCALES = (6, 14, 40)
"""Largest operand of a cell."""
MAX_OPS = 4
MAX_VALUE = 400
"""Every intermediate result lies in 0..MAX_VALUE."""
CELLS: tuple[tuple[int, int], ...] = tuple(itertools.product(range(1, MAX_OPS + 1), SCALES))
"""The twelve difficulty cells, as (number of operations, operand scale)."""

_OPERATIONS = ("add", "subtract", "double", "friends", "triple")
_CORPUS_OPERATION_WEIGHTS = (0.45, 0.33, 0.10, 0.07, 0.05)
_POOL_OPERATION_WEIGHTS = (0.34, 0.28, 0.16, 0.12, 0.10)
_CORPUS_NUM_OPS_WEIGHTS = (0.36, 0.28, 0.20, 0.16)
_CORPUS_SCALE_WEIGHTS = (0.45, 0.30, 0.25)
_MAX_TRIES = 3_000
_ANSWER = re.compile(r"#### (\d+)\Z")

T = TypeVar("T")


class Step(NamedTuple):
    """One operation and the running result after it."""

    operation: str
    """``+7``, ``-3``, ``*2``, ``*3`` or ``+3*4`` (three times four is added)."""
    result: int


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """A question, its chain of operations, and the operand scale of its cell."""

    question: str
    start: int
    steps: tuple[Step, ...]
    scale: int

    @property
    def answer(self) -> int:
        return self.steps[-1].result

    @property
    def num_ops(self) -> int:
        return len(self.steps)

    @property
    def prompt_id(self) -> str:
        """Stable identity of the question: a digest of its text."""
        return f"mini_math-{_digest(self.question)[:16]}"


@dataclasses.dataclass(frozen=True, slots=True)
class CorpusStyle:
    """How the pre-training corpus writes solutions.

    The base model imitates it, slips included. Slips lower its accuracy when it is sampled, but hardly when it decodes
    greedily. RL can gain that difference.
    """

    direct_frac: float = 0.35
    """Share of solutions that give the answer without steps."""
    slip_frac: float = 0.20
    """Probability that a step is incorrect or skipped, or that a direct answer is incorrect."""
    expressions_frac: float = 0.2
    """Share of documents that pose a running calculation instead of a word problem."""
    careful_up_to_ops: int = 0
    """Problems of at most this many operations are solved step by step, without slips."""

    def __post_init__(self) -> None:
        for name in ("direct_frac", "slip_frac", "expressions_frac"):
            if not 0.0 <= (value := getattr(self, name)) <= 1.0:
                raise ConfigError(f"{name} is {value}, but it is a share of documents or steps; give 0 to 1")


def split_of(question: str) -> Split:
    """Split of a question: 1/8 test, 1/16 dev (for tuning), the rest train; a function of the text alone.

    >>> split_of("Tom has 5 apples. Tom buys 7 more. What is the total?") == split_of(
    ...     "Tom has 5 apples. Tom buys 7 more. What is the total?"
    ... )
    True
    """
    bucket = int(_digest(question)[-1], 16)
    if bucket < 2:
        return "test"
    return "dev" if bucket == 2 else "train"


def extract_answer(response: str) -> int | None:
    """Integer after the closing ``####``; None if the response does not end in one.

    >>> extract_answer("5 +7=12 -3=9 #### 9")
    9
    >>> extract_answer("5 +7=12 #### ") is None
    True
    """
    match = _ANSWER.search(response.rstrip())
    return int(match.group(1)) if match else None


def worked_solution(problem: Problem) -> str:
    """Correct step-by-step solution.

    >>> worked_solution(Problem("", start=5, steps=(Step("+7", 12), Step("-3", 9)), scale=14))
    '5 +7=12 -3=9 #### 9'
    """
    return _render(problem.start, problem.steps, problem.answer)


def sample_problem(
    rng: random.Random,
    *,
    num_ops: int,
    scale: int,
    task: Task = "words",
    rarity: float = 0.0,
    operation_weights: Sequence[float] = _CORPUS_OPERATION_WEIGHTS,
) -> Problem:
    """Draw one problem of a difficulty cell.

    ``rarity`` in [0, 1] flattens the Zipf distribution over phrasings: 0 is the corpus, 1 is uniform.
    """
    start = rng.randint(max(2, scale // 4), scale)
    names = [phrases.NAMES[i] for i in _distinct_zipf_pair(rng, len(phrases.NAMES))]
    words = {"name": names[0], "other": names[1], "item": _zipf_choice(rng, phrases.ITEMS, 1.0)}
    exponent = 1.3 * (1.0 - rarity)
    sentences = [_zipf_choice(rng, phrases.OPENINGS, exponent).format(start=start, **words)]
    steps: list[Step] = []
    value = start
    for _ in range(num_ops):
        operation, step, operands = _sample_step(rng, value, scale, operation_weights)
        sentences.append(_zipf_choice(rng, phrases.OPERATIONS[operation], exponent).format(**operands, **words))
        steps.append(step)
        value = step.result
    sentences.append(_zipf_choice(rng, phrases.QUESTIONS, 1.0 - rarity).format(**words))
    variable = rng.choice(phrases.VARIABLES)
    question = " ".join(sentences) if task == "words" else _running_calculation(variable, start, steps)
    return Problem(question, start, tuple(steps), scale)


def sample_pool(num_problems: int, *, split: Split, seed: int, task: Task = "words") -> list[Problem]:
    """Draw ``num_problems`` problems with distinct questions, all of one split, evenly over the difficulty cells.

    Raises:
        DataError: ``num_problems`` is below 1, or a cell has too few distinct questions.
    """
    if num_problems < 1:
        raise DataError(f"{num_problems} {task} problems were requested for the {split} split; ask for at least 1")
    # A string seed is hashed with SHA-512 by random.Random: the same on every machine and Python version.
    rng = random.Random(f"mini_math/{task}/{split}/{seed}")
    seen: set[str] = set()
    problems: list[Problem] = []
    for num_ops, scale in itertools.islice(itertools.cycle(CELLS), num_problems):
        for _ in range(_MAX_TRIES):
            problem = sample_problem(
                rng,
                num_ops=num_ops,
                scale=scale,
                task=task,
                rarity=rng.random(),
                operation_weights=_POOL_OPERATION_WEIGHTS,
            )
            if problem.question not in seen and split_of(problem.question) == split:
                break
        else:
            raise DataError(
                f"{num_problems} {task} problems for the {split} split need more distinct questions of {num_ops} "
                f"operation(s) with operands up to {scale} than exist; ask for fewer"
            )
        seen.add(problem.question)
        problems.append(problem)
    rng.shuffle(problems)
    return problems


def sample_corpus_document(rng: random.Random, style: CorpusStyle) -> tuple[str, str]:
    """Draw one (question, solution) document of the pre-training corpus; its question is in the train split."""
    while True:
        task: Task = "expressions" if rng.random() < style.expressions_frac else "words"
        num_ops = _weighted_choice(rng, range(1, MAX_OPS + 1), _CORPUS_NUM_OPS_WEIGHTS)
        scale = _weighted_choice(rng, SCALES, _CORPUS_SCALE_WEIGHTS)
        problem = sample_problem(rng, num_ops=num_ops, scale=scale, task=task)
        if split_of(problem.question) == "train":
            return problem.question, _sample_solution(rng, problem, style)


def apply_operation(value: int, operation: str) -> int:
    """Result of one operation.

    >>> apply_operation(5, "+3*4")
    17
    """
    left, _, right = operation[1:].partition("*")
    operand = int(left) * int(right or 1)
    return {"+": value + operand, "-": value - operand, "*": value * operand}[operation[0]]


def _sample_solution(rng: random.Random, problem: Problem, style: CorpusStyle) -> str:
    """A solution in the corpus's style: step by step or direct, and sometimes incorrect."""
    is_careful = len(problem.steps) <= style.careful_up_to_ops
    direct_frac, slip_frac = (0.0, 0.0) if is_careful else (style.direct_frac, style.slip_frac)
    if rng.random() < direct_frac:
        slip = rng.randint(-5, 5) if rng.random() < slip_frac else 0
        return f"#### {max(0, problem.answer + slip)}"
    value = problem.start
    steps: list[Step] = []
    for operation, _ in problem.steps:
        result = apply_operation(value, operation)
        if rng.random() < slip_frac:
            if rng.random() < 0.3:
                continue
            result += rng.choice((-10, -2, -1, 1, 2, 10))
        value = max(0, result)
        steps.append(Step(operation, value))
    return _render(problem.start, steps, value)


def _render(start: int, steps: Sequence[Step], answer: int) -> str:
    chain = "".join(f" {operation}={result}" for operation, result in steps)
    return f"{start}{chain} #### {answer}"


def _running_calculation(variable: str, start: int, steps: Sequence[Step]) -> str:
    """``x = 5, +7, *2, x = ?``: the commas show that operations apply one after the other, from left to right."""
    return ", ".join([f"{variable} = {start}", *(operation for operation, _ in steps), f"{variable} = ?"])


def _sample_step(
    rng: random.Random, value: int, scale: int, operation_weights: Sequence[float]
) -> tuple[str, Step, dict[str, int]]:
    """Draw an operation whose result stays in range: its name, the step, and the operands for its sentence."""
    while True:
        name = _weighted_choice(rng, _OPERATIONS, operation_weights)
        operand, operands = rng.randint(max(2, scale // 4), scale), {}
        if name == "subtract":
            if value < 2:
                continue
            operand = rng.randint(1, min(scale, value))
        if name in ("add", "subtract"):
            symbol, operands = f"{'+' if name == 'add' else '-'}{operand}", {"amount": operand}
        elif name == "friends":
            operands = {"friends": rng.randint(2, 4), "amount": rng.randint(2, 9)}
            symbol = f"+{operands['friends']}*{operands['amount']}"
        else:
            symbol = "*2" if name == "double" else "*3"
        result = apply_operation(value, symbol)
        if 0 <= result <= MAX_VALUE:
            return name, Step(symbol, result), operands


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _zipf_cumulative_weights(num: int, exponent: float) -> list[float]:
    return list(itertools.accumulate(rank**-exponent for rank in range(1, num + 1)))


def _zipf_choice(rng: random.Random, options: Sequence[T], exponent: float) -> T:
    """Draw with probability proportional to rank**-exponent, the exponent rounded to tenths (for the cache)."""
    return rng.choices(options, cum_weights=_zipf_cumulative_weights(len(options), round(exponent, 1)))[0]


def _distinct_zipf_pair(rng: random.Random, num: int) -> tuple[int, int]:
    first = second = _zipf_choice(rng, range(num), 1.0)
    while second == first:
        second = _zipf_choice(rng, range(num), 1.0)
    return first, second


def _weighted_choice(rng: random.Random, options: Sequence[T], weights: Sequence[float]) -> T:
    return rng.choices(options, weights=weights)[0]
