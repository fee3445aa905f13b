"""Prefill that scoring saves in later rollouts: ``python -m benchmarks.prefix_cache [--rounds N]``.

vLLM keeps the key-value blocks of a scored prompt, so that its rollouts need not compute them again. Rounds with and
without scoring alternate over fresh prompts. The server counts the prompt tokens that it found in its cache.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from benchmarks.real_stack import run_on_stack, seconds
from benchmarks.results import write_results

BLOCK_SIZE = 16  # vLLM's on a GPU; on a CPU it takes 128, longer than the tiny model's prompts
NUM_CHOSEN, GROUP_SIZE = 32, 8
OVERRIDES = [
    "experiment=tiny_cpu",
    "trainer.default_local_dir=outputs/bench/runs/prefix_cache",
    "trainer.resume_mode=disable",
    "prepo.audit=false",
    f"data.train_batch_size={NUM_CHOSEN}",
    f"actor_rollout_ref.actor.ppo_mini_batch_size={NUM_CHOSEN}",
    "actor_rollout_ref.rollout.disable_log_stats=false",
    f"+actor_rollout_ref.rollout.engine_kwargs.vllm.block_size={BLOCK_SIZE}",
]
QUERIES, HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"


def counters(address: str) -> dict[str, float]:
    """Prompt tokens that the server looked up in its prefix cache and found there, since it started."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return {
        name: sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))
        for name in (QUERIES, HITS)
    }


def measure(num_rounds: int) -> Any:
    """The function that runs in the trainer's process."""

    def body(trainer: Any, _agent_loop_manager: Any) -> dict[str, Any]:
        from verl.trainer.ppo.v1 import PPOTrainerSync

        from recipe.prepo.trainer import columns
        from recipe.prepo.trainer.prompt_scoring import RolloutScorer

        trainer.global_steps = 1
        client = trainer.get_llm_client()
        scorer = RolloutScorer(lambda: client)
        addresses = trainer.llm_server_manager.server_addresses

        async def roll_out(prompts: list[list[int]]) -> None:
            sampling = {"max_tokens": 1, "temperature": 1.0}
            await asyncio.gather(
                *(
                    client.generate(request_id=uuid.uuid4().hex, prompt_ids=prompt, sampling_params=dict(sampling))
                    for prompt in prompts
                    for _ in range(GROUP_SIZE)
                )
            )

        def one(is_scored: bool) -> dict[str, float]:
            batch = PPOTrainerSync._next_train_batch(trainer, trainer.prepo.num_candidates)
            prompts = [trainer._tokenize(messages) for messages in columns.messages_of(batch)]
            if is_scored:
                scorer(prompts)
            chosen = prompts[:NUM_CHOSEN]
            before = [counters(address) for address in addresses]
            spent = seconds(lambda: asyncio.run(roll_out(chosen)))
            after = [counters(address) for address in addresses]
            looked_up, found = (
                sum(b[name] - a[name] for a, b in zip(before, after, strict=True)) for name in (QUERIES, HITS)
            )
            return {
                "seconds": spent,
                "prompt_tokens": GROUP_SIZE * sum(map(len, chosen)),
                "looked_up": looked_up,
                "computed": looked_up - found,
            }

        for is_scored in (False, True):
            one(is_scored)
        rounds: dict[str, list[dict[str, float]]] = {"not scored": [], "scored": []}
        for number in range(num_rounds):
            for name in list(rounds) if number % 2 == 0 else list(rounds)[::-1]:
                rounds[name].append(one(name == "scored"))
        return rounds

    return body


def table(rounds: dict[str, list[dict[str, float]]]) -> str:
    """Prompt tokens that the rollouts had to compute, with and without scoring before them."""
    some = rounds["scored"]
    mean_tokens = statistics.fmean(figures["prompt_tokens"] for figures in some) / NUM_CHOSEN / GROUP_SIZE
    lines = [
        f"{NUM_CHOSEN} prompts x {GROUP_SIZE} rollouts of one token each, {len(some)} alternated rounds, cache blocks "
        f"of {BLOCK_SIZE} tokens, prompts of {mean_tokens:.1f} tokens",
        "",
        "| before the rollouts | prompt tokens | computed (mean) | share | seconds (min, median, max) |",
        "|---|---|---|---|---|",
    ]
    for name, figures in rounds.items():
        tokens = statistics.fmean(r["prompt_tokens"] for r in figures)
        computed = statistics.fmean(r["computed"] for r in figures)
        times = [r["seconds"] for r in figures]
        lines.append(
            f"| {name} | {tokens:,.0f} | {computed:,.0f} | {computed / tokens:.1%} | "
            f"{min(times):.3f}, {statistics.median(times):.3f}, {max(times):.3f} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    arguments, overrides = parser.parse_known_args(argv)
    rounds = run_on_stack([*OVERRIDES, *overrides], measure(arguments.rounds))
    write_results(arguments.out, "prefix_cache", rounds, table(rounds))
    print(table(rounds))


if __name__ == "__main__":
    main()
