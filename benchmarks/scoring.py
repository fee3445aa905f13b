"""Time to score |B| prompts, against a plain prefill of as many tokens on the same rollout server.

``python -m benchmarks.scoring [--pairs N] [key=value …]``. Pairs are alternated (A B, B A, …) over fresh candidate
batches, so that no side finds the other's prompts in the prefix cache.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import uuid
from pathlib import Path
from typing import Any

from benchmarks.real_stack import run_on_stack, seconds
from benchmarks.results import write_results

OVERRIDES = [
    "experiment=tiny_cpu",
    "trainer.experiment_name=bench_scoring",
    "trainer.default_local_dir=outputs/bench/runs/scoring",
    "trainer.resume_mode=disable",
    "prepo.audit=false",
    # K = 32, so |B| = 160 candidates.
    "data.train_batch_size=32",
    "actor_rollout_ref.actor.ppo_mini_batch_size=32",
]


def measure(num_pairs: int) -> Any:
    """The function that runs in the trainer's process: times all sides and returns the figures."""

    def body(trainer: Any, _agent_loop_manager: Any) -> dict[str, Any]:
        from verl.trainer.ppo.v1 import PPOTrainerSync

        from recipe.prepo.trainer import columns
        from recipe.prepo.trainer.hooks import data_parallel_size
        from recipe.prepo.trainer.prompt_scoring import ActorScorer, RolloutScorer

        trainer.global_steps = 1
        client = trainer.get_llm_client()
        rollout_scorer = RolloutScorer(lambda: client)
        group = trainer.actor_rollout_wg
        actor_scorer = ActorScorer(group.compute_log_prob, lambda: data_parallel_size(group))

        def next_tokens() -> list[list[int]]:
            batch = PPOTrainerSync._next_train_batch(trainer, trainer.prepo.num_candidates)
            return [trainer._tokenize(messages) for messages in columns.messages_of(batch)]

        async def prefill_all(prompts: list[list[int]]) -> None:
            sampling = {"max_tokens": 1, "temperature": 1.0}
            await asyncio.gather(
                *(
                    client.generate(request_id=uuid.uuid4().hex, prompt_ids=p, sampling_params=dict(sampling))
                    for p in prompts
                )
            )

        sides = {
            "prefill": lambda prompts: asyncio.run(prefill_all(prompts)),
            "rollout": rollout_scorer,
            "actor": actor_scorer,
        }
        for _ in range(3):  # the first requests of a process warm it up
            for side in sides.values():
                side(next_tokens())
        figures: dict[str, list[float]] = {name: [] for name in sides}
        num_tokens = []
        for pair in range(num_pairs):
            names = list(sides) if pair % 2 == 0 else list(sides)[::-1]
            for name in names:
                prompts = next_tokens()
                num_tokens.append(sum(len(prompt) for prompt in prompts))
                figures[name].append(seconds(lambda side=sides[name], prompts=prompts: side(prompts)))
        batch = PPOTrainerSync._next_train_batch(trainer, trainer.prepo.num_candidates)
        messages = columns.messages_of(batch)
        tokenize = seconds(lambda: [trainer._tokenize(message) for message in messages])
        return {
            "num_prompts": trainer.prepo.num_candidates,
            "mean_tokens": statistics.mean(num_tokens) / trainer.prepo.num_candidates,
            "tokenize_s": tokenize,
            "seconds": figures,
        }

    return body


def table(result: dict[str, Any]) -> str:
    """A Markdown table, with the ratio to the plain prefill over the pairs."""
    prefill = result["seconds"]["prefill"]
    rows = [
        f"{result['num_prompts']} prompts of {result['mean_tokens']:.1f} tokens, {len(prefill)} alternated rounds; "
        f"tokenising them {result['tokenize_s'] * 1000:.0f} ms",
        "",
        "| side | min s | median s | max s | median ratio to prefill (min, max) |",
        "|---|---|---|---|---|",
    ]
    for name, times in result["seconds"].items():
        ratios = [a / b for a, b in zip(times, prefill, strict=True)]
        rows.append(
            f"| {name} | {min(times):.3f} | {statistics.median(times):.3f} | {max(times):.3f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}, {max(ratios):.2f}) |"
        )
    return "\n".join(rows) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"))
    arguments, overrides = parser.parse_known_args(argv)
    result = run_on_stack([*OVERRIDES, *overrides], measure(arguments.pairs))
    write_results(arguments.out, "scoring", result, table(result))
    print(table(result))


if __name__ == "__main__":
    main()
