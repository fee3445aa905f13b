"""Scores candidate prompts under the current policy: through the rollout servers or through the FSDP actor.

Both score the very tokens that the rollout will see. They return the log-probability of each prompt token that has a
left context, at temperature 1.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.utils.tensordict_utils import list_of_dict_to_tensordict
from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

from recipe.prepo.maths.perplexity import FEATURES, mean_nll_nats, nll_features
from recipe.prepo.types import Candidates

Messages = list[dict[str, Any]]
TokenIds = list[int]

SCORE_PARTITION = "prepo_score"
MAX_CONCURRENT_REQUESTS = 4096
MAX_ACTOR_TOKENS = 8192
# A replica that goes back to training (verl's hybrid_rollout switch) aborts its requests; another replica is asked.
ABORTED = ("abort", "aborted")
MAX_TRIES, RETRY_AFTER_S = 31, 1.0


class PromptTokenizer:
    """Tokenises chat messages exactly as verl 0.9.1's single-turn agent loop does.

    Args:
        model_type: Hugging Face ``model_type``, which chooses verl's token builder.
        max_prompt_tokens: longer prompts lose their beginning, as in the agent loop.
    """

    def __init__(self, tokenizer: Any, *, model_type: str, chat_template_kwargs: Any, max_prompt_tokens: int) -> None:
        self._builder = create_continuous_token_builder(
            tokenizer, hf_model_type=model_type, chat_template_kwargs=chat_template_kwargs
        )
        self._max_prompt_tokens = max_prompt_tokens

    def __call__(self, messages: Messages) -> TokenIds:
        return list(self._builder.build_initial_tokens(messages))[-self._max_prompt_tokens :]


class RolloutScorer:
    """Asks the rollout servers, through verl's ``LLMServerClient``, for ``prompt_logprobs`` of all prompts at once."""

    def __init__(self, make_client: Callable[[], Any]) -> None:
        self._make_client = make_client
        self._client: Any = None

    def __call__(self, prompts: Sequence[TokenIds]) -> list[np.ndarray]:
        self._client = self._client or self._make_client()

        async def score_all() -> list[np.ndarray]:
            slots = asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)
            return list(await asyncio.gather(*(self._score(token_ids, slots) for token_ids in prompts)))

        return asyncio.run(score_all())

    async def _score(self, token_ids: TokenIds, slots: asyncio.Semaphore) -> np.ndarray:
        for _ in range(MAX_TRIES):
            async with slots:
                output = await self._client.generate(
                    request_id=uuid.uuid4().hex,
                    prompt_ids=token_ids,
                    # vLLM must generate one token; prompt_logprobs=0 returns the prompt's own tokens only.
                    sampling_params={"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0, "detokenize": False},
                )
            if output.stop_reason not in ABORTED:
                break
            await asyncio.sleep(RETRY_AFTER_S)
        log_probs = output.extra_fields.get("prompt_logprobs")
        if log_probs is None or len(log_probs) != len(token_ids):
            raise RuntimeError(
                f"the rollout server did not score a prompt of {len(token_ids)} tokens (stop reason "
                f"{output.stop_reason!r}). Score through the actor instead: prepo.scorer=actor"
            )
        # Entry t is the log-probability of token t + 1; the last one is a filler of verl's.
        return np.array([row[0] for row in log_probs[:-1]], dtype=np.float64)


class ActorScorer:
    """Runs the actor's log-prob pass over the prompts, with every token but the first as the response.

    ``batch_multiple`` returns the number that the batch size must be a multiple of (data-parallel size).
    """

    def __init__(self, compute_log_prob: Callable[[KVBatchMeta], Any], batch_multiple: Callable[[], int]) -> None:
        self._compute_log_prob = compute_log_prob
        self._batch_multiple = batch_multiple

    def __call__(self, prompts: Sequence[TokenIds]) -> list[np.ndarray]:
        rows = [*prompts, *([prompts[-1]] * (-len(prompts) % self._batch_multiple()))]
        request = uuid.uuid4().hex
        keys = [f"{request}_{i}_0" for i in range(len(rows))]
        tags = [{"seq_len": len(row), "prompt_len": 1, "response_len": len(row) - 1} for row in rows]
        fields = list_of_dict_to_tensordict([self._as_rollout(torch.tensor(row, dtype=torch.int64)) for row in rows])
        tq.kv_batch_put(keys=keys, partition_id=SCORE_PARTITION, fields=fields, tags=tags)
        try:
            batch = KVBatchMeta(partition_id=SCORE_PARTITION, keys=keys, tags=tags)
            # Small micro-batches: the rollout servers hold their memory while prompts are scored.
            batch.extra_info.update(
                calculate_entropy=False,
                compute_loss=False,
                temperature=1.0,
                use_dynamic_bsz=True,
                max_token_len_per_gpu=max(MAX_ACTOR_TOKENS, *map(len, rows)),
            )
            self._compute_log_prob(batch)
            data = tq.kv_batch_get(keys=keys, partition_id=SCORE_PARTITION, select_fields=["log_probs"])
            log_probs = data["log_probs"].unbind()
        finally:
            tq.kv_clear(keys=keys, partition_id=SCORE_PARTITION)
        # Entry t is the log-probability of token t + 1; the last one has no target.
        return [row[:-1].to(torch.float64).numpy() for row in log_probs[: len(prompts)]]

    @staticmethod
    def _as_rollout(input_ids: torch.Tensor) -> dict[str, Any]:
        mask, positions = torch.ones_like(input_ids[1:]), torch.arange(len(input_ids))
        tokens = {"prompts": input_ids[:1], "responses": input_ids[1:], "input_ids": input_ids}
        return tokens | {"position_ids": positions, "response_mask": mask, "loss_mask": mask, "multi_modal_inputs": {}}


def score_candidates(
    prompt_ids: tuple[str, ...],
    messages: Sequence[Messages],
    tokenize: Callable[[Messages], TokenIds],
    score: Callable[[Sequence[TokenIds]], list[np.ndarray]],
) -> Candidates:
    """Candidates with their mean negative log-likelihoods; ``num_tokens`` counts the scored tokens."""
    log_probs_C = score([tokenize(message) for message in messages])
    return Candidates(
        prompt_ids=prompt_ids,
        nll_nats_C=np.array([mean_nll_nats(log_probs) for log_probs in log_probs_C]),
        num_tokens_C=np.array([len(log_probs) for log_probs in log_probs_C], dtype=np.int64),
        features_C=dict(zip(FEATURES, np.array([*map(nll_features, log_probs_C)]).T, strict=True)),
    )
