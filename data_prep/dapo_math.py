"""DAPO-Math-17k (Yu et al., arXiv 2503.14476), in the forms in which it is published.

The original repeats each problem 100 times, inside its own instruction. GRESO's copy (Zheng et al., arXiv 2506.02177)
has each problem about once, inside another instruction. A processed copy has the bare problem as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_prep.spec import DatasetSpec, Problem, first_field, text_or_none
from recipe.prepo.errors import DataError

WRAPPINGS = {
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


def to_problem(row: Mapping[str, Any]) -> Problem:
    """Remove the instruction around the problem."""
    reward_model = first_field(row, "reward_model")
    source_id = (row.get("extra_info") or {}).get("index")
    return Problem(_question(first_field(row, "prompt")), str(reward_model["ground_truth"]), text_or_none(source_id))


def _question(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    users = [message["content"] for message in prompt if message["role"] == "user"]
    if len(users) != 1:
        raise DataError(f"the prompt has {len(users)} user messages where one is expected")
    for prefix, suffix in WRAPPINGS.values():
        if users[0].startswith(prefix) and users[0].endswith(suffix):
            return users[0][len(prefix) : -len(suffix)]
    raise DataError(f"the prompt has none of the known instructions around the problem: {users[0][:60]!r}…")


SPEC = DatasetSpec("dapo_math", "BytedTsinghua-SIA/DAPO-Math-17k", {"train": "train"}, to_problem)
