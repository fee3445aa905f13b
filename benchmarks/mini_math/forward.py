"""Forward passes of a small Qwen2 or Llama model over its own parameters, without what a small model spends on padding.

Transformers' own modules compute the same (tests hold them together); on one thread and 0.6M parameters two thirds of
their time goes to padding, to prompts that are computed once for each rollout, and to calls.

Suffixes of array names: ``_N`` tokens of all texts one after the other, ``_P`` texts (prompts), ``_R`` rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu
from transformers import PreTrainedModel

MAX_POSITIONS = 512
# (layer, queries [N, heads, d], keys and values [N, kv heads, d]) -> [N, heads, d]
Attention = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class _Layer:
    """Weights of one layer, those that read the same input put together."""

    norm_before_attention: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    out: torch.Tensor
    norm_before_mlp: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class Network:
    """A model's parameters, ready for forward passes; gradients go to the model. To be made again after an update."""

    def __init__(self, model: PreTrainedModel) -> None:
        config = model.config
        assert config.model_type in ("qwen2", "llama") and config.hidden_act == "silu", config.model_type
        assert config.rope_parameters["rope_type"] == "default" and not getattr(config, "use_sliding_window", False)
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self._eps = config.rms_norm_eps
        inner = model.model
        self._embed, self._norm, self._head = inner.embed_tokens, inner.norm.weight, model.lm_head.weight
        self.layers = [self._read_layer(layer) for layer in inner.layers]
        angles = torch.outer(torch.arange(MAX_POSITIONS, dtype=torch.float32), inner.rotary_emb.inv_freq.float())
        self._cos, self._sin = angles.cos()[:, None], angles.sin()[:, None]

    @staticmethod
    def _read_layer(layer: torch.nn.Module) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        assert attention.o_proj.bias is None and mlp.gate_proj.bias is None
        return _Layer(
            layer.input_layernorm.weight,
            torch.cat([projection.weight for projection in projections]),
            None if projections[0].bias is None else torch.cat([projection.bias for projection in projections]),
            attention.o_proj.weight,
            layer.post_attention_layernorm.weight,
            torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
            mlp.down_proj.weight,
        )

    def hidden(
        self, tokens_N: torch.Tensor, positions_N: torch.Tensor, attend: Attention, wanted_W: torch.Tensor
    ) -> torch.Tensor:
        """Last hidden states of the wanted tokens before the final norm, shape [W, hidden].

        The last layer computes no more than keys and values of the others.

        Args:
            attend: called with queries of all tokens, in the last layer with those of the wanted ones.
            wanted_W: places of tokens.
        """
        cos, sin = self._cos[positions_N], self._sin[positions_N]
        x = self._embed(tokens_N)
        width = x.shape[-1:]
        for i, layer in enumerate(self.layers):
            normed = rms_norm(x, width, layer.norm_before_attention, self._eps)
            if i < len(self.layers) - 1:
                qkv = linear(normed, layer.qkv, layer.qkv_bias).view(len(x), -1, self.head_dim)
                qk, v = qkv.split([self.heads + self.kv_heads, self.kv_heads], 1)
                q, k = _rotated(qk, cos, sin).split([self.heads, self.kv_heads], 1)
            else:
                weights = layer.qkv.split([self.heads * self.head_dim, 2 * self.kv_heads * self.head_dim])
                biases = (None, None) if layer.qkv_bias is None else layer.qkv_bias.split([len(w) for w in weights])
                kv = linear(normed, weights[1], biases[1]).view(len(x), -1, self.head_dim)
                k, v = kv.split([self.kv_heads, self.kv_heads], 1)
                k, x = _rotated(k, cos, sin), x[wanted_W]
                q = linear(normed[wanted_W], weights[0], biases[0]).view(len(x), -1, self.head_dim)
                q = _rotated(q, cos[wanted_W], sin[wanted_W])
            x = x + linear(attend(i, q, k, v).reshape(len(x), -1), layer.out)
            gate, up = linear(rms_norm(x, width, layer.norm_before_mlp, self._eps), layer.gate_up).chunk(2, -1)
            x = x + linear(silu(gate) * up, layer.down)
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of last hidden states, shape [..., vocabulary]."""
        return linear(rms_norm(hidden, hidden.shape[-1:], self._norm, self._eps), self._head)

    def grouped(self, q: torch.Tensor) -> torch.Tensor:
        """Queries [B, T, heads, d] as [B, kv heads, heads / kv heads x T, d]: one matrix for each key head."""
        batch, length = q.shape[:2]
        share = self.heads // self.kv_heads
        return (
            q.view(batch, length, self.kv_heads, share, -1)
            .permute(0, 2, 3, 1, 4)
            .reshape(batch, self.kv_heads, share * length, -1)
        )

    def ungrouped(self, out: torch.Tensor, length: int) -> torch.Tensor:
        """The opposite of :meth:`grouped`: [B, T, heads, d]."""
        share = self.heads // self.kv_heads
        parts = out.view(len(out), self.kv_heads, share, length, -1).permute(0, 3, 1, 2, 4)
        return parts.reshape(len(out), length, self.heads, -1)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of queries or keys [N, heads, d]; halves as in Transformers' ``rotate_half``."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Texts:
    """Texts of different lengths: their tokens one after the other, and as right-padded rows where attention needs it.

    Args:
        texts: token ids of each text; not empty.
    """

    def __init__(self, texts: Sequence[torch.Tensor]) -> None:
        self.lengths_P = torch.tensor([len(text) for text in texts])
        self.tokens_N = torch.cat(list(texts))
        self.longest = int(self.lengths_P.max())
        ends_P = self.lengths_P.cumsum(0)
        self.starts_P = ends_P - self.lengths_P
        self.last_P = ends_P - 1
        place_T = torch.arange(self.longest)
        self.is_token_PT = place_T < self.lengths_P[:, None]
        self._padded_PT = torch.where(self.is_token_PT, self.starts_P[:, None] + place_T, self.last_P[:, None])
        self._packed_N = self.is_token_PT.flatten().nonzero()[:, 0]
        self.positions_N = place_T.expand_as(self.is_token_PT)[self.is_token_PT]

    def padded(self, x_N: torch.Tensor) -> torch.Tensor:
        """Rows [P, T, ...]; what stands behind a text's end is some of its values again."""
        return x_N.index_select(0, self._padded_PT.flatten()).view(*self._padded_PT.shape, *x_N.shape[1:])

    def packed(self, x_PT: torch.Tensor) -> torch.Tensor:
        """The opposite of :meth:`padded`."""
        return x_PT.flatten(0, 1).index_select(0, self._packed_N)


