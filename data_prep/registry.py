"""The public data sets that ``python -m data_prep`` knows, by name, and how a row of each becomes a problem.

* GSM8K (Cobbe et al., arXiv 2110.14168): grade-school word problems, with the gold answer after ``####``.
* MATH (Hendrycks et al., arXiv 2103.03874): competition problems; the gold is boxed in the solution.
* DAPO-Math-17k (Yu et al., arXiv 2503.14476), in the forms in which it is published. The original repeats each problem
  100 times, inside its own instruction. GRESO's copy (Zheng et al., arXiv 2506.02177) has each about once, inside
  another instruction. A processed copy has the bare problem as text.
* AIME 2024 and 2025, AMC 2023, MATH-500: evaluation sets with a problem, a short answer and usually an id.
* OlympiadBench (He et al., arXiv 2402.14008): the open-ended, text-only, English mathematics part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_prep.spec import DatasetSpec, Problem, first_field, text_or_none
from recipe.prepo.errors import DataError
from recipe.prepo.reward.extract import after_hashes, last_boxed

DAPO_WRAPPINGS = {
    "original": (
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "$Answer (without quotes) where $Answer is the answer to the problem.\n\n",
        '\n\nRemember to put your answer on its own line after "Answer:".',
    ),
    "greso": (
        "Please solve the following math problem: ",
        ". The assistant first thinks about the reasoning process step by step and then provides the user with the "
        "answer. Return the final answer in \\boxed{} tags, for example \\boxed{1}. Let's solve this step by step. ",
    ),
}


def from_gsm8k(row: Mapping[str, Any]) -> Problem:
    """The gold is what follows the last ``####`` of ``answer``, without thousands commas."""
    gold = after_hashes(first_field(row, "answer")) or ""
    return Problem(question=first_field(row, "question"), gold=gold.replace(",", ""))


def from_math(row: Mapping[str, Any]) -> Problem:
    r"""The gold is the last ``\boxed{…}`` (or ``\boxed 3``, ``\fbox{…}``) of ``solution``, else ``answer``."""
    boxed = last_boxed(first_field(row, "solution"))
    gold = boxed if boxed is not None else str(row.get("answer") or "")
    extra = {"level": text_or_none(row.get("level")), "subject": row.get("type") or row.get("subject")}
    question = first_field(row, "problem", "question")
    return Problem(question, gold, source_id=text_or_none(row.get("unique_id")), extra=extra)


def from_dapo(row: Mapping[str, Any]) -> Problem:
    """Remove the instruction around the problem."""
    reward_model = first_field(row, "reward_model")
    source_id = (row.get("extra_info") or {}).get("index")
    question = _unwrapped(first_field(row, "prompt"))
    return Problem(question, str(reward_model["ground_truth"]), text_or_none(source_id))


def _unwrapped(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    users = [message["content"] for message in prompt if message["role"] == "user"]
    if len(users) != 1:
        raise DataError(f"the prompt has {len(users)} user messages where one is expected")
    for prefix, suffix in DAPO_WRAPPINGS.values():
        if users[0].startswith(prefix) and users[0].endswith(suffix):
            return users[0][len(prefix) : -len(suffix)]
    raise DataError(f"the prompt has none of the known instructions around the problem: {users[0][:60]!r}…")


def from_contest(row: Mapping[str, Any]) -> Problem:
    r"""The gold is ``answer`` as written ("025" keeps its zero; the number 27.0 is "27"), else ``solution``'s box."""
    answer = row.get("answer", row.get("Answer"))
    if answer is None:
        gold = last_boxed(first_field(row, "solution", "Solution")) or ""
    elif isinstance(answer, float) and answer.is_integer():
        gold = str(int(answer))
    else:
        gold = str(answer).strip()
    source_id = next((row[key] for key in ("unique_id", "id", "ID") if row.get(key) is not None), None)
    extra = {"level": text_or_none(row.get("level")), "subject": row.get("subject")}
    return Problem(first_field(row, "problem", "Problem", "question"), gold, text_or_none(source_id), extra)


def from_olympiadbench(row: Mapping[str, Any]) -> Problem:
    """``final_answer`` is a list of one text, which may have several answers (``is_multiple_answer``)."""
    answers = first_field(row, "final_answer")
    if isinstance(answers, str):
        answers = [answers]
    if len(answers) != 1:
        raise DataError(f"final_answer has {len(answers)} entries where one is expected: {answers!r}")
    question = first_field(row, "question")
    if row.get("context"):
        question = f"{row['context']}\n{question}"
    is_multiple = row.get("is_multiple_answer")
    extra = {
        "subject": row.get("subfield"),
        "answer_type": row.get("answer_type"),
        "unit": row.get("unit"),
        "error": text_or_none(row.get("error")),
        "is_multiple_answer": None if is_multiple is None else bool(is_multiple),
    }
    return Problem(question, str(answers[0]).strip(), text_or_none(first_field(row, "id")), extra)


BOTH, TEST = {"train": "train", "test": "test"}, {"test": "test"}
OLYMPIAD = "OE_TO_maths_en_COMP"
DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        DatasetSpec("gsm8k", "openai/gsm8k", BOTH, from_gsm8k, hub_config="main"),
        DatasetSpec("math", "DigitalLearningGmbH/MATH-lighteval", BOTH, from_math),
        DatasetSpec("dapo_math", "BytedTsinghua-SIA/DAPO-Math-17k", {"train": "train"}, from_dapo),
        DatasetSpec("math500", "HuggingFaceH4/MATH-500", TEST, from_contest),
        DatasetSpec("aime24", "HuggingFaceH4/aime_2024", {"test": "train"}, from_contest),
        DatasetSpec("aime25", "math-ai/aime25", TEST, from_contest),
        DatasetSpec("amc23", "math-ai/amc23", TEST, from_contest),
        DatasetSpec("olympiadbench", "Hothan/OlympiadBench", {"test": "train"}, from_olympiadbench, OLYMPIAD),
    )
}
