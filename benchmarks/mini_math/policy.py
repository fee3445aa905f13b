"""The tiny policy: sampling with a key-value cache, log-probabilities by teacher forcing, and scores of prompts.

Suffixes of array names: ``_P`` prompts (groups), ``_R`` rollouts (flat; groups are ragged), ``_T`` response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from recipe.prepo.maths.rng import make_generator
from recipe.prepo.notation import FloatArray, IntArray

TokenIds = Sequence[int]
# Rollouts that are sampled together: more of them no longer make a sample cheaper on one thread.
MAX_BATCH = 256
# Finished rollouts leave the batch when they are this share of it; copying the cache costs about one step.
FINISHED_SHARE = 0.2


@dataclass(frozen=True)
class Responses:
    """Sampled responses, right-padded.

    Attributes:
        tokens_RT: token ids; 0 behind the end.
        mask_RT: True for tokens that the policy sampled, the end-of-sequence token included.
        log_probs_RT: their log-probabilities in nats, at the sampling temperature; 0 behind the end.
        entropies_RT: entropies in nats of the whole vocabulary's distribution that each was sampled from.
    """

    tokens_RT: torch.Tensor
    mask_RT: torch.Tensor
    log_probs_RT: torch.Tensor
    entropies_RT: torch.Tensor

    def __len__(self) -> int:
        return len(self.tokens_RT)

    def rows(self, start: int, end: int) -> Responses:
        return Responses(*(getattr(self, field.name)[start:end] for field in fields(self)))

    @property
    def num_tokens_R(self) -> IntArray:
        return self.mask_RT.sum(1).numpy().astype(np.int64)

    @property
    def entropy_nats_R(self) -> FloatArray:
        """Mean token entropy of each response."""
        return self.entropies_RT.double().sum(1).numpy() / self.num_tokens_R

    def token_ids(self) -> list[list[int]]:
        return [row[:n].tolist() for row, n in zip(self.tokens_RT, self.num_tokens_R, strict=True)]


def concatenated(parts: Sequence[Responses]) -> Responses:
    """All responses one after the other, padded to the longest."""
    width = max(part.tokens_RT.shape[1] for part in parts)
    padded = (
        torch.cat([torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in (getattr(p, f.name) for p in parts)])
        for f in fields(Responses)
    )
    return Responses(*padded)


def torch_generator(seed: int, purpose: str) -> torch.Generator:
    """A generator that depends on the seed and on its purpose only."""
    return torch.Generator().manual_seed(int(make_generator(seed, purpose).integers(2**31)))


def left_padded(prompts: Sequence[TokenIds]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, shape (len(prompts), longest)."""
    width = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros(len(prompts), width, dtype=torch.long)
    for i, prompt in enumerate(prompts):
        tokens[i, width - len(prompt) :] = torch.as_tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    return tokens, mask


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[TokenIds],
    sizes_P: Sequence[int] | IntArray,
    *,
    temperature: float,
    max_tokens: int,
    eos_id: int,
    generator: torch.Generator,
) -> Responses:
    """Sample ``sizes_P[i]`` responses to each prompt, group after group.

    Args:
        prompts: token ids of each prompt; prefilled once, whatever the group's size.
        temperature: logits are divided by it, for the sampling and for what is stored.
        max_tokens: most tokens of a response.
    """
    assert len(prompts) == len(sizes_P) and min(map(int, sizes_P)) > 0
    parts, first = [], 0
    while first < len(prompts):
        last, rows = first + 1, int(sizes_P[first])
        while last < len(prompts) and rows + int(sizes_P[last]) <= MAX_BATCH:
            rows += int(sizes_P[last])
            last += 1
        sizes = torch.as_tensor(np.asarray(sizes_P[first:last]))
        parts.append(_generate_batch(model, prompts[first:last], sizes, temperature, max_tokens, eos_id, generator))
        first = last
    return concatenated(parts)


