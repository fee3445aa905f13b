"""The tiny policy: sampling with a key-value cache, log-probabilities by teacher forcing, and scores of prompts.

Suffixes of array names: ``_P`` prompts (groups), ``_R`` rollouts (flat; groups are ragged), ``_T`` response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from transformers import PreTrainedModel

from benchmarks.mini_math.forward import CachedAttention, CausalAttention, Network, ResponseAttention, Texts
from recipe.prepo.errors import NumericsError
from recipe.prepo.maths.perplexity import FEATURES, nll_features
from recipe.prepo.maths.rng import make_generator
from recipe.prepo.types import FloatArray, IntArray

TokenIds = Sequence[int]
# Rollouts that are sampled together: more of them no longer make a sample cheaper on one thread.
MAX_BATCH = 256
# Finished rollouts leave the batch when they are this share of it; copying the cache costs about one step.
FINISHED_SHARE = 0.3
# Prompts in one pass: what they are computed from then stays in a core's cache.
TOGETHER = 32


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

    Raises:
        NumericsError: the model gives no finite logits.
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
    prompt_R = torch.repeat_interleave(torch.arange(len(prompts)), sizes_P)
    num = len(prompt_R)
    tokens = torch.zeros(num, max_tokens, dtype=torch.long)
    mask = torch.zeros(num, max_tokens, dtype=torch.bool)
    log_probs, entropies = torch.zeros(num, max_tokens), torch.zeros(num, max_tokens)

    network, texts = Network(model), Texts([torch.as_tensor(prompt) for prompt in prompts])
    attention = CachedAttention(network, texts, prompt_R, max_tokens)
    parts = []
    for first in range(0, len(prompts), TOGETHER):
        part = Texts([torch.as_tensor(prompt) for prompt in prompts[first : first + TOGETHER]])
        of_part = CausalAttention(network, part)
        hidden = network.hidden(part.tokens_N, part.positions_N, of_part, part.last_P)
        rows = ((prompt_R >= first) & (prompt_R < first + TOGETHER)).nonzero()[:, 0]
        places = prompt_R[rows] - first
        attention.fill(slice(int(rows[0]), int(rows[-1]) + 1), of_part, places)
        parts.append(network.logits(hidden)[places])
    logits = torch.cat(parts)
    if not bool(logits.isfinite().all()):
        raise NumericsError("the model's logits are not finite: its training diverged")
    position = texts.lengths_P[prompt_R] - 1
    row_of = torch.arange(num)  # where the rows that are still in the batch are stored
    is_done = torch.zeros(num, dtype=torch.bool)
    for t in range(max_tokens):
        log_dist = torch.log_softmax(logits / temperature, -1)
        dist = log_dist.exp()
        drawn = draw_tokens(dist, generator)
        live = ~is_done
        rows = row_of[live]
        tokens[rows, t] = drawn[live]
        mask[rows, t] = True
        log_probs[rows, t] = log_dist.gather(1, drawn[:, None])[live, 0]
        entropies[rows, t] = -(dist * log_dist).sum(1)[live]
        is_done = is_done | (drawn == eos_id)
        if t == max_tokens - 1 or bool(is_done.all()):
            break
        if float(is_done.float().mean()) > FINISHED_SHARE:
            kept = (~is_done).nonzero()[:, 0]
            attention.keep(kept)
            row_of, drawn, position, is_done = (x[kept] for x in (row_of, drawn, position, is_done))
        position = position + 1
        attention.advance()
        logits = network.logits(network.hidden(drawn, position, attention, torch.arange(len(drawn))))
    width = int(mask.sum(1).max())
    return Responses(tokens[:, :width], mask[:, :width], log_probs[:, :width], entropies[:, :width])


def draw_tokens(dist_RV: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One token of each row's distribution, by its cumulative sums: a tenth of ``torch.multinomial``'s time."""
    cumulative = dist_RV.cumsum(1)
    at = torch.rand(len(dist_RV), 1, generator=generator) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, at, right=True)[:, 0].clamp(max=dist_RV.shape[1] - 1)


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
    distinct = list(dict.fromkeys(map(tuple, prompts_R)))
    place = {prompt: i for i, prompt in enumerate(distinct)}
    prompt_R = torch.tensor([place[tuple(prompt)] for prompt in prompts_R])
    # A prompt's last token is its responses' first input; nothing is predicted before.
    prompts = Texts([torch.as_tensor(prompt[:-1]) for prompt in distinct])
    last_R = torch.tensor([prompt[-1] for prompt in prompts_R])[:, None]
    inputs_RT = torch.cat([last_R, tokens_RT[:, :-1]], 1)
    responses = Texts([row[:n] for row, n in zip(inputs_RT, num_tokens_R.tolist(), strict=True)])
    positions = responses.positions_N + torch.repeat_interleave(prompts.lengths_P[prompt_R], num_tokens_R)
    network = Network(model)
    num_prompt_tokens = len(prompts.tokens_N)
    hidden = network.hidden(
        torch.cat([prompts.tokens_N, responses.tokens_N]),
        torch.cat([prompts.positions_N, positions]),
        ResponseAttention(network, prompts, responses, prompt_R),
        torch.arange(num_prompt_tokens, num_prompt_tokens + len(responses.tokens_N)),
    )
    logits_N = network.logits(hidden)
    temperature_N = torch.repeat_interleave(temperature_R, num_tokens_R)
    log_dist_N = torch.log_softmax(logits_N / temperature_N[:, None], -1)
    log_probs_N = log_dist_N.gather(-1, tokens_RT[mask_RT][:, None])[:, 0]
    return torch.zeros(tokens_RT.shape).masked_scatter(mask_RT, log_probs_N)


def prompt_nll_nats(model: PreTrainedModel, prompts: Sequence[TokenIds]) -> FloatArray:
    """Mean negative log-likelihood of each prompt's tokens after the first, shape [P]."""
    return prompt_scores(model, prompts)[0]


@torch.no_grad()
def prompt_scores(model: PreTrainedModel, prompts: Sequence[TokenIds]) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Mean negative log-likelihood of each prompt's tokens after the first, and ``FEATURES``, shape [P] each."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    network = Network(model)
    nll_P = np.zeros(len(prompts))
    features_PF = np.zeros((len(prompts), len(FEATURES)))
    for first in range(0, len(order), TOGETHER):
        chosen = order[first : first + TOGETHER]
        rows = [torch.as_tensor(prompts[i]) for i in chosen]
        inputs, targets_N = Texts([row[:-1] for row in rows]), torch.cat([row[1:] for row in rows])
        every = torch.arange(len(inputs.tokens_N))
        hidden = network.hidden(inputs.tokens_N, inputs.positions_N, CausalAttention(network, inputs), every)
        nll_N = torch.nn.functional.cross_entropy(network.logits(hidden), targets_N, reduction="none").double()
        sums = torch.zeros(len(rows), dtype=torch.float64)
        sums.index_add_(0, torch.repeat_interleave(torch.arange(len(rows)), inputs.lengths_P), nll_N)
        nll_P[chosen] = (sums / inputs.lengths_P).numpy()
        features_PF[chosen] = [nll_features(-part.numpy(force=True)) for part in nll_N.split(inputs.lengths_P.tolist())]
    return nll_P, dict(zip(FEATURES, features_PF.T, strict=True))
