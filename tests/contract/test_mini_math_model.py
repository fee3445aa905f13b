"""Mini-math: the tokenizer, pre-training and the shipped model."""

import dataclasses
import json
import pathlib
import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_prep.mini_math import prepare
from data_prep.mini_math.passrate import measure, report
from data_prep.mini_math.pretrain import Recipe, build_model, build_tokenizer, corpus_batches, save, train
from data_prep.mini_math.task import sample_pool

ASSETS = pathlib.Path(__file__).parents[2] / "assets"
SHIPPED = ASSETS / "mini-math-qwen2"
FOREIGN_TEXTS = ["12 + 345 = 357", "世界,你好。", "naïve café 🎉👩‍🚀", "a\n\n  b\tc\r\n", r"\boxed{\frac{1}{2}}"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shipped():
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    return AutoModelForCausalLM.from_pretrained(SHIPPED, dtype=torch.float32).eval(), tokenizer


def test_shipped_tokenizer_is_the_one_its_recipe_trains(tmp_path):
    build_tokenizer(Recipe()).save_pretrained(tmp_path)
    trained, shipped = (
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) for folder in (tmp_path, SHIPPED)
    )
    assert trained["model"] == shipped["model"]


def test_shipped_tokenizer_keeps_any_text_single_digits_and_chatml(shipped):
    _, tokenizer = shipped
    assert [tokenizer.decode(tokenizer.encode(text)) for text in FOREIGN_TEXTS] == FOREIGN_TEXTS
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode("x=1234567890")]
    assert [piece for piece in pieces if re.search(r"\d", piece)] == list("1234567890")
    chat = [{"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert [len(tokenizer.encode(one)) for one in ("\n", "<|im_start|>", "<|im_end|>", "<|endoftext|>")] == [1] * 4


def test_shipped_model_is_small_and_fits_its_tokenizer(shipped):
    model, tokenizer = shipped
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) <= 5 * 2**20
    assert model.config.model_type == "qwen2"
    assert model.config.vocab_size == len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert model.config.max_position_embeddings >= 4096
    assert (model.config.eos_token_id, model.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    foreign = torch.tensor([tokenizer.encode("\n".join(FOREIGN_TEXTS))])
    assert torch.isfinite(model(input_ids=foreign).logits).all()


def test_shipped_model_leaves_room_for_learning(shipped):
    model, tokenizer = shipped
    torch.manual_seed(0)
    table = measure(model, tokenizer, sample_pool(96, split="dev", seed=0), num_samples=4)
    assert 0.2 < table["pass_rate"].mean() < 0.5
    assert table["greedy"].mean() > table["pass_rate"].mean() + 0.05
    by_ops = table.groupby("num_ops")["pass_rate"].mean()
    assert by_ops[1] > by_ops[2] > by_ops[4]
    assert table["perplexity"].rank().corr(table["pass_rate"].rank()) < -0.2
    assert "| 4 |" in report(table)


@pytest.mark.parametrize("arch", ["qwen2", "llama"])
def test_pretraining_lowers_the_loss_and_repeats_exactly(arch, tmp_path):
    recipe = dataclasses.replace(Recipe(), arch=arch, num_steps=8, batch_size=8, warmup_steps=3, num_layers=1)
    tokenizer = build_tokenizer(recipe)
    models = [build_model(tokenizer, recipe) for _ in range(2)]
    losses = [train(model, corpus_batches(tokenizer, recipe), recipe) for model in models]
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0] - 0.5
    save(models[1], tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert loaded.config.model_type == arch
    tokens = torch.tensor([tokenizer.encode("Tom has 5 apples.")])
    torch.testing.assert_close(loaded(input_ids=tokens).logits, models[1](input_ids=tokens).logits)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is type(AutoTokenizer.from_pretrained(SHIPPED))


def test_shipped_problems_are_made_again_to_the_byte(tmp_path):
    prepare(tmp_path, num_train=6000, num_test=300, seed=0)
    for split in ("train", "test"):
        name = f"mini_math_{split}.parquet"
        assert (tmp_path / name).read_bytes() == (ASSETS / "mini-math" / name).read_bytes()
