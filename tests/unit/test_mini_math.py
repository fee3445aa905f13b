"""Mini-math: the generator, its tokenizer, pre-training and the shipped model."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import pathlib
import random
import re
import statistics

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data_prep.mini_math import prepare
from data_prep.mini_math.passrate import encode_prompts, measure, prompt_perplexities, report, sample_passes
from data_prep.mini_math.pretrain import Recipe, build_model, build_tokenizer, corpus_batches, save, train
from data_prep.mini_math.task import (
    CELLS,
    TASKS,
    CorpusStyle,
    extract_answer,
    sample_corpus_document,
    sample_pool,
    split_of,
    worked_solution,
)
from recipe.prepo.errors import DataError

SHIPPED = pathlib.Path(__file__).parents[2] / "assets" / "mini-math-qwen2"
FOREIGN_TEXTS = [
    "12 + 345 = 357",
    "世界,你好。",
    "naïve café 🎉👩‍🚀",
    "a\n\n  b\tc\r\n",
    "\\boxed{\\frac{1}{2}}",
    "Ω≈ç√∫",
]


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


@pytest.fixture(scope="module")
def retrained_tokenizer(tmp_path_factory):
    """A tokenizer trained here, saved, and loaded again the way users load it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(Recipe()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_pool_depends_on_the_seed_and_nothing_else(task):
    first = sample_pool(120, split="train", seed=3, task=task)
    random.seed(99)
    assert sample_pool(120, split="train", seed=3, task=task) == first
    assert sample_pool(120, split="train", seed=4, task=task) != first


def test_generator_is_the_same_on_every_machine():
    # Published figures refer to this very pool: changing the generator must be a decision, not an accident.
    text = "\n".join(problem.question for problem in sample_pool(300, split="test", seed=0))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "5762b09f4d02ca41"


@pytest.mark.parametrize("task", TASKS)
def test_answers_equal_an_independent_evaluation_of_the_question(task):
    for problem in sample_pool(600, split="train", seed=0, task=task):
        expected = _evaluate_words(problem.question) if task == "words" else _evaluate_expression(problem.question)
        assert problem.answer == expected, problem.question
        assert extract_answer(worked_solution(problem)) == expected


def _evaluate_expression(question: str) -> int:
    """`x = 5, +7, *2, x = ?` by nesting parentheses and letting Python evaluate them."""
    first, *operations, last = question.split(", ")
    variable = first[0]
    assert last == f"{variable} = ?"
    expression = first.removeprefix(f"{variable} = ")
    for operation in operations:
        expression = f"({expression}{operation})"
    return eval(expression, {"__builtins__": {}})


def _evaluate_words(question: str) -> int:
    """The story read sentence by sentence through its verbs, not through the generator's steps."""
    opening, *sentences, _ = re.findall(r"[^.?]+[.?]", question)
    (value,) = map(int, re.findall(r"\d+", opening))
    for sentence in sentences:
        numbers = [int(number) for number in re.findall(r"\d+", sentence)]
        if "friends" in sentence:
            value += numbers[0] * numbers[1]
        elif "doubles" in sentence:
            value *= 2
        elif "triples" in sentence:
            value *= 3
        elif re.search(r"loses|takes|sells|runs off|borrows", sentence):
            value -= numbers[0]
        else:
            assert re.search(r"buys|brings|finds|hands over|mails", sentence), sentence
            value += numbers[0]
        assert value >= 0
    return value


@pytest.mark.parametrize("task", TASKS)
def test_pool_is_even_over_the_difficulty_cells_and_without_repeats(task):
    problems = sample_pool(10 * len(CELLS), split="dev", seed=0, task=task)
    counts = pd.Series([(problem.num_ops, problem.scale) for problem in problems]).value_counts()
    assert counts.to_dict() == dict.fromkeys(CELLS, 10)
    assert len({problem.question for problem in problems}) == len(problems)
    assert len({problem.prompt_id for problem in problems}) == len(problems)


def test_no_question_is_in_two_splits_and_the_corpus_holds_no_held_out_question():
    rng = random.Random(0)
    questions = {
        "train": {problem.question for problem in sample_pool(1200, split="train", seed=1)},
        "test": {problem.question for problem in sample_pool(600, split="test", seed=1)},
        "dev": {problem.question for problem in sample_pool(600, split="dev", seed=1)},
        "corpus": {sample_corpus_document(rng, CorpusStyle())[0] for _ in range(5000)},
    }
    for first, second in itertools.combinations(questions, 2):
        if (first, second) != ("train", "corpus"):
            assert not questions[first] & questions[second]
    assert {split_of(question) for question in questions["corpus"]} == {"train"}


def test_asking_for_more_questions_than_exist_says_so():
    with pytest.raises(DataError, match=r"100000 expressions problems .* ask for fewer"):
        sample_pool(100_000, split="dev", seed=0, task="expressions")


@pytest.mark.parametrize("num_train", [0, -3])
def test_asking_for_no_questions_says_so(tmp_path, num_train):
    with pytest.raises(DataError, match=rf"{num_train} words problems .* at least 1"):
        prepare(tmp_path, num_train=num_train, num_test=1, seed=0)


def test_corpus_mixes_right_and_wrong_direct_and_worked_solutions():
    rng, style = random.Random(0), CorpusStyle(direct_frac=0.5, slip_frac=0.2, expressions_frac=0.0)
    solutions = [(question, sample_corpus_document(rng, style)) for question in range(2000)]
    documents = [document for _, document in solutions]
    direct = [solution.startswith("####") for _, solution in documents]
    right = [extract_answer(solution) == _evaluate_words(question) for question, solution in documents]
    assert 0.45 < statistics.mean(direct) < 0.55
    # A direct answer is right with 0.8 (and by luck); a chain of n steps with about 0.8 ** n.
    right_if_direct = statistics.mean(r for r, d in zip(right, direct, strict=True) if d)
    right_if_worked = statistics.mean(r for r, d in zip(right, direct, strict=True) if not d)
    assert 0.75 < right_if_direct < 0.90
    assert 0.50 < right_if_worked < right_if_direct
    clean = [sample_corpus_document(rng, CorpusStyle(0.5, 0.0, 0.0)) for _ in range(500)]
    assert all(extract_answer(solution) == _evaluate_words(question) for question, solution in clean)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("5 +7=12 #### 12", 12),
        ("#### 0\n", 0),
        ("#### 3 #### 4", 4),
        ("5 +7=12", None),
        ("#### 12 or 13", None),
        ("#### ", None),
        ("", None),
    ],
)
def test_extract_answer_takes_the_closing_answer_only(response, answer):
    assert extract_answer(response) == answer


