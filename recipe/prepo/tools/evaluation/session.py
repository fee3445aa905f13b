"""One call: checks everything that needs no weights, then makes the samples and scores that are missing."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from recipe.prepo.errors import EXIT_BAD_INPUT, ConfigError, DataError, PrepoError
from recipe.prepo.maths.rng import rollout_seed
from recipe.prepo.preflight import check_verl_version
from recipe.prepo.tools.evaluation.answers import grade
from recipe.prepo.tools.evaluation.engine import Engine, Sampling, Tokenizer, choose_platform
from recipe.prepo.tools.evaluation.models import Model, find_model, loadable_folder
from recipe.prepo.tools.evaluation.options import add_options, check_options, sampling_settings
from recipe.prepo.tools.evaluation.questions import Question, QuestionSet, load_sets
from recipe.prepo.tools.evaluation.store import Sample, ScoredPrompt, Store, open_store, require_same

Item = TypeVar("Item")
Work = Callable[[argparse.Namespace], None]

EXIT_INTERRUPTED = 130  # as a shell reports SIGINT; also of SIGTERM


@dataclass(frozen=True)
class Session:
    """What a call works on. ``tokens`` are the prompts' by prompt_id; ``settings`` is what ``settings.json`` holds."""

    options: argparse.Namespace
    model: Model
    sets: list[QuestionSet]
    tokens: dict[str, list[int]]
    tokenizer: Tokenizer
    settings: dict[str, Any]
    environment: dict[str, str]

    @property
    def questions(self) -> list[tuple[QuestionSet, Question]]:
        """All questions with their sets, in order."""
        return [(one, question) for one in self.sets for question in one.questions]


def prepare(options: argparse.Namespace) -> Session:
    """Every further check that needs no weights, the cheap ones first; starts nothing and writes nothing.

    Args:
        options: checked ones.

    Raises:
        PrepoError: names the flag that mends it.
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
    tokenizer = Tokenizer(model.folder, model_type=model.model_type, chat_template_kwargs=options.chat_template_kwargs)
    tokens = {question.prompt_id: tokenizer.encode(question) for one in sets for question in one.questions}
    _check_lengths(model, tokens, options.max_prompt_tokens, options.max_tokens)
    return Session(options, model, sets, tokens, tokenizer, settings, environment)


def _check_lengths(model: Model, tokens: dict[str, list[int]], max_prompt_tokens: int, max_tokens: int) -> None:
    longest = max(tokens, key=lambda prompt_id: len(tokens[prompt_id]))
    length = len(tokens[longest])
    if length > max_prompt_tokens:
        too_long = sum(len(ids) > max_prompt_tokens for ids in tokens.values())
        raise DataError(
            f"{too_long} of {len(tokens)} prompts are longer than --max-prompt-tokens {max_prompt_tokens}; the longest,"
            f" {longest}, has {length} tokens, and cutting it would ask another question. Set --max-prompt-tokens"
            f" {length}, or drop such rows."
        )
    if model.max_tokens is not None and length + max_tokens > model.max_tokens:
        room = model.max_tokens - length
        mend = f"Set --max-tokens {room} or less." if room > 0 else "Drop such rows from --data."
        raise ConfigError(
            f"the longest prompt ({length} tokens) and --max-tokens {max_tokens} need {length + max_tokens} tokens, but"
            f" {model.given} was made for {model.max_tokens} (max_position_embeddings). {mend}"
        )


@contextmanager
def opened(session: Session) -> Iterator[Store]:
    """The output folder, for this call alone; see :func:`~recipe.prepo.tools.evaluation.store.open_store`."""
    with open_store(session.options.out, session.settings) as store:
        yield store


def fill(session: Session, store: Store, *, score_prompts: bool) -> float:
    """Make what is missing; every sample is kept as soon as it is finished and graded.

    Returns:
        Seconds that generating and grading took, without the start of vLLM; 0 when nothing was missing.
    """
    options = session.options
    missing = [
        (one.name, question, number)
        for one, question in session.questions
        for number in range(options.samples)
        if (question.prompt_id, number) not in store.samples
    ]
    unscored = [q for _, q in session.questions if score_prompts and q.prompt_id not in store.prompts]
    total = len(session.questions) * options.samples
    print(f"{total - len(missing):,} of {total:,} samples are there, {len(missing):,} to make", flush=True)
    if not missing and not unscored:
        return 0.0
    folder = loadable_folder(session.model, options.out, session.environment)
    print("starting vLLM …", flush=True)
    longest = max(len(session.tokens[question.prompt_id]) for _, question in session.questions)
    with Engine(
        folder,
        session.tokenizer,
        device=options.device,
        dtype=options.dtype,
        max_model_tokens=longest + options.max_tokens,
        scores_prompts=bool(unscored),
        tensor_parallel=options.tensor_parallel,
        gpu_memory_frac=options.gpu_memory,
    ) as engine:
        start = time.monotonic()
        _score(engine, session, store, unscored)
        _sample(engine, session, store, missing)
        return time.monotonic() - start


def _score(engine: Engine, session: Session, store: Store, questions: list[Question]) -> None:
    prompts = [session.tokens[question.prompt_id] for question in questions]
    for request, nll_nats, num_tokens in _shown(engine.score(prompts), len(prompts), "prompts scored"):
        store.add_prompt(ScoredPrompt(questions[request].prompt_id, nll_nats, num_tokens))


def _sample(engine: Engine, session: Session, store: Store, missing: list[tuple[str, Question, int]]) -> None:
    options = session.options
    prompts = [session.tokens[question.prompt_id] for _, question, _ in missing]
    seeds = [sample_seed(options.seed, question.prompt_id, number) for _, question, number in missing]
    sampling = Sampling(options.temperature, options.top_p, options.top_k, options.max_tokens)
    for response in _shown(engine.sample(prompts, seeds, sampling), len(missing), "samples"):
        name, question, number = missing[response.request]
        graded = grade(question, response.text)
        store.add_sample(
            Sample(
                set=name,
                prompt_id=question.prompt_id,
                sample=number,
                seed=seeds[response.request],
                text=response.text,
                num_tokens=response.num_tokens,
                finish_reason=response.finish_reason,
                reward=graded.reward,
                answer=graded.answer,
                timed_out=graded.timed_out,
            )
        )


def sample_seed(seed: int, prompt_id: str, number: int) -> int:
    """Sampling seed of one sample: whatever else is sampled, and in whatever order. In [0, 2**31)."""
    return rollout_seed(seed, 0, prompt_id, number)


def _shown(items: Iterator[Item], total: int, unit: str) -> Iterator[Item]:
    """The items, with a progress bar where standard error is a terminal."""
    from tqdm import tqdm

    yield from tqdm(items, total=total, unit=f" {unit}", disable=None if total else True, file=sys.stderr)


def run_command(
    module: str, description: str | None, add: Callable[[argparse.ArgumentParser], None], work: Work
) -> int:
    """Parse the arguments, work, and answer with the exit status."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=(description or "").partition("\n\n")[2],
        epilog="Exit status: 0; 2 with one message on bad input; 130 when interrupted (the same call goes on).",
    )
    add_options(parser)
    add(parser)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what a cluster sends at the time limit
    try:
        check_options(options)
        work(options)
    except PrepoError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f"interrupted; what is finished is kept in {options.out}, and the same call goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0
