"""bfloat16 against float32 with a real model: prompt scores, windows, rollout entropies, weights.

``python -m benchmarks.precision --model DIR --data PARQUET --samples samples.jsonl [--prompts N]``, where samples.jsonl
is what ``python -m recipe.prepo.analyze`` wrote of the same data. Prints a table of errors.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.gpu_numerics import num_chosen_changed
from recipe.prepo.maths.perplexity import perplexity
from recipe.prepo.rules.weighting.relative_entropy import relative_entropy_weights
from recipe.prepo.tools.stats import spearman


def measure(model: Any, token_ids: Sequence[list[int]], starts: Sequence[int], softmax_dtype: Any) -> np.ndarray:
    """Of each sequence: mean negative log-probability and mean entropy in nats of the tokens from ``start``, [N, 2]."""
    import torch

    found = []
    with torch.inference_mode():
        for ids, start in zip(token_ids, starts, strict=True):
            tokens = torch.tensor([ids])
            logits = model(input_ids=tokens, use_cache=False).logits[0, start - 1 : -1].to(softmax_dtype)
            log_probs = logits.log_softmax(-1)
            nll = -log_probs.gather(-1, tokens[0, start:, None]).double().mean()
            entropy = (logits.logsumexp(-1) - (logits.softmax(-1) * logits).sum(-1)).double().mean()
            found.append((float(nll), float(entropy)))
    return np.array(found)


def main(argv: Sequence[str] | None = None) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=200)
    arguments = parser.parse_args(argv)

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    messages = {row.extra_info["prompt_id"]: list(row.prompt) for row in pd.read_parquet(arguments.data).itertuples()}
    samples = [json.loads(line) for line in arguments.samples.read_text(encoding="utf-8").splitlines()]
    ids = sorted({sample["prompt_id"] for sample in samples})[: arguments.prompts]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
    prompts = {i: list(tokenizer.apply_chat_template(messages[i], **options)) for i in ids}
    one_each = {sample["prompt_id"]: sample["text"] for sample in samples if sample["text"].strip()}
    rollouts = [prompts[i] + tokenizer(one_each[i])["input_ids"] for i in ids if i in one_each]
    starts = [len(prompts[i]) for i in ids if i in one_each]

    found = {}
    for name, dtype, softmax in (
        ("float32", torch.float32, torch.float32),
        ("bfloat16", torch.bfloat16, torch.float32),
        ("bfloat16, softmax too", torch.bfloat16, torch.bfloat16),
    ):
        model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype).eval()
        scores = measure(model, list(prompts.values()), [1] * len(prompts), softmax)[:, 0]
        found[name] = scores, measure(model, rollouts, starts, softmax)[:, 1]
    scores, entropies = found["float32"]
    weights = relative_entropy_weights(entropies)
    num_selected = len(ids) // 5
    print(f"{len(ids)} prompts, {len(rollouts)} rollouts, mean rollout entropy {entropies.mean():.3f} nats")
    for name, (nll, entropy) in list(found.items())[1:]:
        changed = [*num_chosen_changed(perplexity(nll), perplexity(scores), num_selected).values()]
        error = np.abs(relative_entropy_weights(entropy) - weights)
        print(
            f"{name}: score error {np.abs(nll - scores).mean():.4f} nats (largest {np.abs(nll - scores).max():.4f}), "
            f"rank correlation {spearman(nll, scores):.5f}, changed of {num_selected} chosen {changed}; "
            f"entropy error {np.abs(entropy - entropies).mean():.4f} nats (bias {(entropy - entropies).mean():+.4f}), "
            f"weight error {error.mean():.4f} (largest {error.max():.4f})"
        )


if __name__ == "__main__":
    main()