def test_prepare_writes_rows_of_the_contract(tmp_path):
    summaries = prepare(tmp_path, num_train=48, num_test=24, seed=7)
    assert [(summary.num_read, summary.num_kept) for summary in summaries] == [(48, 48), (24, 24)]
    tables = {split: pd.read_parquet(tmp_path / f"mini_math_{split}.parquet") for split in ("train", "test")}
    ids = [row["prompt_id"] for table in tables.values() for row in table["extra_info"]]
    assert len(set(ids)) == 72
    for split, table in tables.items():
        assert set(table["data_source"]) == {"mini_math"}
        for index, row in enumerate(table.to_dict("records")):
            (message,) = row["prompt"]
            assert message["role"] == "user"
            assert int(row["reward_model"]["ground_truth"]) == _evaluate_words(message["content"])
            assert (row["extra_info"]["split"], row["extra_info"]["index"]) == (split, index)
            assert (row["extra_info"]["num_ops"], row["extra_info"]["scale"]) in CELLS
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    prepare(tmp_path, num_train=48, num_test=24, seed=7)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.parquet")} == before


@pytest.fixture(params=["retrained", "shipped"])
def tokenizer(request, retrained_tokenizer):
    return AutoTokenizer.from_pretrained(retrained_tokenizer if request.param == "retrained" else SHIPPED)


