"""Measure a model on mini-math: pass rates by difficulty cell, and their correlation with prompt perplexity.

python -m data_prep.mini_math.passrate --model assets/mini-math-qwen2 --num-prompts 300 --num-samples 16
"""

from __future__ import annotations

import argparse
import math
import pathlib
from collections.abc import Sequence
from typing import Any, get_args

import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from data_prep.mini_math.task import TASKS, Problem, Split, extract_answer, sample_pool
from recipe.prepo.errors import DataError

MAX_RESPONSE_TOKENS = 48
_PROMPTS_PER_BATCH = 50


def encode_prompts(tokenizer: PreTrainedTokenizerBase, questions: Sequence[str]) -> list[list[int]]:
    """Token ids of each question in the chat template, up to the start of the assistant's answer."""
    conversations = [[{"role": "user", "content": question}] for question in questions]
    ids: Any = tokenizer.apply_chat_template(conversations, add_generation_prompt=True, return_dict=False)
    return ids


@torch.inference_mode()
def prompt_perplexities(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> list[float]:
    """exp of the mean negative log-likelihood of each prompt's tokens after the first."""
    perplexities = []
    for ids in prompts:
        tokens = torch.tensor([list(ids)], device=model.device)
        nll_nats = torch.nn.functional.cross_entropy(model(input_ids=tokens).logits[0, :-1].float(), tokens[0, 1:])
        perplexities.append(math.exp(nll_nats.item()))
    return perplexities


@torch.inference_mode()
def sample_passes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    *,
    num_samples: int,
    greedy: bool = False,
) -> torch.Tensor:
    """Sample responses at temperature 1, or decode greedily; True if correct, shape (len(problems), num_samples).

    A correct response ends within the token limit, and its final answer is the problem's.
    """
    passes = []
    for first in range(0, len(problems), _PROMPTS_PER_BATCH):
        batch = problems[first : first + _PROMPTS_PER_BATCH]
        prompts = encode_prompts(tokenizer, [problem.question for problem in batch])
        padded = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(model.device)
        generate: Any = model.generate  # nn.Module's attribute lookup types it as a tensor
        sequences = generate(
            **padded,
            do_sample=not greedy,
            temperature=None if greedy else 1.0,
            top_k=None if greedy else 0,
            top_p=None if greedy else 1.0,
            num_return_sequences=num_samples,
            max_new_tokens=MAX_RESPONSE_TOKENS,
        )
        responses = tokenizer.batch_decode(sequences[:, padded["input_ids"].shape[1] :])
        answers = [problem.answer for problem in batch for _ in range(num_samples)]
        correct = [_is_correct(response, answer) for response, answer in zip(responses, answers, strict=True)]
        passes.append(torch.tensor(correct).view(len(batch), num_samples))
    return torch.cat(passes)


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], *, num_samples: int
) -> pd.DataFrame:
    """One row for each problem: num_ops, scale, prompt_tokens, perplexity, pass_rate and greedy (0 or 1)."""
    prompts = encode_prompts(tokenizer, [problem.question for problem in problems])
    sampled = sample_passes(model, tokenizer, problems, num_samples=num_samples)
    greedy = sample_passes(model, tokenizer, problems, num_samples=1, greedy=True)
    return pd.DataFrame(
        {
            "num_ops": [problem.num_ops for problem in problems],
            "scale": [problem.scale for problem in problems],
            "prompt_tokens": [len(ids) for ids in prompts],
            "perplexity": prompt_perplexities(model, prompts),
            "pass_rate": sampled.float().mean(dim=1).tolist(),
            "greedy": greedy[:, 0].float().tolist(),
        }
    )


def report(table: pd.DataFrame) -> str:
    """Markdown summary of :func:`measure`'s table."""
    ranks = table[["perplexity", "pass_rate"]].rank()  # Spearman's rho is Pearson's on ranks.
    tokens, rates = table["prompt_tokens"], table["pass_rate"]
    lines = [
        f"- prompts: {len(table)}, {tokens.mean():.1f} tokens on average, {tokens.max()} at most",
        f"- mean pass rate: {rates.mean():.3f} sampled, {table['greedy'].mean():.3f} greedy",
        f"- never solved: {(rates == 0).mean():.3f}, always solved: {(rates == 1).mean():.3f}",
        f"- Spearman(perplexity, pass rate): {ranks['perplexity'].corr(ranks['pass_rate']):.3f}",
    ]
    scales = sorted(table["scale"].unique())
    lines += ["", "Mean pass rate / mean prompt perplexity by cell:", ""]
    lines += ["| operations | " + " | ".join(f"operands to {scale}" for scale in scales) + " |"]
    lines += ["|---" * (len(scales) + 1) + "|"]
    cells = table.groupby(["num_ops", "scale"])[["pass_rate", "perplexity"]].mean()
    for num_ops in sorted(table["num_ops"].unique()):
        values = [cells.loc[(num_ops, scale)] for scale in scales]
        lines.append(f"| {num_ops} | " + " | ".join(f"{v.pass_rate:.2f} / {v.perplexity:.2f}" for v in values) + " |")
    return "\n".join(lines)


def _is_correct(response: str, answer: int) -> bool:
    text, ended, _ = response.partition("<|im_end|>")
    return bool(ended) and extract_answer(text) == answer


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a model's pass rates on mini-math.")
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--task", choices=TASKS, default="words")
    parser.add_argument("--split", choices=get_args(Split), default="test")
    parser.add_argument("--num-prompts", type=int, default=300)
    parser.add_argument("--num-samples", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if not (args.model / "config.json").is_file():
        parser.error(
            f"--model {args.model} has no model (no config.json); make one with "
            f"`python -m data_prep.mini_math.pretrain --out {args.model}`"
        )
    if args.num_samples < 1:
        parser.error(f"--num-samples {args.num_samples}: give at least 1")
    try:
        problems = sample_pool(args.num_prompts, split=args.split, seed=args.seed, task=args.task)
    except DataError as error:
        parser.error(f"--num-prompts: {error}")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    print(report(measure(model, tokenizer, problems, num_samples=args.num_samples)))


if __name__ == "__main__":
    main()
