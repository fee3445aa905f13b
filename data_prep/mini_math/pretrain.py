"""Pre-train the mini-math base model from scratch on one CPU thread.

    python -m data_prep.mini_math.pretrain --out assets/mini-math-qwen2

The number of steps is fixed and everything is seeded, so the same command on the same versions gives the same model.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
import random
import time
from collections.abc import Iterator
from typing import Literal, get_args

import torch
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from data_prep.mini_math.task import CorpusStyle, sample_corpus_document
from data_prep.mini_math.tokenizer import MODEL_MAX_LENGTH, train_tokenizer
from recipe.prepo.errors import ConfigError

Arch = Literal["qwen2", "llama"]
_IGNORE_INDEX = -100
_BUCKET_BATCHES = 16
_NUM_TOKENIZER_DOCUMENTS = 5_000


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines the model, apart from library versions."""

    arch: Arch = "qwen2"
    seed: int = 0
    num_steps: int = 2_000
    batch_size: int = 64
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    hidden_size: int = 128
    num_layers: int = 3
    style: CorpusStyle = dataclasses.field(default_factory=CorpusStyle)

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "learning_rate", "num_layers"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; give a positive number")


def build_model(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> PreTrainedModel:
    """Randomly initialised float32 model with tied embeddings, whose vocabulary is exactly the tokenizer's."""
    torch.manual_seed(recipe.seed)
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": recipe.hidden_size,
        "intermediate_size": 3 * recipe.hidden_size,
        "num_hidden_layers": recipe.num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": MODEL_MAX_LENGTH,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": torch.float32,
    }
    if recipe.arch == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape))
    return Qwen2ForCausalLM(Qwen2Config(**shape))


def build_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """Tokenizer trained on the first documents of the corpus."""
    rng = random.Random(f"mini_math/tokenizer/{recipe.seed}")
    documents = [sample_corpus_document(rng, recipe.style) for _ in range(_NUM_TOKENIZER_DOCUMENTS)]
    return train_tokenizer(text for document in documents for text in document)


def corpus_batches(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Iterator[torch.Tensor]:
    """Endless batches of token ids (batch_size, length), right-padded with -100. Similar lengths share a batch."""
    rng = random.Random(f"mini_math/corpus/{recipe.seed}")
    before, after = _chat_frame(tokenizer)
    while True:
        pairs = (sample_corpus_document(rng, recipe.style) for _ in range(recipe.batch_size * _BUCKET_BATCHES))
        texts = [f"{before}{question}{after}{solution}{tokenizer.eos_token}" for question, solution in pairs]
        documents = sorted(tokenizer(texts, add_special_tokens=False)["input_ids"], key=len)
        batches = [documents[i : i + recipe.batch_size] for i in range(0, len(documents), recipe.batch_size)]
        rng.shuffle(batches)
        for batch in batches:
            rows = [torch.tensor(document) for document in batch]
            yield torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=_IGNORE_INDEX)


def train(
    model: PreTrainedModel, batches: Iterator[torch.Tensor], recipe: Recipe, *, log_every_steps: int = 200
) -> list[float]:
    """Train ``model`` in place on prompt and solution tokens; returns each step's loss in nats per token."""
    optimizers = _optimizers(model, recipe)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_factor(step, recipe))
        for optimizer in optimizers
    ]
    model.train()
    losses: list[float] = []
    start_s = time.process_time()
    for step in range(recipe.num_steps):
        loss = _next_token_loss(model, next(batches))
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        losses.append(loss.item())
        if (step + 1) % log_every_steps == 0:
            recent = losses[-log_every_steps:]
            cpu_s = time.process_time() - start_s
            print(f"step {step + 1} loss {sum(recent) / len(recent):.4f} nats per token, {cpu_s:.0f} CPU-s", flush=True)
    model.eval()
    return losses


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out_dir: pathlib.Path) -> None:
    """Write model, tokenizer and sampling defaults (temperature 1, the whole vocabulary) in Hugging Face layout."""
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)


def _optimizers(model: PreTrainedModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices, where it needs less than half of AdamW's steps; AdamW for the rest."""
    embedding = model.get_input_embeddings().weight
    matrices = [weight for weight in model.parameters() if weight.ndim == 2 and weight is not embedding]
    others = [weight for weight in model.parameters() if weight.ndim != 2 or weight is embedding]
    learning_rate, weight_decay = recipe.learning_rate, 0.01
    return [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, 0.98)),
    ]


def _next_token_loss(model: PreTrainedModel, token_ids: torch.Tensor) -> torch.Tensor:
    inputs = token_ids[:, :-1].clamp(min=0)  # right padding needs no mask: no earlier token sees it
    logits = model(input_ids=inputs, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), token_ids[:, 1:].flatten(), ignore_index=_IGNORE_INDEX
    )


def _learning_rate_factor(step: int, recipe: Recipe) -> float:
    warmup = min(1.0, (step + 1) / recipe.warmup_steps)
    return warmup * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(math.pi * step / recipe.num_steps)))


def _chat_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The chat template's text before and after the question."""
    marker = "QUESTION"
    messages = [{"role": "user", "content": marker}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, _, after = str(text).partition(marker)
    return before, after


def main() -> None:
    default = Recipe()
    parser = argparse.ArgumentParser(description="Pre-train the mini-math base model from scratch.")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the model, created")
    parser.add_argument("--arch", choices=get_args(Arch), default=default.arch)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--steps", type=int, default=default.num_steps)
    parser.add_argument("--batch-size", type=int, default=default.batch_size)
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate)
    parser.add_argument("--layers", type=int, default=default.num_layers)
    parser.add_argument("--direct-frac", type=float, default=default.style.direct_frac)
    parser.add_argument("--slip-frac", type=float, default=default.style.slip_frac)
    parser.add_argument("--expressions-frac", type=float, default=default.style.expressions_frac)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        recipe = Recipe(
            arch=args.arch,
            seed=args.seed,
            num_steps=args.steps,
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            num_layers=args.layers,
            style=CorpusStyle(args.direct_frac, args.slip_frac, args.expressions_frac),
        )
    except ConfigError as error:
        parser.error(str(error))
    tokenizer = build_tokenizer(recipe)
    model = build_model(tokenizer, recipe)
    print(f"{model.num_parameters():,} parameters, {len(tokenizer)} tokens", flush=True)
    start_s = time.process_time()
    train(model, corpus_batches(tokenizer, recipe), recipe)
    save(model, tokenizer, args.out)
    print(f"wrote {args.out} after {time.process_time() - start_s:.0f} CPU-s")


if __name__ == "__main__":
    main()