@pytest.mark.parametrize("text", FOREIGN_TEXTS)
def test_tokenizer_round_trips_any_text(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tokenizer_splits_digits_and_keeps_newline_whole(tokenizer):
    assert len(tokenizer.encode("\n")) == 1
    for text in ["1234567890", "x=1234567890", "99 balloons"]:
        pieces = [tokenizer.decode([token]) for token in tokenizer.encode(text)]
        digits = [piece for piece in pieces if any(character.isdigit() for character in piece)]
        assert "".join(digits) == "".join(re.findall(r"\d", text))
        assert all(len(digit) == 1 for digit in digits)


def test_tokenizer_writes_chatml_without_a_system_prompt(tokenizer):
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    for special in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"):
        assert len(tokenizer.encode(special)) == 1
    assert tokenizer.decode(tokenizer.encode("Hi<|im_end|>"), skip_special_tokens=True) == "Hi"


def test_prompts_and_solutions_are_short(tokenizer):
    problems = sample_pool(600, split="test", seed=0)
    prompt_tokens = [len(ids) for ids in encode_prompts(tokenizer, [problem.question for problem in problems])]
    solution_tokens = [len(tokenizer.encode(worked_solution(problem))) + 1 for problem in problems]
    assert 30 <= statistics.mean(prompt_tokens) <= 46
    assert max(prompt_tokens) <= 64
    assert max(solution_tokens) <= 40


def test_shipped_tokenizer_is_the_one_its_recipe_trains(retrained_tokenizer):
    trained, shipped = (
        json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) for folder in (retrained_tokenizer, SHIPPED)
    )
    assert trained["model"] == shipped["model"]


def test_shipped_model_is_small_and_fits_its_tokenizer(shipped):
    model, tokenizer = shipped
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= 5_000_000
    assert model.config.model_type == "qwen2"
    assert model.config.vocab_size == len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert model.config.max_position_embeddings >= 4096
    assert (model.config.eos_token_id, model.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    foreign = torch.tensor([tokenizer.encode("\n".join(FOREIGN_TEXTS))])
    assert torch.isfinite(model(input_ids=foreign).logits).all()


def test_shipped_model_knows_its_prompts_from_shuffled_ones(shipped):
    model, tokenizer = shipped
    prompts = encode_prompts(tokenizer, [problem.question for problem in sample_pool(24, split="test", seed=0)])
    shuffled = [random.Random(0).sample(ids, len(ids)) for ids in prompts]
    known = statistics.mean(prompt_perplexities(model, prompts))
    assert known < 5
    assert statistics.mean(prompt_perplexities(model, shuffled)) > 10 * known


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


def test_a_response_that_does_not_end_by_itself_does_not_pass(shipped, monkeypatch):
    model, tokenizer = shipped
    problems = sample_pool(24, split="dev", seed=0)
    assert sample_passes(model, tokenizer, problems, num_samples=1, greedy=True).any()
    monkeypatch.setattr("data_prep.mini_math.passrate.MAX_RESPONSE_TOKENS", 3)
    assert not sample_passes(model, tokenizer, problems, num_samples=1, greedy=True).any()


@pytest.mark.parametrize("arch", ["qwen2", "llama"])
def test_pretraining_lowers_the_loss_and_repeats_exactly(arch, tmp_path):
    recipe = dataclasses.replace(Recipe(), arch=arch, num_steps=12, batch_size=8, warmup_steps=4, num_layers=1)
    tokenizer = build_tokenizer(recipe)
    losses = []
    for _ in range(2):
        model = build_model(tokenizer, recipe)
        losses.append(train(model, corpus_batches(tokenizer, recipe), recipe))
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0] - 0.5
    save(model, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert loaded.config.model_type == arch
    tokens = torch.tensor([tokenizer.encode("Tom has 5 apples.")])
    torch.testing.assert_close(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is type(AutoTokenizer.from_pretrained(SHIPPED))


def test_padding_takes_no_part_in_the_loss():
    recipe = dataclasses.replace(Recipe(), num_steps=1, batch_size=4, num_layers=1)
    tokenizer = build_tokenizer(recipe)
    batch = next(corpus_batches(tokenizer, recipe))
    wider = torch.nn.functional.pad(batch, (0, 7), value=-100)
    losses = [train(build_model(tokenizer, recipe), iter([tokens]), recipe)[0] for tokens in (batch, wider)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
