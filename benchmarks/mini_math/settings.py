"""Base models and prompt pools of the settings: fresh (as shipped), and early, mid, late with ever fewer live prompts.

What takes minutes is kept in a cache folder, under a name that holds a hash of everything that it was made of.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from benchmarks.mini_math.grade import Prompt, count_correct
from benchmarks.mini_math.options import SETTINGS, Options, digest
from benchmarks.mini_math.policy import prompt_nll_nats, torch_generator
from data_prep.mini_math.passrate import encode_prompts
from data_prep.mini_math.pretrain import (
    Arch,
    Recipe,
    build_model,
    build_tokenizer,
    corpus_batches,
    save,
    train,
)
from data_prep.mini_math.task import CorpusStyle, Problem, Task, sample_pool, sample_problem, split_of
from recipe.prepo.errors import ConfigError
from recipe.prepo.maths.rng import make_generator
from recipe.prepo.run.files import write_atomically
from recipe.prepo.types import FloatArray, IntArray

SHIPPED = Path(__file__).parents[2] / "assets" / "mini-math-qwen2"
SAMPLER = "inverse of the cumulative distribution"
"""How a token is drawn: pools that were measured in another way hold other prompts."""
HARD_CELLS = ((4, 99), (5, 99))
"""(Operations, operand scale) beyond the corpus; their solutions still fit into a response."""
EASY_CELLS = ((1, 6), (1, 14))
"""(Operations, operand scale) that a trained model hardly ever gets wrong."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """Training prompts with what the base model makes of them, measured by fresh samples.

    Attributes:
        correct_N: correct answers of each prompt among ``num_samples``, shape [N].
        live_frac: expected share of groups of M rollouts with reward variance; all_correct_frac, all_wrong_frac: the
            shares of the others.
    """

    prompts: tuple[Prompt, ...]
    correct_N: IntArray
    num_samples: int
    live_frac: float
    all_correct_frac: float
    all_wrong_frac: float


def load_model(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model in float32, without dropout, and its tokenizer."""
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def prepare_base(options: Options, cache: Path) -> Path:
    """Folder of the base model, made first where it is not in the cache (minutes)."""
    if options.model == "qwen2":
        base = SHIPPED
    else:
        base = _cached_model(cache, Recipe(arch=cast(Arch, options.model)), start=None)
    if not SETTINGS[options.setting].is_sharpened:
        return base
    # What is easy is solved nearly always, as late in a training; longer problems keep the slips and the answers
    # without steps that RL can teach away. Without those, too, the held-out accuracy hardly moves any more.
    style = CorpusStyle(careful_up_to_ops=2)
    recipe = Recipe(
        arch=cast(Arch, options.model), seed=1, num_steps=options.sharpen_steps, learning_rate=2e-3, style=style
    )
    return _cached_model(cache, recipe, start=base)


