"""One call: checks everything that needs no weights, then makes the missing samples and scores."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from recipe.prepo.errors import ConfigError, DataError
from recipe.prepo.maths.rng import rollout_seed
from recipe.prepo.preflight import check_verl_version
from recipe.prepo.reward.extract import after_hashes
from recipe.prepo.reward.score import compute_score, marked_answer
from recipe.prepo.tools.evaluation.engine import Engine, Tokenizer, choose_platform
from recipe.prepo.tools.evaluation.models import Model, find_model, loadable_folder
from recipe.prepo.tools.evaluation.options import sampling_settings
from recipe.prepo.tools.evaluation.questions import Question, QuestionSet, load_sets
from recipe.prepo.tools.evaluation.store import Sample, ScoredPrompt, Store, require_same

Item = TypeVar("Item")


@dataclass(frozen=True)
class Session:
    """What a call works on. ``tokens`` has each prompt's by prompt_id; ``settings`` is the content of settings.json."""

    options: argparse.Namespace
    model: Model
    sets: list[QuestionSet]
    tokens: dict[str, list[int]]
    tokenizer: Tokenizer
    settings: dict[str, Any]
    environment: dict[str, str]


def prepare(options: argparse.Namespace) -> Session:
    """Make every further check that needs no weights, cheap ones first. Starts nothing and writes nothing.

    Raises:
        PrepoError: names the flag to change.
    """
    check_verl_version()
    sets = load_sets(options.data, max_questions=options.prompts, seed=options.seed)
    model = find_model(options.model)
    settings = {
        "model": {"path": options.model, "fingerprint": model.fingerprint},
        "data": {
            one.name: {"path": one.path, "sha256": one.sha256, "num_questions": len(one.questions)} for one in sets
        },
        "sampling": sampling_settings(options),
    }
    require_same(options.out, settings)
    environment = choose_platform(options.device)
    model_type = str(model.config.get("model_type", ""))
    tokenizer = Tokenizer(model.folder, model_type=model_type, chat_template_kwargs=options.chat_template_kwargs)
    tokens = {question.prompt_id: tokenizer.encode(question) for one in sets for question in one.questions}
    _check_lengths(model, tokens, options.max_prompt_tokens, options.max_tokens)
    return Session(options, model, sets, tokens, tokenizer, settings, environment)


def _check_lengths(model: Model, tokens: dict[str, list[int]], max_prompt_tokens: int, max_tokens: int) -> None:
    longest, ids = max(tokens.items(), key=lambda item: len(item[1]))
    length = len(ids)
    if length > max_prompt_tokens:
        too_long = sum(len(ids) > max_prompt_tokens for ids in tokens.values())
        raise DataError(
            f"{too_long} of {len(tokens)} prompts are longer than --max-prompt-tokens {max_prompt_tokens}; the longest,"
            f" {longest}, has {length} tokens, and cutting it would change the question. Set --max-prompt-tokens"
            f" {length}, or drop such rows."
        )
    if model.max_tokens is not None and length + max_tokens > model.max_tokens:
        room = model.max_tokens - length
        remedy = f"Set --max-tokens {room} or less." if room > 0 else "Drop such rows from --data."
        raise ConfigError(
            f"the longest prompt ({length} tokens) and --max-tokens {max_tokens} need {length + max_tokens} tokens, but"
            f" {model.given} was made for {model.max_tokens} (max_position_embeddings). {remedy}"
        )


def fill(session: Session, store: Store, *, score_prompts: bool) -> float:
    """Make what is missing. Every sample is stored as soon as it is finished and graded.

    Returns:
        Seconds that scoring, generating and grading took, without the start of vLLM; 0 if nothing was missing.
    """
    options, tokens = session.options, session.tokens
    questions = [(one.name, question) for one in session.sets for question in one.questions]
    samples = [(name, question, number) for name, question in questions for number in range(options.samples)]
    missing = [(name, q, number) for name, q, number in samples if (q.prompt_id, number) not in store.samples]
    unscored = [q.prompt_id for _, q in questions if score_prompts and q.prompt_id not in store.prompts]
    print(f"{len(samples) - len(missing):,} of {len(samples):,} samples exist, {len(missing):,} to make", flush=True)
    if not missing and not unscored:
        return 0.0
    folder = loadable_folder(session.model, options.out, session.environment)
    print("starting vLLM …", flush=True)
    with Engine(
        folder,
        session.tokenizer,
        device=options.device,
        dtype=options.dtype,
        max_model_tokens=max(len(tokens[q.prompt_id]) for _, q in questions) + options.max_tokens,
        scores_prompts=bool(unscored),
        tensor_parallel=options.tensor_parallel,
        gpu_memory_frac=options.gpu_memory,
    ) as engine:
        start = time.monotonic()
        scores = engine.score([tokens[prompt_id] for prompt_id in unscored])
        for request, nll_nats, num_tokens in _progress(scores, len(unscored), "prompts scored"):
            store.prompts.add(ScoredPrompt(unscored[request], nll_nats, num_tokens))
        seeds = [sample_seed(options.seed, q.prompt_id, number) for _, q, number in missing]
        sampling = {name: getattr(options, name) for name in ("temperature", "top_p", "top_k", "max_tokens")}
        responses = engine.sample([tokens[q.prompt_id] for _, q, _ in missing], seeds, sampling)
        for request, response in _progress(responses, len(missing), "samples"):
            store.samples.add(graded(*missing[request], seeds[request], response))
        return time.monotonic() - start


def sample_seed(seed: int, prompt_id: str, number: int) -> int:
    """Seed of one sample, in [0, 2**31). It does not depend on what else is sampled, or in which order."""
    return rollout_seed(seed, 0, prompt_id, number)


def graded(set_name: str, question: Question, number: int, seed: int, response: dict[str, Any]) -> Sample:
    """The sample with the reward of training (:mod:`recipe.prepo.reward.score`) and the answer that was judged.

    Raises:
        DataError: the gold answer is empty.
    """
    scores = compute_score(question.data_source, response["text"], question.ground_truth, question.extra_info)
    return Sample(
        set=set_name,
        prompt_id=question.prompt_id,
        sample=number,
        seed=seed,
        **response,
        reward=scores["score"],
        answer=final_answer(question.data_source, response["text"]),
        timed_out=bool(scores["timed_out"]),
    )


def final_answer(data_source: str, response: str) -> str | None:
    r"""What the reward function judges: the last ``\boxed{…}``, else the rest of the line after the last ``####``.

    >>> final_answer("math", r"so \boxed{\frac12}."), final_answer("gsm8k", "#### 18\nyes"), final_answer("math", "18")
    ('\\frac12', '18', None)
    """
    if data_source.startswith("mini_math"):  # a box marks nothing there
        return (after_hashes(response) or "").partition("\n")[0].strip() or None
    return marked_answer(response) or None


def _progress(items: Iterator[Item], total: int, unit: str) -> Iterator[Item]:
    """The items, with a progress bar if standard error is a terminal."""
    from tqdm import tqdm

    yield from tqdm(items, total=total, unit=f" {unit}", disable=None if total else True, file=sys.stderr)
