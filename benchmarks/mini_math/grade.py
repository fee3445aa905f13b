"""Grading of sampled responses, and pass rates by many of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.mini_math.policy import Responses, TokenIds, generate
from data_prep.mini_math.passrate import MAX_RESPONSE_TOKENS
from data_prep.mini_math.task import extract_answer
from recipe.prepo.types import FloatArray, IntArray


class Prompt(NamedTuple):
    """One problem as the loop needs it."""

    prompt_id: str
    question: str
    answer: int


def grade(tokenizer: PreTrainedTokenizerBase, responses: Responses, answers_R: Sequence[int]) -> FloatArray:
    """1 for responses that end by themselves in the correct answer, else 0; shape [R]."""
    token_ids = responses.token_ids()
    ended = [ids[-1] == tokenizer.eos_token_id for ids in token_ids]
    texts = tokenizer.batch_decode([ids[:-1] for ids in token_ids])
    return np.array(
        [
            float(end and extract_answer(text) == answer)
            for end, text, answer in zip(ended, texts, answers_R, strict=True)
        ]
    )


def count_correct(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[TokenIds],
    answers_P: Sequence[int],
    *,
    num_samples: int,
    generator: torch.Generator,
) -> IntArray:
    """Right answers of each prompt among ``num_samples`` at temperature 1, shape [P]."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # batches of like lengths need less padding
    per_call = max(1, 512 // num_samples)
    correct_P = np.zeros(len(prompts), dtype=np.int64)
    for first in range(0, len(order), per_call):
        chosen = order[first : first + per_call]
        responses = generate(
            model,
            [prompts[i] for i in chosen],
            [num_samples] * len(chosen),
            temperature=1.0,
            max_tokens=MAX_RESPONSE_TOKENS,
            eos_id=int(tokenizer.eos_token_id),
            generator=generator,
        )
        answers = [answers_P[i] for i in chosen for _ in range(num_samples)]
        correct_P[chosen] = grade(tokenizer, responses, answers).reshape(len(chosen), num_samples).sum(1)
    return correct_P
