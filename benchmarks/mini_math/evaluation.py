"""Measures to compare methods by: held-out accuracy, and entropy on fixed prompts."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.mini_math.grade import count_correct
from benchmarks.mini_math.options import Options
from benchmarks.mini_math.policy import generate, torch_generator
from benchmarks.mini_math.settings import held_out_prompts
from data_prep.mini_math.passrate import MAX_RESPONSE_TOKENS, encode_prompts


class Evaluator:
    """Evaluates a policy at temperature 1.

    Args:
        seed: of the run. The samples of an evaluation depend on it and on the step, not on the method.
    """

    def __init__(self, options: Options, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> None:
        held_out = held_out_prompts(max(options.held_out, options.probe), options.task, split=options.split)
        self._tokenizer = tokenizer
        self._tokens = encode_prompts(tokenizer, [prompt.question for prompt in held_out])
        self._answers = [prompt.answer for prompt in held_out]
        self._num_problems, self._num_probes, self._seed = options.held_out, options.probe, seed

    def measure(self, model: PreTrainedModel, step: int) -> dict[str, float]:
        """Accuracy, one sample a problem; and entropy_nats, the token mean over the policy's own probe responses."""
        correct = count_correct(
            model,
            self._tokenizer,
            self._tokens[: self._num_problems],
            self._answers[: self._num_problems],
            num_samples=1,
            generator=torch_generator(self._seed, f"mini_math.evaluation.{step}"),
        )
        responses = generate(
            model,
            self._tokens[: self._num_probes],
            [1] * self._num_probes,
            temperature=1.0,
            max_tokens=MAX_RESPONSE_TOKENS,
            eos_id=int(self._tokenizer.eos_token_id),
            generator=torch_generator(0, "mini_math.probe"),
        )
        entropy_nats = responses.entropies_RT.double().sum() / responses.num_tokens_R.sum()
        return {"accuracy": float(correct.mean()), "entropy_nats": float(entropy_nats)}