def _generate_batch(
    model: PreTrainedModel,
    prompts: Sequence[TokenIds],
    sizes_P: torch.Tensor,
    temperature: float,
    max_tokens: int,
    eos_id: int,
    generator: torch.Generator,
) -> Responses:
    group_R = torch.repeat_interleave(torch.arange(len(prompts)), sizes_P)
    num = len(group_R)
    tokens = torch.zeros(num, max_tokens, dtype=torch.long)
    mask = torch.zeros(num, max_tokens, dtype=torch.bool)
    log_probs, entropies = torch.zeros(num, max_tokens), torch.zeros(num, max_tokens)

    prompt_tokens, attention = left_padded(prompts)
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    cache = DynamicCache()
    logits = model(
        input_ids=prompt_tokens,
        attention_mask=attention,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    cache.batch_select_indices(group_R)
    logits, attention, position = logits[group_R], attention[group_R], positions[group_R, -1:]
    row_of = torch.arange(num)  # where the rows that are still in the batch are stored
    is_done = torch.zeros(num, dtype=torch.bool)
    for t in range(max_tokens):
        log_dist = torch.log_softmax(logits / temperature, -1)
        dist = log_dist.exp()
        drawn = torch.multinomial(dist, 1, generator=generator)
        live = row_of[~is_done]
        tokens[live, t] = drawn[~is_done, 0]
        mask[live, t] = True
        log_probs[live, t] = log_dist.gather(1, drawn)[~is_done, 0]
        entropies[live, t] = -(dist * log_dist).sum(1)[~is_done]
        is_done = is_done | (drawn[:, 0] == eos_id)
        if bool(is_done.all()):
            break
        if float(is_done.float().mean()) > FINISHED_SHARE:
            kept = (~is_done).nonzero()[:, 0]
            cache.batch_select_indices(kept)
            row_of, drawn, attention, position, is_done = (
                x[kept] for x in (row_of, drawn, attention, position, is_done)
            )
        attention = torch.cat([attention, torch.ones(len(row_of), 1, dtype=torch.long)], 1)
        position = position + 1
        logits = model(
            input_ids=drawn, attention_mask=attention, position_ids=position, past_key_values=cache, use_cache=True
        ).logits[:, -1]
    width = int(mask.sum(1).max())
    return Responses(tokens[:, :width], mask[:, :width], log_probs[:, :width], entropies[:, :width])


def response_log_probs(
    model: PreTrainedModel,
    prompts_R: Sequence[TokenIds],
    tokens_RT: torch.Tensor,
    mask_RT: torch.Tensor,
    temperature_R: torch.Tensor,
) -> torch.Tensor:
    """Log-probabilities of given responses by one pass over the whole text, shape [R, T]; with gradients.

    Args:
        prompts_R: the prompt of each response.
        temperature_R: each response's own temperature.
    """
    num_tokens_R = mask_RT.sum(1)
    texts = [
        torch.cat([torch.as_tensor(prompt), row[:n]])
        for prompt, row, n in zip(prompts_R, tokens_RT, num_tokens_R, strict=True)
    ]
    # Right padding needs no attention mask: no earlier token sees it.
    text_tokens = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    first_kept = min(map(len, prompts_R)) - 1
    logits = model(input_ids=text_tokens, use_cache=False, logits_to_keep=text_tokens.shape[1] - first_kept).logits
    starts_R = torch.tensor([len(prompt) - 1 - first_kept for prompt in prompts_R])
    places_RT = (starts_R[:, None] + torch.arange(tokens_RT.shape[1])).clamp(max=logits.shape[1] - 1)
    row_R1 = torch.arange(len(texts))[:, None]
    log_dist = torch.log_softmax(logits[row_R1, places_RT] / temperature_R[:, None, None], -1)
    return log_dist.gather(-1, tokens_RT[..., None])[..., 0] * mask_RT


@torch.no_grad()
def prompt_nll_nats(model: PreTrainedModel, prompts: Sequence[TokenIds]) -> FloatArray:
    """Mean negative log-likelihood of each prompt's tokens after the first, shape [P]."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    nll_P = np.zeros(len(prompts))
    for first in range(0, len(order), 40):
        chosen = order[first : first + 40]
        rows = [torch.as_tensor(prompts[i]) for i in chosen]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
        # Right padding needs no attention mask: no earlier token sees it.
        logits = model(input_ids=tokens.clamp(min=0), use_cache=False).logits[:, :-1]
        targets = tokens[:, 1:]
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100, reduction="none")
        nll_P[chosen] = (nll.double().sum(1) / (targets != -100).sum(1)).numpy()
    return nll_P
