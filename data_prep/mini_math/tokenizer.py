"""The mini-math tokenizer: byte-level BPE trained on the corpus, in the format of Qwen2's.

All 256 bytes are in the vocabulary, so any text can be encoded. Qwen2's pre-tokenizer splits numbers into digits. Like
Qwen2's, it normalises to Unicode NFC: text in another form is decoded in its composed form.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

END_OF_TEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MODEL_MAX_LENGTH = 4096
_MAX_VOCAB_SIZE = 1024


def train_tokenizer(texts: Iterable[str]) -> Qwen2Tokenizer:
    """Train on texts without special tokens. Each word that occurs twice becomes one token.

    The vocabulary has no gaps: the model's vocabulary size is ``len(tokenizer)``.
    """
    # Qwen2Tokenizer always installs these when it is loaded, whatever tokenizer.json says.
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=_MAX_VOCAB_SIZE,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[END_OF_TEXT, IM_START, IM_END],
    )
    trained.train_from_iterator([*texts, "user", "assistant", "system"], trainer)
    return _as_qwen2(trained)


def _as_qwen2(trained: Tokenizer) -> Qwen2Tokenizer:
    model: Any = json.loads(trained.to_str())["model"]
    merges: Any = [tuple(merge) for merge in model["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=merges,
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[IM_START],
        model_max_length=MODEL_MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
