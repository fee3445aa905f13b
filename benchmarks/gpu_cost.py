"""Scoring |B| prompts beside generating K x M rollouts, with transformers and with vLLM. Part of ``gpu_check``."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_numerics import SEED, Size, allocated_gib, model_config, random_model, random_prompts
from recipe.prepo.maths.rng import make_generator

SCORING_CHUNK_TOKENS = 4800
VLLM_MEMORY_FRAC = 0.7
Prompts = NDArray[np.int64]


def time_alternated(
    size: Size, rounds: int, sides: Mapping[str, Callable[[Prompts], int]], used_gib: Callable[[], float]
) -> dict[str, Any]:
    """Seconds of each side on fresh prompts, alternated; a side returns the number of its tokens."""
    rng = make_generator(SEED, "cost")
    num_prompts = {"scoring": size.num_candidates, "generating": size.num_selected}
    result: dict[str, Any] = {name: {"seconds": [], "peak_memory_gib": 0.0} for name in sides}
    for number in range(-1, rounds):  # round -1 warms both sides up
        for name in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            prompts = random_prompts(rng, size, num_prompts[name])
            start = time.perf_counter()
            num_tokens = sides[name](prompts)
            spent, row = time.perf_counter() - start, result[name]
            if number >= 0:
                row["seconds"].append(spent)
            row |= {"num_tokens": num_tokens, "peak_memory_gib": max(row["peak_memory_gib"], used_gib())}
    for row in result.values():
        row["median_s"] = statistics.median(row["seconds"])
        row["tokens_per_s"] = row["num_tokens"] / row["median_s"]
    pairs = zip(result["scoring"]["seconds"], result["generating"]["seconds"], strict=True)
    ratios = [scoring / generating for scoring, generating in pairs]
    share = {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)}
    return result | {"scoring_over_generating": share}


def measure_transformers(size: Size, device: str, rounds: int) -> dict[str, Any]:
    """Plain transformers in bf16: prompts are scored in chunks, rollouts sampled in batches that fit."""
    import torch
    from transformers import GenerationConfig

    model = random_model(size, device)
    # HF samples from the 50 likeliest tokens by default.
    sampling = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, max_new_tokens=size.response_tokens, pad_token_id=0
    )
    batch = generation_batch(size, device)

    def scoring(prompts: Prompts) -> int:
        num_tokens = 0
        for rows in torch.as_tensor(prompts).split(max(1, SCORING_CHUNK_TOKENS // size.prompt_tokens)):
            rows = rows.to(device)
            logits = model(input_ids=rows, use_cache=False).logits[:, :-1].float()
            log_probs = logits.gather(-1, rows[:, 1:, None])[..., 0] - logits.logsumexp(-1)
            num_tokens += log_probs.cpu().shape[0] * size.prompt_tokens
        return num_tokens

    def generating(prompts: Prompts) -> int:
        num_tokens = 0
        for rows in torch.as_tensor(prompts).repeat_interleave(size.rollouts_per_prompt, dim=0).split(batch):
            rows = rows.to(device)
            output = model.generate(rows, attention_mask=torch.ones_like(rows), generation_config=sampling).cpu()
            num_tokens += output[:, size.prompt_tokens :].numel()
        return num_tokens

    with torch.inference_mode():
        sides = {"scoring": scoring, "generating": generating}
        timed = time_alternated(size, rounds, sides, lambda: allocated_gib(device))
    memory = "allocated by torch" if device == "cuda" else "resident, the whole process so far"
    return timed | {"peak_memory_is": memory, "generation_batch": batch}


def generation_batch(size: Size, device: str) -> int:
    """Rollouts that fit into 70% of the free memory: their keys and values, float32 logits, prefill activations."""
    import torch

    total = size.num_selected * size.rollouts_per_prompt
    if device == "cpu":
        return total
    kv_size = size.hidden_size // size.num_attention_heads * size.num_key_value_heads
    num_tokens = size.prompt_tokens + size.response_tokens
    caches = 2 * 2 * size.num_hidden_layers * kv_size * num_tokens
    per_rollout = caches + 6 * 4 * size.vocab_size + 4 * 2 * size.prompt_tokens * size.intermediate_size
    return max(1, min(total, int(0.7 * torch.cuda.mem_get_info()[0] / per_rollout)))


def measure_vllm(size: Size, _device: str, rounds: int) -> dict[str, Any]:
    """vLLM's LLM class with dummy weights; scoring sends the requests of ``prepo.scorer=rollout``."""
    import torch
    from vllm import LLM, SamplingParams

    num_rollouts, num_tokens = size.rollouts_per_prompt, size.response_tokens
    one = SamplingParams(max_tokens=1, temperature=1.0, prompt_logprobs=0, detokenize=False)
    many = SamplingParams(n=num_rollouts, max_tokens=num_tokens, ignore_eos=True, temperature=1.0, detokenize=False)

    def answers(prompts: Prompts, sampling: Any) -> Any:
        return llm.generate([{"prompt_token_ids": row} for row in prompts.tolist()], sampling, use_tqdm=False)

    def scoring(prompts: Prompts) -> int:
        return sum(len(answer.prompt_logprobs) for answer in answers(prompts, one))

    def generating(prompts: Prompts) -> int:
        return sum(len(rollout.token_ids) for answer in answers(prompts, many) for rollout in answer.outputs)

    def used_gib() -> float:
        free, total = torch.cuda.mem_get_info()
        return (total - free) / 2**30

    with tempfile.TemporaryDirectory() as folder:
        model_config(size).save_pretrained(folder)
        llm = LLM(
            folder,
            skip_tokenizer_init=True,
            load_format="dummy",
            dtype="bfloat16",
            gpu_memory_utilization=VLLM_MEMORY_FRAC,
            max_model_len=size.prompt_tokens + num_tokens,
            max_num_seqs=size.num_selected * num_rollouts,
        )
        timed = time_alternated(size, rounds, {"scoring": scoring, "generating": generating}, used_gib)
    return timed | {"peak_memory_is": f"in use on the GPU; vLLM takes {VLLM_MEMORY_FRAC:.0%} of it whatever it needs"}