def _cached_model(cache: Path, recipe: Recipe, *, start: Path | None) -> Path:
    made_of: dict[str, Any] = {"recipe": dataclasses.asdict(recipe)}
    if start is not None:
        made_of["start"] = _file_digest(start / "model.safetensors")
    kind = "base" if start is None else "sharp"
    folder = cache / f"{kind}-{recipe.arch}-seed{recipe.seed}-{digest(made_of)}"
    if folder.exists():
        return folder
    print(f"making {folder} ({recipe.num_steps} pre-training steps, kept for later runs)", flush=True)
    if start is None:
        tokenizer = build_tokenizer(recipe)
        model = build_model(tokenizer, recipe)
    else:
        model, tokenizer = load_model(start)
    train(model, corpus_batches(tokenizer, recipe), recipe)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    save(model, tokenizer, unfinished)
    (unfinished / "made_of.json").write_text(json.dumps(made_of, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, folder)
    return folder


def prepare_pool(options: Options, base: Path, cache: Path) -> Pool:
    """The pool of this setting, the same for all seeds and methods; measured first if the cache lacks it.

    Raises:
        ConfigError: the base model solves too many or too few of the candidate problems for the setting.
    """
    setting = SETTINGS[options.setting]
    target = setting.live_frac
    made_of: dict[str, Any] = {
        "model": _file_digest(base / "model.safetensors"),
        "task": options.task,
        "pool": options.pool,
        "samples": options.pool_samples,
        "sampler": SAMPLER,
        "added_cells": [] if target is None else [HARD_CELLS if setting.unsolvable == "hard" else (), EASY_CELLS],
    }
    path = cache / f"prompts-{options.task}-seed0-{digest(made_of)}.json"
    if not path.exists():
        measured = _measure_prompts(options, base, candidates(options))
        write_atomically(path, json.dumps({"made_of": made_of, "prompts": measured}, indent=1) + "\n")
    entries = json.loads(path.read_text(encoding="utf-8"))["prompts"]
    correct_2N = np.array([entry["right"] for entry in entries], dtype=np.int64).T
    if target is not None:
        chosen = compose_pool(
            *correct_2N,
            num_samples=options.pool_samples,
            rollouts_per_prompt=options.rollouts_per_prompt,
            pool=options.pool,
            live_frac=target,
        )
        entries, correct_2N = [entries[i] for i in chosen.tolist()], correct_2N[:, chosen]
    shares = expected_shares(correct_2N[1], options.pool_samples, options.rollouts_per_prompt)
    prompts = tuple(Prompt(entry["prompt_id"], entry["question"], entry["answer"]) for entry in entries)
    return Pool(prompts, correct_2N[1], options.pool_samples, *(float(share.mean()) for share in shares))


def perplexities(pool: Pool, base: Path) -> FloatArray:
    """Perplexity of each of the pool's prompts under the base model, shape [N]."""
    model, tokenizer = load_model(base)
    return np.exp(prompt_nll_nats(model, encode_prompts(tokenizer, [prompt.question for prompt in pool.prompts])))


def candidates(options: Options) -> list[Prompt]:
    """Prompts that a pool is composed of: those of the task, and easy and unsolvable ones where the setting "
    "adds some."""
    task, setting = cast(Task, options.task), SETTINGS[options.setting]
    found = _prompts(sample_pool(options.pool, split="train", seed=0, task=task))
    if setting.live_frac is not None:
        if setting.unsolvable == "hard":
            found += _prompts(problems_of(HARD_CELLS, options.pool, seed=0, task=task))
        else:
            found += mislabelled(_prompts(sample_pool(options.pool, split="train", seed=1, task=task)))
        found += _prompts(problems_of(EASY_CELLS, options.pool // 2, seed=0, task=task))
    distinct: dict[str, Prompt] = {}
    for prompt in found:
        distinct.setdefault(prompt.question, prompt)
    return list(distinct.values())


def mislabelled(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Each prompt with another one's answer, without those for which it is correct."""
    order = make_generator(0, "mini_math.mislabelled").permutation(len(prompts)).tolist()
    answers = {i: prompts[j].answer for i, j in zip(order, order[1:] + order[:1], strict=True)}
    wrong = [prompt._replace(answer=answers[i]) for i, prompt in enumerate(prompts)]
    return [prompt for prompt, own in zip(wrong, prompts, strict=True) if prompt.answer != own.answer]


def _prompts(problems: Sequence[Problem]) -> list[Prompt]:
    return [Prompt(problem.prompt_id, problem.question, problem.answer) for problem in problems]


def _measure_prompts(options: Options, base: Path, problems: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Prompts with "right": correct answers in each of two independent measurements of ``pool_samples`` samples."""
    model, tokenizer = load_model(base)
    print(f"measuring {len(problems)} prompts by 2 x {options.pool_samples} samples (kept for later runs)", flush=True)
    tokens = encode_prompts(tokenizer, [problem.question for problem in problems])
    rounds = [
        count_correct(
            model,
            tokenizer,
            tokens,
            [problem.answer for problem in problems],
            num_samples=options.pool_samples,
            generator=torch_generator(0, f"mini_math.pool.{i}"),
        )
        for i in range(2)
    ]
    return [
        {"prompt_id": problem.prompt_id, "question": problem.question, "answer": problem.answer, "right": right}
        for problem, right in zip(problems, np.stack(rounds, 1).tolist(), strict=True)
    ]


def expected_shares(
    correct_N: IntArray, num_samples: int, rollouts_per_prompt: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Probability that a group of each prompt is live, all correct, all incorrect, shape [N] each.

    Unbiased estimates of ``1 - p^M - (1 - p)^M``, ``p^M`` and ``(1 - p)^M`` from ``correct_N`` of ``num_samples``: the
    shares among all subsets of M samples.

    >>> [float(x[0]) for x in expected_shares(np.array([2]), 4, 2)]
    [0.6666666666666667, 0.16666666666666666, 0.16666666666666666]
    """
    subsets = math.comb(num_samples, rollouts_per_prompt)
    correct = np.array([math.comb(int(c), rollouts_per_prompt) / subsets for c in correct_N])
    wrong = np.array([math.comb(num_samples - int(c), rollouts_per_prompt) / subsets for c in correct_N])
    return 1.0 - correct - wrong, correct, wrong


def compose_pool(
    first_N: IntArray,
    second_N: IntArray,
    *,
    num_samples: int,
    rollouts_per_prompt: int,
    pool: int,
    live_frac: float,
) -> IntArray:
    """Choose a pool with a given share of live groups; the rest half solved, half unsolved, where there are enough.

    The first measurement sorts the prompts, the second one says how live each kind really is: a prompt that was right
    32 times of 32 need not be so in its next group.

    Args:
        first_N, second_N: correct answers among ``num_samples``, two independent measurements.

    Returns:
        Places of the chosen prompts, ascending, shape [pool].

    Raises:
        ConfigError: too few prompts of a kind.
    """
    kinds = {
        "live": np.flatnonzero((first_N > 0) & (first_N < num_samples)),
        "solved": np.flatnonzero(first_N == num_samples),
        "unsolved": np.flatnonzero(first_N == 0),
    }
    live_N, _, _ = expected_shares(second_N, num_samples, rollouts_per_prompt)
    share = {kind: float(live_N[places].mean()) if len(places) else 0.0 for kind, places in kinds.items()}
    found = ", ".join(f"{len(places)} {kind} (live share {share[kind]:.2f})" for kind, places in kinds.items())
    wanted = {"live": 0, "solved": pool // 2, "unsolved": pool - pool // 2}
    for _ in range(3):  # the number of live prompts depends on how live the rest is, and that on its mixture
        rest = pool - wanted["live"]
        rest_share = (wanted["solved"] * share["solved"] + wanted["unsolved"] * share["unsolved"]) / rest
        if not rest_share < live_frac < share["live"]:
            break
        wanted["live"] = round(pool * (live_frac - rest_share) / (share["live"] - rest_share))
        rest = pool - wanted["live"]
        wanted["unsolved"] = min(max(rest - rest // 2, rest - len(kinds["solved"])), len(kinds["unsolved"]))
        wanted["solved"] = rest - wanted["unsolved"]
    reached = sum(wanted[kind] * share[kind] for kind in kinds) / pool
    if (
        abs(reached - live_frac) > 0.02
        or not wanted["live"]
        or any(wanted[kind] > len(places) for kind, places in kinds.items())
    ):
        raise ConfigError(
            f"no pool of {pool} prompts with a live share of {live_frac} can be made of {found}; change "
            f"--sharpen-steps (more steps: more are solved) or --pool"
        )
    generator = make_generator(0, "mini_math.compose_pool")
    return np.sort(np.concatenate([generator.permutation(kinds[kind])[:number] for kind, number in wanted.items()]))


def problems_of(cells: Sequence[tuple[int, int]], num_problems: int, *, seed: int, task: Task) -> list[Problem]:
    """Distinct train problems, evenly over ``cells`` of (operations, operand scale)."""
    rng = random.Random(f"mini_math/cells/{cells}/{task}/{seed}")
    found: dict[str, Problem] = {}
    while len(found) < num_problems:
        num_ops, scale = cells[len(found) % len(cells)]
        problem = sample_problem(rng, num_ops=num_ops, scale=scale, task=task, rarity=rng.random())
        if split_of(problem.question) == "train":
            found[problem.question] = problem
    return list(found.values())


def held_out_prompts(num_prompts: int, task: str, *, split: Any = "test") -> Sequence[Prompt]:
    """Problems that no pool and no corpus holds."""
    problems = sample_pool(num_prompts, split=split, seed=0, task=cast(Task, task))
    return _prompts(problems)


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