def _causal(length: int) -> torch.Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


class CausalAttention:
    """Attention within texts; keeps the keys and values [P, kv heads, T, d] of each layer.

    Where it is called with one query for each text, that is its last token's.
    """

    def __init__(self, network: Network, texts: Texts) -> None:
        self._network, self._texts = network, texts
        share = network.heads // network.kv_heads
        # Right padding needs no more mask: no earlier token sees it.
        self._mask = _causal(texts.longest).repeat(share, 1)
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self.keep(k, v)
        if len(q) == len(self._texts.lengths_P) < len(k):
            mask = self._texts.is_token_PT[:, None, None]
            out = scaled_dot_product_attention(
                self._network.grouped(q[:, None]), self.keys[-1], self.values[-1], attn_mask=mask
            )
            return self._network.ungrouped(out, 1)[:, 0]
        return self.attend(q)

    def keep(self, k: torch.Tensor, v: torch.Tensor) -> None:
        """Keep keys and values of a further layer."""
        self.keys.append(self._texts.padded(k).transpose(1, 2))
        self.values.append(self._texts.padded(v).transpose(1, 2))

    def attend(self, q: torch.Tensor) -> torch.Tensor:
        """Attention of all tokens to the keys that were kept last."""
        queries = self._network.grouped(self._texts.padded(q))
        out = scaled_dot_product_attention(queries, self.keys[-1], self.values[-1], attn_mask=self._mask)
        return self._texts.packed(self._network.ungrouped(out, self._texts.longest))


class ResponseAttention:
    """Attention of responses to themselves and to their prompts, which are computed once for all of them.

    The tokens of all prompts stand before those of all responses, and only the latter are wanted of the last layer.

    Args:
        prompt_R: place of each response's prompt.
    """

    def __init__(self, network: Network, prompts: Texts, responses: Texts, prompt_R: torch.Tensor) -> None:
        self._network, self._responses, self._prompt_R = network, responses, prompt_R
        self._of_prompts, self._first = CausalAttention(network, prompts), len(prompts.tokens_N)
        num, length = len(prompt_R), responses.longest
        of_prompt = prompts.is_token_PT[prompt_R][:, None].expand(num, length, prompts.longest)
        mask = torch.cat([of_prompt, _causal(length).expand(num, length, length)], 2)
        self._mask = mask.repeat(1, network.heads // network.kv_heads, 1)[:, None]

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        network, prompts, responses = self._network, self._of_prompts, self._responses
        prompts.keep(k[: self._first], v[: self._first])
        has_all = len(q) == len(k)
        of_prompts = prompts.attend(q[: self._first]) if has_all else q[:0]
        keys, values = (
            torch.cat([kept[-1].index_select(0, self._prompt_R), responses.padded(x[self._first :]).transpose(1, 2)], 2)
            for kept, x in ((prompts.keys, k), (prompts.values, v))
        )
        queries = network.grouped(responses.padded(q[self._first :] if has_all else q))
        out = scaled_dot_product_attention(queries, keys, values, attn_mask=self._mask)
        return torch.cat([of_prompts, responses.packed(network.ungrouped(out, responses.longest))])


class CachedAttention:
    """Attention of one new token of each rollout to its prompt and to its tokens before.

    Args:
        prompts: of these rollouts.
        prompt_R: place of each rollout's prompt.
        room: most new tokens.
    """

    def __init__(self, network: Network, prompts: Texts, prompt_R: torch.Tensor, room: int) -> None:
        self._network, self._filled = network, prompts.longest
        size = (len(prompt_R), network.kv_heads, self._filled + room, network.head_dim)
        self._keys, self._values = ([torch.empty(size) for _ in network.layers] for _ in range(2))
        self._bias = torch.zeros(len(prompt_R), 1, 1, size[2])
        self._bias[:, 0, 0, : self._filled].masked_fill_(~prompts.is_token_PT[prompt_R], float("-inf"))

    def fill(self, rows: slice, prompts: CausalAttention, prompt_R: torch.Tensor) -> None:
        """Take over keys and values of prompts, after their pass, for these rollouts; ``prompt_R`` their places."""
        for cached, of_prompts in ((self._keys, prompts.keys), (self._values, prompts.values)):
            for mine, theirs in zip(cached, of_prompts, strict=True):
                mine[rows, :, : theirs.shape[2]] = theirs[prompt_R]
                mine[rows, :, theirs.shape[2] : self._filled] = 0.0

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rollouts but these."""
        for cached in (self._keys, self._values):
            for i, before in enumerate(cached):
                cached[i] = torch.empty(len(rows), *before.shape[1:])
                cached[i][:, :, : self._filled] = before[:, :, : self._filled].index_select(0, rows)
        self._bias = self._bias[rows]

    def advance(self) -> None:
        """Make room for the next token; to be called before each pass."""
        self._filled += 1

    def __call__(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        keys, values, filled = self._keys[layer], self._values[layer], self._filled
        keys[:, :, filled - 1], values[:, :, filled - 1] = k, v
        bias = self._bias[..., :filled]
        grouped = self._network.grouped(q[:, None])
        out = scaled_dot_product_attention(grouped, keys[:, :, :filled], values[:, :, :filled], attn_mask=bias)
        return self._network.ungrouped(out, 1)[:, 0]
