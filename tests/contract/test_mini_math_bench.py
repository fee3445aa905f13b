"""The fast loop on the tiny model: it computes what verl computes, and does what the recipe's controller decides."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from benchmarks import confirm
from benchmarks.mini_math import __main__ as command
from benchmarks.mini_math import full, policy, rates, runs
from benchmarks.mini_math.archive import merged
from benchmarks.mini_math.collect import PromptStream
from benchmarks.mini_math.evaluation import Evaluator
from benchmarks.mini_math.figures import STYLES
from benchmarks.mini_math.grade import Prompt, grade
from benchmarks.mini_math.methods import METHODS, OLD_NAMES, read_method
from benchmarks.mini_math.numbers import (
    GROUP_SHARES,
    Curves,
    accuracy_at,
    area,
    entropy_at,
    entropy_kept,
    group_shares,
    mean_difference,
    reach_target,
    rollouts_to,
)
from benchmarks.mini_math.options import Options
from benchmarks.mini_math.oracle import OracleSelection
from benchmarks.mini_math.policy import (
    Responses,
    draw_tokens,
    generate,
    prompt_nll_nats,
    response_log_probs,
    torch_generator,
)
from benchmarks.mini_math.report import render
from benchmarks.mini_math.settings import (
    HARD_CELLS,
    SHIPPED,
    candidates,
    compose_pool,
    expected_shares,
    held_out_prompts,
    load_model,
    mislabelled,
    prepare_base,
    prepare_pool,
    problems_of,
)
from benchmarks.mini_math.summary import PAIRS, Comparison
from benchmarks.mini_math.update import MICRO_BATCH, group_advantages, policy_loss, update_policy
from data_prep.mini_math.passrate import encode_prompts, prompt_perplexities
from data_prep.mini_math.pretrain import Recipe, build_model, build_tokenizer
from data_prep.mini_math.task import CorpusStyle, sample_corpus_document, sample_pool, split_of
from recipe.prepo.errors import ConfigError, NumericsError
from recipe.prepo.rules.registry import SELECTION
from recipe.prepo.types import Candidates

ROOT = Path(__file__).parents[2]
TINY = Options(
    steps=3,
    num_selected=4,
    rollouts_per_prompt=4,
    pool=40,
    held_out=30,
    eval_every=2,
    probe=6,
    oracle_samples=4,
    pool_samples=8,
)
TINY_FLAGS = [
    *("--steps", "3", "--num-selected", "4", "--rollouts-per-prompt", "4", "--pool", "40", "--held-out", "30"),
    *("--eval-every", "2", "--probe", "6", "--oracle-samples", "4", "--pool-samples", "8", "--jobs", "1"),
]
SMOKE = ("random", "grpo_5x", "prepo", "greso", "dapo", "e3", "prepo_e3", "prepo_skip", "mopps_ppl", "oracle")


@pytest.fixture(scope="module")
def shipped() -> Any:
    torch.set_num_threads(1)
    return load_model(SHIPPED)


@pytest.fixture(scope="module")
def prompts(shipped: Any) -> list[list[int]]:
    return encode_prompts(shipped[1], [problem.question for problem in sample_pool(6, split="test", seed=1)])


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with one finished run of each method of SMOKE, audit lines included."""
    folder = tmp_path_factory.mktemp("mini_math")
    for name in SMOKE:
        runs.run_task(runs.make_task(name, 0, TINY, cache=folder / "cache", out=folder, audit=True))
    return folder


def read_run(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "runs" / f"{name}-0.json").read_text(encoding="utf-8"))


def audit_lines(folder: Path, method: str, name: str) -> list[dict[str, Any]]:
    text = (folder / "audit" / f"{method}-0" / "audit" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


# ---- the policy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.7, 1.4])
def test_generation_agrees_with_teacher_forcing(
    shipped: Any, prompts: list[list[int]], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "TOGETHER", 2)  # prompts of different lengths are prefilled one piece after the other
    monkeypatch.setattr(policy, "MAX_BATCH", 13)
    model, tokenizer = shipped
    sizes = [3, 1, 7, 2, 5, 4]
    responses = generate(
        model,
        prompts,
        sizes,
        temperature=temperature,
        max_tokens=48,
        eos_id=tokenizer.eos_token_id,
        generator=torch_generator(0, "test"),
    )
    prompts_R = [prompt for prompt, size in zip(prompts, sizes, strict=True) for _ in range(size)]
    assert len(responses) == 22 and len(set(responses.num_tokens_R.tolist())) > 3
    for i, (prompt, tokens) in enumerate(zip(prompts_R, responses.token_ids(), strict=True)):
        assert tokenizer.eos_token_id not in tokens[:-1]
        assert tokens[-1] == tokenizer.eos_token_id or len(tokens) == 48
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
        log_dist = torch.log_softmax(logits.double() / temperature, -1)
        expected = log_dist[torch.arange(len(tokens)), tokens]
        entropy = -(log_dist.exp() * log_dist).sum(-1)
        n = len(tokens)
        torch.testing.assert_close(responses.log_probs_RT[i, :n].double(), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(responses.entropies_RT[i, :n].double(), entropy, atol=1e-4, rtol=0)
        assert responses.entropy_nats_R[i] == pytest.approx(float(entropy.mean()), abs=1e-4)
    with torch.no_grad():
        again = response_log_probs(
            model, prompts_R, responses.tokens_RT, responses.mask_RT, torch.full((22,), temperature)
        )
    torch.testing.assert_close(again, responses.log_probs_RT, atol=1e-4, rtol=0)


def test_each_rollout_has_its_own_temperature(shipped: Any, prompts: list[list[int]]) -> None:
    model, _ = shipped
    tokens = torch.tensor([[20, 21, 22], [20, 21, 22]])
    mask = torch.ones(2, 3, dtype=torch.bool)
    with torch.no_grad():
        both = response_log_probs(model, [prompts[0]] * 2, tokens, mask, torch.tensor([0.5, 2.0]))
        hot = response_log_probs(model, [prompts[0]], tokens[:1], mask[:1], torch.tensor([2.0]))
    torch.testing.assert_close(both[1], hot[0], atol=1e-5, rtol=0)
    assert not torch.allclose(both[0], both[1], atol=0.1)


@pytest.mark.parametrize("together", [2, 32])
def test_prompt_scores_agree_with_the_measuring_script(
    shipped: Any, prompts: list[list[int]], together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "TOGETHER", together)
    expected = prompt_perplexities(shipped[0], prompts)
    np.testing.assert_allclose(np.exp(prompt_nll_nats(shipped[0], prompts)), expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["qwen2", "llama"])
def test_forward_and_backward_are_those_of_transformers(arch: Any, prompts: list[list[int]]) -> None:
    """Of a model whose every parameter matters: shared prompts, ragged texts and own temperatures change nothing."""
    recipe = Recipe(arch=arch, num_layers=2)
    model = build_model(build_tokenizer(recipe), recipe)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    prompts_R = [prompts[i] for i in (0, 0, 2, 1, 2)]
    lengths_R = [5, 1, 3, 7, 4]
    tokens = torch.randint(3, 500, (5, 7), generator=torch.Generator().manual_seed(0))
    tokens[3, 2] = model.config.pad_token_id  # may be sampled, too; its embedding is not trained
    mask = torch.arange(7) < torch.tensor(lengths_R)[:, None]
    temperature_R = torch.tensor([0.5, 1.0, 2.0, 1.0, 1.5])
    factor = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))

    expected = torch.zeros(5, 7)
    for i, (prompt, n) in enumerate(zip(prompts_R, lengths_R, strict=True)):
        logits = model(input_ids=torch.tensor([[*prompt, *tokens[i, :n].tolist()]])).logits[0, len(prompt) - 1 : -1]
        expected[i, :n] = torch.log_softmax(logits / temperature_R[i], -1).gather(1, tokens[i, :n, None])[:, 0]
    (expected * factor).sum().backward()
    expected_gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    mine = response_log_probs(model, prompts_R, tokens, mask, temperature_R)
    (mine * factor).sum().backward()
    torch.testing.assert_close(mine, expected, atol=2e-4, rtol=1e-5)
    for (name, parameter), theirs in zip(model.named_parameters(), expected_gradients, strict=True):
        assert theirs.abs().max() > 0.0, name
        torch.testing.assert_close(parameter.grad, theirs, atol=1e-4 * float(theirs.abs().max()), rtol=1e-3, msg=name)
    np.testing.assert_allclose(np.exp(prompt_nll_nats(model, prompts)), prompt_perplexities(model, prompts), rtol=1e-3)


def test_a_model_that_diverged_samples_nothing(shipped: Any, prompts: list[list[int]]) -> None:
    model = copy.deepcopy(shipped[0])
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    options = {"temperature": 1.0, "max_tokens": 4, "eos_id": 2, "generator": torch_generator(0, "test")}
    with pytest.raises(NumericsError, match="diverged"):
        generate(model, prompts, [1] * len(prompts), **options)


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    dist = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    drawn = draw_tokens(dist.expand(40_000, 6), torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=6) / 40_000
    assert shares[[0, 2, 5]].tolist() == [0.0, 0.0, 0.0]
    torch.testing.assert_close(shares, dist, atol=0.012, rtol=0)  # five standard errors


def test_only_answers_that_end_by_themselves_are_right(shipped: Any) -> None:
    _, tokenizer = shipped
    texts = ["5 +7=12 #### 12<|im_end|>", "5 +7=12 #### 12", "5 +7=13 #### 13<|im_end|>", "<|im_end|>"]
    rows = [torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
    responses = Responses(tokens, mask, torch.zeros(tokens.shape), torch.zeros(tokens.shape))
    assert grade(tokenizer, responses, [12, 12, 12, 12]).tolist() == [1.0, 0.0, 0.0, 0.0]


# ---- the update -----------------------------------------------------------------------------------------------------


def test_advantages_and_loss_are_verls() -> None:
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage, compute_policy_loss_vanilla
    from verl.workers.config import ActorConfig

    rng = torch.Generator().manual_seed(0)
    group_R = np.array([0, 0, 0, 1, 2, 2, 2, 2])
    reward_R = np.array([1.0, 0.0, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0])
    mask = torch.arange(5)[None, :] < torch.tensor([5, 2, 3, 1, 5, 4, 2, 1])[:, None]
    token_rewards = torch.zeros(8, 5)
    token_rewards[:, 0] = torch.as_tensor(reward_R)
    expected, _ = compute_grpo_outcome_advantage(token_rewards, mask.float(), group_R)
    advantage_R = group_advantages(reward_R, group_R)
    np.testing.assert_allclose(advantage_R, expected[:, 0].numpy(), atol=1e-6)

    old = -torch.rand(8, 5, generator=rng)
    new = old + 2.0 * torch.randn(8, 5, generator=rng)
    config = ActorConfig(strategy="fsdp2", rollout_n=4, use_dynamic_bsz=True, clip_ratio=0.2, clip_ratio_c=3.0)
    config.global_batch_info.update({"loss_scale_factor": 48})
    weighted = torch.as_tensor(advantage_R * np.linspace(0.5, 2.0, 8), dtype=torch.float32)
    theirs, metrics = compute_policy_loss_vanilla(
        old, new, weighted[:, None] * mask, mask.float(), "seq-mean-token-sum-norm", config
    )
    loss, is_clipped = policy_loss(new, old, weighted, mask, clip_ratio=0.2, clip_ratio_c=3.0)
    assert float(loss.sum() / 48 / 8) == pytest.approx(float(theirs), rel=1e-5)
    assert float(is_clipped.sum() / mask.sum()) == pytest.approx(metrics["actor/pg_clipfrac"], abs=1e-6) != 0.0


def test_a_mini_batch_is_one_step_of_the_whole_loss(shipped: Any, prompts: list[list[int]]) -> None:
    """Micro-batches, left-out rollouts without advantage and ragged lengths change nothing."""
    tokenizer = shipped[1]
    model, other = copy.deepcopy(shipped[0]), copy.deepcopy(shipped[0])
    sizes = [10] * 6
    responses = generate(
        model,
        prompts,
        sizes,
        temperature=1.3,
        max_tokens=48,
        eos_id=tokenizer.eos_token_id,
        generator=torch_generator(1, "test"),
    )
    prompts_R = [prompt for prompt in prompts for _ in range(10)]
    advantage_R = np.resize([1.0, 0.0, -0.5, 2.0, 0.0], 60)
    assert np.count_nonzero(advantage_R) > MICRO_BATCH
    constants = {"clip_ratio": 0.2, "clip_ratio_c": 3.0}
    update_policy(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        prompts_R,
        responses,
        advantage_R,
        np.full(60, 1.3),
        [np.arange(60)],
        **constants,
        max_grad_norm=1e9,
        loss_scale_tokens=48,
    )
    log_probs = response_log_probs(other, prompts_R, responses.tokens_RT, responses.mask_RT, torch.full((60,), 1.3))
    advantages = torch.as_tensor(advantage_R, dtype=torch.float32)
    loss, _ = policy_loss(log_probs, responses.log_probs_RT, advantages, responses.mask_RT, **constants)
    (loss.sum() / 48 / 60).backward()
    for (name, mine), theirs, before in zip(
        model.named_parameters(), other.parameters(), shipped[0].parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs - 0.1 * theirs.grad, atol=1e-6, rtol=1e-4, msg=name)
        assert not torch.equal(mine, before), name


# ---- methods --------------------------------------------------------------------------------------------------------


FAST = ("grpo_5x", "prepo_end50", "oracle")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in METHODS])
def test_rules_of_a_method_are_those_of_conf(name: str) -> None:
    """Read from the yaml files without Hydra: the method, its rules' options, and the overrides of its label."""
    method = yaml.safe_load((ROOT / "conf" / "method" / f"{METHODS[name].method}.yaml").read_text(encoding="utf-8"))
    expected = {}
    for entry in method["defaults"]:
        ((key, rule),) = entry.items()
        group = key.removeprefix("override /prepo/")
        options = yaml.safe_load((ROOT / "conf" / "prepo" / group / f"{rule}.yaml").read_text(encoding="utf-8"))
        expected[group] = options | method.get("prepo", {}).get(group, {})
    if name == "greso":
        expected["selection"]["min_round"] = 4
    if name.startswith("prepo_end"):
        expected["selection"]["progress_end"] = int(name.removeprefix("prepo_end")) / 100
    if name in ("e3", "prepo_e3", "prepo_e3_target", "prepo_budget"):
        expected["budget"]["epoch_steps"] = 27
    if name == "prepo_e3_target":
        expected["temperature"]["target_nats"] = 0.3
    if name == "prepo_budget":
        expected["temperature"] = {"name": "constant"}
    if name == "oracle":
        expected["selection"] = {"name": "oracle"}
    if name.endswith("_skip50"):
        expected["selection"] |= {"p_easy": 0.5, "p_hard": 0.5}
    found = read_method(name, num_selected=16, rollouts_per_prompt=8, seed=3)
    assert found.rules == expected
    assert found.filters_groups == (name == "dapo")
    takes_all = name in ("grpo_5x", "grpo", "greso", "e3", "dapo")
    num_selected = 80 if name == "grpo_5x" else 16
    assert (found.prepo.num_selected, found.prepo.num_candidates) == (num_selected, num_selected if takes_all else 80)
    assert (found.prepo.seed, found.prepo.rollouts_per_prompt, found.loss_scale_tokens) == (3, 8, 48)


def test_labels_are_methods_of_conf_and_old_names_are_gone() -> None:
    known = {path.stem for path in (ROOT / "conf" / "method").glob("*.yaml")}
    assert known <= set(METHODS) and {entry.method for entry in METHODS.values()} <= known
    assert not set(OLD_NAMES) & set(METHODS) and set(OLD_NAMES.values()) <= set(METHODS)
    assert len(STYLES) >= len(METHODS)  # no two of them are drawn alike


def test_the_oracle_takes_the_largest_variance_and_stays_out_of_the_registry() -> None:
    rule = OracleSelection(OracleSelection.Config(), seed=0)
    rates = {"a": 0.0, "b": 0.5, "c": 0.9, "d": 1.0, "e": 0.3}
    rule.pass_rates = lambda ids: np.array([rates[i] for i in ids])
    selection = rule.select(Candidates(tuple(rates)), num_selected=3, progress=0.0)
    assert selection.indices_P.tolist() == [1, 4, 2]
    assert selection.skip_reasons == {0: "less_variance", 3: "less_variance"}
    assert "oracle" not in SELECTION


def test_methods_of_one_seed_see_the_pool_in_the_same_order() -> None:
    ids = [str(i) for i in range(10)]
    batches, singles = PromptStream(ids, seed=5), PromptStream(ids, seed=5)
    first = batches.draw_batch(4) + batches.draw_batch(4)
    assert first == tuple(singles.draw(1)[0] for _ in range(8))
    assert len(set(singles.draw(12))) == 10  # the two that were left, and the next epoch
    assert len(set(batches.draw_batch(4) + batches.draw_batch(4))) == 8  # those two are dropped
    assert PromptStream(ids, seed=6).draw(10) != PromptStream(ids, seed=5).draw(10)


# ---- a run ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOKE)
def test_curves_keep_their_contract(smoke: Path, name: str) -> None:
    run = read_run(smoke, name)
    assert [run[key] for key in ("row", "seed", "task", "model", "setting")] == [name, 0, "words", "qwen2", "fresh"]
    curve = run["curve"]
    evaluated = [point["rollouts"] for point in curve]
    budget = [0, 2 * 4 * 4, 3 * 4 * 4]
    assert len(curve) == 3 and all(used >= planned for used, planned in zip(evaluated, budget, strict=True))
    if name not in ("grpo_5x", "greso", "dapo"):  # whose steps have more rollouts
        assert evaluated == budget and [point["step"] for point in curve] == [0, 2, 3]
    else:
        assert evaluated[-2] < budget[-1] or curve[-1] == curve[-2]  # it stopped at the first step beyond
    for point in curve:
        for key in ("accuracy", "zero_advantage_frac", "all_correct_frac", "all_wrong_frac"):
            assert 0.0 <= point[key] <= 1.0
        assert point["entropy_nats"] > 0.0 and point["temperature"] > 0.0
        assert point["all_correct_frac"] + point["all_wrong_frac"] == pytest.approx(point["zero_advantage_frac"])
    for key in ("rollouts", "tokens"):
        assert curve[0][key] == 0 < curve[1][key] <= curve[2][key]
    assert curve[2]["tokens"] >= curve[2]["rollouts"]
    assert curve[0]["accuracy"] == read_run(smoke, "random")["curve"][0]["accuracy"]
    assert curve[0]["entropy_nats"] == read_run(smoke, "random")["curve"][0]["entropy_nats"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOKE)
def test_what_the_controller_chose_is_what_is_trained_on(smoke: Path, name: str) -> None:
    curve = read_run(smoke, name)["curve"]
    choices, rollouts = audit_lines(smoke, name, "selection"), audit_lines(smoke, name, "rollouts")
    dispatched = sum(sum(choice["rollout_n"].values()) for choice in choices)
    assert curve[-1]["rollouts"] == dispatched
    trained_tokens = sum(line["num_tokens"] for line in rollouts)
    num_selected = 20 if name == "grpo_5x" else 4
    chosen: dict[int, Counter[str]] = defaultdict(Counter)
    for choice in choices:
        chosen[choice["step"]].update(choice["rollout_n"])
    num_steps = curve[-1]["step"]
    assert set(chosen) == set(range(1, num_steps + 1))
    for step in chosen:
        of_step = [line for line in rollouts if line["step"] == step]
        trained = Counter(line["prompt_id"] for line in of_step)
        if name in ("greso", "dapo"):
            rewards = defaultdict(set)
            for line in of_step:
                rewards[line["prompt_id"]].add(line["reward"])
            assert not trained - chosen[step] and sum(trained.values()) == num_selected * 4
            assert all(values == {0.0, 1.0} for values in rewards.values())
        else:
            assert trained == chosen[step] and sum(trained.values()) == num_selected * 4
        temperatures = {choice["temperature"] for choice in choices if choice["step"] == step}
        assert {line["temperature"] for line in of_step} == temperatures
    if name in ("greso", "dapo"):
        assert dispatched > num_steps * num_selected * 4 and curve[-1]["tokens"] > trained_tokens
    else:
        assert curve[-1]["tokens"] == trained_tokens
    checked = subprocess.run(
        [sys.executable, ROOT / "scripts" / "check_audit.py", smoke / "audit" / f"{name}-0"],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
def test_e3_changes_temperature_and_a_run_is_repeatable(smoke: Path, tmp_path: Path) -> None:
    temperatures = read_run(smoke, "prepo_e3")["train"]["temperature"]
    assert temperatures[0] == 1.0 and temperatures[2] != 1.0
    runs.run_task(runs.make_task("prepo_e3", 0, TINY, cache=smoke / "cache", out=tmp_path))
    timed = ("seconds", "seconds_with_evaluation")
    again, first = (
        [
            {key: value for key, value in point.items() if key not in timed}
            for point in read_run(folder, "prepo_e3")["curve"]
        ]
        for folder in (tmp_path, smoke)
    )
    assert again == first


def test_a_comparison_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = [*TINY_FLAGS, "--out", str(out), "--cache", str(tmp_path / "cache")]
    assert command.main([*arguments, "--methods", "random", "--seeds", "0"]) == 0
    assert "1 runs, 0 of them finished already" in capsys.readouterr().out
    before = (out / "runs" / "random-0.json").stat().st_mtime_ns
    assert command.main([*arguments, "--rows", "uniform", "--seeds", "0"]) == 0  # as outside scripts ask
    assert "1 runs, 1 of them finished already" in capsys.readouterr().out
    assert (out / "runs" / "random-0.json").stat().st_mtime_ns == before
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [(result["row"], result["seed"]) for result in results] == [("uniform", 0)]

    task = runs.make_task("random", 0, TINY, cache=tmp_path / "cache", out=out)
    assert runs.is_finished(task)
    content = json.loads(task.path.read_text(encoding="utf-8")) | {"config": "of other rules"}
    task.path.write_text(json.dumps(content), encoding="utf-8")
    assert not runs.is_finished(task)

    assert command.main([*arguments, "--methods", "random", "--learning-rate", "0.5"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "--learning-rate 0.0001 (now 0.5)" in error


@pytest.mark.slow
def test_the_report_of_a_directory_can_be_drawn_again(smoke: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.claim_directory(smoke, TINY)
    assert command.main(["--out", str(smoke), "--report-only"]) == 0
    results = json.loads((smoke / "results.json").read_text(encoding="utf-8"))
    assert [result["row"] for result in results] == sorted(SMOKE, key=list(METHODS).index)
    assert [result["row"] for result in results if "note" in result] == ["oracle"]
    text = (smoke / "table.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert "n=1: no interval" in text and "a reference, not a method" in text
    assert len(list(smoke.glob("*.png"))) == 4 and all(path.stat().st_size > 5_000 for path in smoke.glob("*.png"))


@pytest.mark.slow
def test_the_summary_puts_a_method_beside_what_could_be_saved(
    smoke: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fresh").symlink_to(smoke)
    runs.claim_directory(smoke, TINY)
    assert full.main(["--settings", "fresh,late", "--report-only", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out and "Setting `late`" not in text
    for picture in ("accuracy.png", "savings.png"):
        assert (tmp_path / picture).stat().st_size > 5_000
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    by_columns = {count: [line.split(" | ") for line in lines if line.count(" | ") == count] for count in (2, 3, 6)}
    assert [cells[0] for cells in by_columns[2]] == ["| `e3`", "| `prepo`", "| `prepo_e3`"]
    entropies = read_run(smoke, "e3")["train"]["train_entropy_nats"]
    assert by_columns[2][0][1].startswith(f"{(entropies[1] + entropies[2]) / 2 / entropies[0]:.2f} (n=1")
    names = [f"| `{name}`" for name in sorted(SMOKE, key=list(METHODS).index)]
    pairs = [f"| `{name}` minus `{other}`" for name, other in PAIRS if {name, other} <= set(SMOKE)]
    assert [cells[0] for cells in by_columns[3]] == names + pairs  # accuracy, then pairs
    assert [cells[0] for cells in by_columns[6]] == names  # groups and entropy
    zero_frac = group_shares(read_run(smoke, "random"))["zero_advantage_frac"]
    assert f"**What could be saved: {min(5.0, 1 / (1 - zero_frac)):.2f}** times" in text
    assert text.count("n=1: no interval") >= 2 * (len(SMOKE) - 1)
    overview = (tmp_path / "overview.md").read_text(encoding="utf-8").splitlines()
    assert [line.split(" | ")[0] for line in overview[2:]] == [name for name in names if name != "| `grpo_5x`"]

    again = tmp_path / "again"
    assert full.main(["--from", str(tmp_path / "runs.jsonl"), "--out", str(again)]) == 0
    assert (again / "README.md").read_text(encoding="utf-8") == text
    assert not (again / "runs.jsonl").exists()  # it would be a copy of what was read
    capsys.readouterr()
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()]
    torn = {
        "of other options": [{**lines[0], "options": {**lines[0]["options"], "width": 1}}, *lines[1:]],
        "without runs": lines[:1],
        "without a part": [lines[0], {**lines[1], "train": {"groups": [1]}}],
        "of an unknown row": [lines[0], {**lines[1], "row": "grop"}],
        "empty": [],
    }
    for name, content in torn.items():
        (tmp_path / "torn.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content), encoding="utf-8")
        assert full.main(["--from", str(tmp_path / "torn.jsonl"), "--out", str(tmp_path / "none")]) == 2, name
        assert capsys.readouterr().err.count("error: ") == 1 and not (tmp_path / "none").exists()


@pytest.mark.slow
def test_methods_can_be_added_to_a_published_comparison(smoke: Path) -> None:
    runs.claim_directory(smoke, TINY)
    results = runs.gather(smoke, TINY, cache=smoke / "cache")
    by_name = {run["row"]: run for run in results}
    newer = {**by_name["prepo"], "seconds": -1.0}
    kept = Comparison("fresh", TINY, [by_name["random"], by_name["prepo"], by_name["oracle"]])
    other = Comparison("late", TINY, [by_name["random"]])
    found = merged([kept, other], [Comparison("fresh", TINY, [newer, by_name["greso"]])])
    assert [comparison.name for comparison in found] == ["fresh", "late"]
    assert [run["row"] for run in found[0].results] == ["random", "prepo", "greso", "oracle"]
    assert found[0].results[1]["seconds"] == -1.0
    with pytest.raises(ConfigError, match=r"fresh have other options: --steps 3 \(now 4\)"):
        merged([kept], [Comparison("fresh", dataclasses.replace(TINY, steps=4), [newer])])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--from", "no/such/file"], ["no/such/file"]),
        (["--from", __file__], [__file__]),
        (["--settings", "early-gpt"], ["early-gpt", "'gpt'", "qwen2, llama", "words, expressions"]),
        (["--settings", "soon"], ["'soon'", "early"]),
    ],
)
def test_a_summary_that_cannot_be_made_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: list[str]
) -> None:
    assert full.main([*arguments, "--out", str(tmp_path / "out"), "--cache", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert all(name in error for name in named), error


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mini_math", "again", "forecast"])
def test_the_published_tables_are_those_of_the_published_runs(name: str, tmp_path: Path) -> None:
    published = ROOT / "docs" / "results"
    assert full.main(["--from", str(published / f"{name}_runs.jsonl"), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text == (published / f"{name}.md").read_text(encoding="utf-8")
    if name == "mini_math":
        table = (tmp_path / "overview.md").read_text(encoding="utf-8")
        assert table in (published / "README.md").read_text(encoding="utf-8")


def test_every_interval_of_the_summary_page_is_one_of_the_published_tables() -> None:
    published = ROOT / "docs" / "results"
    tables = "".join(
        (published / f"{name}.md").read_text(encoding="utf-8") for name in ("mini_math", "again", "one_epoch")
    )
    intervals = r"[-+]?\d+\.\d+ \[[-+]?\d+\.\d+, [-+]?\d+\.\d+\]"
    quoted = re.findall(intervals, (published / "README.md").read_text(encoding="utf-8"))
    assert len(quoted) > 10
    assert [found for found in quoted if found not in tables] == []


@pytest.mark.slow
def test_learning_rates_are_compared_on_problems_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*TINY_FLAGS, "--settings", "fresh", "--rates", "1e-4,1e-3", "--seeds", "7,8"]
    assert rates.main([*arguments, "--out", str(tmp_path), "--cache", str(tmp_path / "cache")]) == 0
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    cells = [line.split(" | ") for line in text.splitlines() if line.startswith("| `fresh`")]
    assert [row[1] for row in cells] == ["0.0001", "0.001"]
    assert cells[0][3] == "" and "(n=2)" in cells[1][3] and "(n=2)" in cells[1][5]
    options = runs.read_options(tmp_path / "fresh-0.001")
    assert options is not None and options["split"] == "dev"
    with pytest.raises(SystemExit, match="2"):
        full.main(["--report-only", "--model", "llama"])


@pytest.mark.parametrize("split", ["dev", "test"])
def test_accuracy_is_of_the_split_that_was_asked_for(shipped: Any, split: str) -> None:
    evaluator = Evaluator(dataclasses.replace(TINY, split=split), shipped[1], seed=0)
    problems = held_out_prompts(30, "words", split=split)
    assert evaluator._tokens == encode_prompts(shipped[1], [problem.question for problem in problems])
    assert {split_of(problem.question) for problem in problems} == {split}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--settings", "soon"], ["soon", "early"]),
        (["--rates", "fast"], ["'fast'", "5e-5"]),
        (["--rates", "0"], ["'0'"]),
        (["--seeds", "x"], ["--seeds 'x'"]),
    ],
)
def test_rates_that_cannot_be_compared_leave_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: list[str]
) -> None:
    (tmp_path / "README.md").write_text("kept", encoding="utf-8")
    assert rates.main([*arguments, "--out", str(tmp_path), "--cache", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and all(name in error for name in named), error
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "kept"


@pytest.mark.slow
def test_a_run_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "child = 'import os, sys, time; from benchmarks.mini_math.runs import end_with_parent; "
        "end_with_parent(int(sys.argv[1])); print(os.getpid(), flush=True); time.sleep(600)'\n"
        # An inherited stderr would keep this test waiting until the child has ended in any case.
        "print(subprocess.Popen([sys.executable, '-c', child, str(os.getpid())], stdout=subprocess.PIPE, "
        "stderr=subprocess.DEVNULL, text=True).stdout.readline(), flush=True)"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()


# ---- settings -------------------------------------------------------------------------------------------------------


def test_a_pool_has_the_live_share_that_the_second_measurement_says() -> None:
    rng = np.random.default_rng(0)
    rates = np.concatenate([np.full(300, 0.99), np.full(300, 0.01), rng.uniform(0.1, 0.9, 300)])
    first, second, fresh = (rng.binomial(32, rates) for _ in range(3))
    for target in (0.30, 0.15):
        chosen = compose_pool(first, second, num_samples=32, rollouts_per_prompt=8, pool=400, live_frac=target)
        assert len(set(chosen.tolist())) == 400
        live, correct, wrong = expected_shares(fresh[chosen], 32, 8)
        assert live.mean() == pytest.approx(target, abs=0.03)
        assert correct.mean() == pytest.approx(wrong.mean(), abs=0.05)
    with pytest.raises(ConfigError, match="no pool of 800 prompts with a live share"):
        compose_pool(first, second, num_samples=32, rollouts_per_prompt=8, pool=800, live_frac=0.15)


def test_expected_shares_are_unbiased() -> None:
    rates = np.random.default_rng(1).binomial(16, 0.8, 40_000)
    live, correct, wrong = (shares.mean() for shares in expected_shares(rates, 16, 8))
    assert correct == pytest.approx(0.8**8, abs=0.003) and wrong == pytest.approx(0.2**8, abs=1e-4)
    assert live == pytest.approx(1 - 0.8**8 - 0.2**8, abs=0.003)


@pytest.mark.slow
def test_bases_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.mini_math import settings

    assert prepare_base(TINY, tmp_path) == SHIPPED and not list(tmp_path.iterdir())
    short = settings.Recipe
    monkeypatch.setattr(settings, "Recipe", lambda **options: short(**{**options, "num_steps": 1, "batch_size": 2}))
    options = Options(setting="mid", model="llama", pool=8, pool_samples=8)
    sharp = prepare_base(options, tmp_path)
    made = sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
    assert made == ["base", "sharp"] and load_model(sharp)[0].config.model_type == "llama"
    stamp = (sharp / "model.safetensors").stat().st_mtime_ns
    assert prepare_base(options, tmp_path) == sharp
    assert (sharp / "model.safetensors").stat().st_mtime_ns == stamp
    with pytest.raises(ConfigError, match="no pool of 8 prompts"):  # a model that can do nothing has no solved prompts
        prepare_pool(options, sharp, tmp_path)


def test_what_is_easy_is_written_carefully() -> None:
    easy, other = CorpusStyle(careful_up_to_ops=2), CorpusStyle(direct_frac=0.0, slip_frac=0.0)
    rng_a, rng_b = random.Random(1), random.Random(1)
    for _ in range(300):  # as many draws for either style where the problem is easy
        state = rng_a.getstate()
        question, solution = sample_corpus_document(rng_a, easy)
        rng_b.setstate(state)
        twin, careful = sample_corpus_document(rng_b, other)
        assert question == twin
        if careful.count("=") <= 2:
            assert solution == careful
    with pytest.raises(ConfigError, match="slip_frac"):
        CorpusStyle(slip_frac=2)


def test_added_problems_are_distinct_and_of_their_cells() -> None:
    problems = problems_of(HARD_CELLS, 40, seed=0, task="words")
    assert len({problem.question for problem in problems}) == 40
    assert {(problem.num_ops, problem.scale) for problem in problems} == set(HARD_CELLS)
    assert all(split_of(problem.question) == "train" for problem in problems)
    assert (
        problems
        == problems_of(HARD_CELLS, 40, seed=0, task="words")
        != problems_of(HARD_CELLS, 40, seed=1, task="words")
    )


def test_mislabelled_prompts_are_those_of_the_task_with_wrong_answers() -> None:
    problems = sample_pool(60, split="train", seed=1)
    right = {problem.question: problem.answer for problem in problems}
    wrong = mislabelled([Prompt(problem.prompt_id, problem.question, problem.answer) for problem in problems])
    assert 40 < len(wrong) <= 60 and all(right[prompt.question] != prompt.answer for prompt in wrong)
    assert {prompt.answer for prompt in wrong} <= set(right.values())
    pool = candidates(Options(setting="late_mislabelled", pool=60))
    assert len({prompt.question for prompt in pool}) == len(pool) > 120


# ---- numbers --------------------------------------------------------------------------------------------------------


def curves_of(*accuracies: list[float]) -> Curves:
    rollouts = [[0.0, 100.0, 200.0, 300.0]] * len(accuracies)
    return Curves(tuple(range(len(accuracies))), np.arange(4.0), np.array(rollouts), np.array(accuracies))


def test_rollouts_to_a_target_are_interpolated() -> None:
    rollouts, accuracy = np.array([0.0, 100.0, 200.0, 300.0]), np.array([0.2, 0.4, 0.3, 0.6])
    assert rollouts_to(0.3, rollouts, accuracy) == pytest.approx(50.0)
    assert rollouts_to(0.5, rollouts, accuracy) == pytest.approx(200 + 100 * 2 / 3)
    assert rollouts_to(0.2, rollouts, accuracy) == 0.0
    assert rollouts_to(0.61, rollouts, accuracy) is None
    assert area(rollouts, accuracy, until=200.0) == pytest.approx((0.3 * 100 + 0.35 * 100) / 200)
    assert area(rollouts, accuracy, until=400.0) == pytest.approx((30 + 35 + 45 + 60) / 400)


def test_a_method_with_more_rollouts_is_compared_at_as_many() -> None:
    rollouts, accuracy = np.array([0.0, 200.0, 400.0, 600.0]), np.array([0.2, 0.4, 0.5, 0.6])
    assert accuracy_at(300.0, rollouts, accuracy, evaluation_rollouts=100.0) == pytest.approx((0.4 + 0.45) / 2)
    assert accuracy_at(600.0, rollouts, accuracy, evaluation_rollouts=200.0) == pytest.approx(0.55)
    assert accuracy_at(900.0, rollouts, accuracy, evaluation_rollouts=200.0) == pytest.approx(0.6)


def test_shares_and_entropy_are_those_of_as_many_rollouts() -> None:
    shares = {name: [0.2, 0.6, 1.0] for name in GROUP_SHARES}
    train = {"groups": [10.0, 30.0, 60.0], "rollouts": [80.0, 320.0, 800.0], **shares}
    curve = [{"rollouts": 0.0, "entropy_nats": 0.3}, {"rollouts": 800.0, "entropy_nats": 0.1}]
    run = {"train": train, "curve": curve}
    assert group_shares(run, until=300.0)["zero_advantage_frac"] == pytest.approx((2 + 18) / 40)
    assert group_shares(run, until=320.0) == group_shares(run, until=300.0)
    assert group_shares(run)["all_wrong_frac"] == pytest.approx((2 + 18 + 60) / 100)
    assert entropy_at(run, 400.0) == pytest.approx(0.2)
    assert entropy_kept({"train": {"train_entropy_nats": [0.4, 0.9, 0.1, 0.3]}}) == pytest.approx(0.5)


def test_differences_have_students_interval() -> None:
    found = mean_difference([0.02, 0.05, -0.01, 0.04, 0.03])  # by hand: mean .026, sd .02302, 2.776 * sd / sqrt(5)
    assert found.value == pytest.approx(0.026) and found.num_seeds == 5
    assert found.bounds == (pytest.approx(-0.003, abs=6e-4), pytest.approx(0.055, abs=6e-4))
    assert mean_difference([0.1]).bounds is None


def test_ratios_are_paired_and_never_says_so() -> None:
    uniform = curves_of(*[[0.2, 0.3, 0.4, 0.4]] * 5)
    faster = curves_of(*[[0.2, 0.4, 0.5, 0.5]] * 5)
    worse = curves_of([0.2, 0.2, 0.2, 0.25], *[[0.2, 0.2, 0.2, 0.2]] * 4)
    half = reach_target(faster, uniform, 0.5)
    assert (half.level, half.rollouts) == (pytest.approx(0.3), pytest.approx(50.0))
    assert half.ratio is not None and half.ratio.value == pytest.approx(2.0)
    assert half.ratio.bounds == (pytest.approx(2.0), pytest.approx(2.0)) and half.ratio.num_seeds == 5
    few = reach_target(faster.of_seeds([0, 1, 2, 3]), uniform, 0.5).ratio
    assert few is not None and few.value == pytest.approx(2.0) and few.bounds is None
    end = reach_target(worse, uniform, 1.0)
    assert (end.level, end.rollouts, end.num_reached, end.num_seeds) == (pytest.approx(0.4), None, 0, 5)
    assert end.ratio is not None and end.ratio.value == 0.0
    low = reach_target(worse, uniform, 0.25)
    assert (low.rollouts, low.num_reached) == (None, 1)  # one seed reaches 0.25, the mean curve does not
    assert reach_target(uniform, uniform, 1.0).ratio.value == 1.0  # type: ignore[union-attr]


def test_the_table_says_never_and_gives_every_difference_an_interval() -> None:
    def result(name: str, seed: int, accuracy: list[float]) -> dict[str, Any]:
        shares = {"zero_advantage_frac": 0.5, "all_correct_frac": 0.3, "all_wrong_frac": 0.2}
        curve = [
            {"step": i, "rollouts": 100 * i, "tokens": 900 * i, "accuracy": value, "entropy_nats": 0.2, **shares}
            for i, value in enumerate(accuracy)
        ]
        train = {name: [value, value] for name, value in shares.items()} | {"groups": [16.0, 16.0]}
        return {
            "row": name,
            "seed": seed,
            "curve": curve,
            "train": train,
            "seconds": 50.0,
            "seconds_with_evaluation": 70.0,
        }

    results = [result("random", seed, [0.2, 0.3, 0.4, 0.4]) for seed in range(5)]
    results += [result("high_only", seed, [0.2, 0.25, 0.35, 0.35]) for seed in range(5)]
    text = render(results, TINY)
    assert "| high_only | 5 | 300 | 2,700 | 0.500 | 0.300 | 0.200 | 2.00 | 0.200 | 50 | 70 |" in text
    assert "-0.050 [-0.050, -0.050] (n=5)" in text
    assert "never (0/5)" in text and "never (0/5 seeds)" in text
    assert "0.67 [0.67, 0.67] (n=5)" in text  # 100 rollouts of random over 150 of high_only to half of the way


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--methods", "uniform,grop"], ["'grop'", "greso", "prepo_end25"]),
        (["--methods", ","], ["no method", "random"]),
        (["--seeds", ""], ["--seeds", "0,1,2"]),
        (["--seeds", "0,-1"], ["--seeds", "0,-1"]),
        (["--steps", "1"], ["--steps 1", "at least 2"]),
        (["--task", "wrods"], ["'wrods'", "words, expressions"]),
        (["--model", "gpt"], ["'gpt'", "qwen2, llama"]),
        (["--setting", "soon"], ["'soon'", "fresh, early, mid, late"]),
        (["--jobs", "0"], ["--jobs 0"]),
        (["--pool", "40"], ["--pool 40", "80"]),
        (["--pool-samples", "4"], ["--pool-samples 4", "8"]),
        (["--methods", "e3", "--rollouts-per-prompt", "2"], ["lowest=4", "prepo.budget.lowest"]),
        (["--report-only"], ["holds no results"]),
    ],
)
def test_bad_input_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: list[str]
) -> None:
    assert command.main(["--out", str(tmp_path / "out"), "--cache", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert all(name in error for name in named), error
    assert not (tmp_path / "out").exists()


# ---- against the real stack -----------------------------------------------------------------------------------------


def test_a_run_of_the_real_stack_is_read_in_the_fast_loops_form(tmp_path: Path) -> None:
    def line(step: int, **data: float) -> str:
        return json.dumps({"step": step, "data": data})

    def trained(rollouts: float, zero: float) -> dict[str, float]:
        shares = {"zero_advantage_frac": zero, "all_correct_frac": zero / 4, "all_wrong_frac": 3 * zero / 4}
        return {
            "timing_s/step": 4.0,
            "prepo/rollouts_total/max": rollouts,
            "prepo/selected/sum": 16.0,
            **{f"prepo/{name}/mean": value for name, value in shares.items()},
        }

    folder = tmp_path / "stack" / "random-0"
    folder.mkdir(parents=True)
    lines = [line(0, **{confirm.ACCURACY: 0.3}), line(1, **trained(128, 0.5))]
    lines.append(line(2, **trained(256, 0.25), **{confirm.ACCURACY: 0.4}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run = confirm.read_run("random", 0, tmp_path, num_steps=2)
    assert run is not None and [point["rollouts"] for point in run["curve"]] == [0.0, 256.0]
    assert [point["accuracy"] for point in run["curve"]] == [0.3, 0.4]
    assert group_shares(run)["zero_advantage_frac"] == pytest.approx(0.375)
    assert confirm.read_run("prepo", 0, tmp_path, num_steps=2) is None
    assert confirm.read_run("random", 0, tmp_path, num_steps=3) is None
    text = confirm.table(Options(), [run], [run])
    assert text.count("| `random` |") == 2 and "| 256 | 0.375 | 0.300 | 0.350 (0.350) |" in text
    # A method whose steps have twice the rollouts is compared where random ends, not where it ends itself.
    lines = [line(0, **{confirm.ACCURACY: 0.3}), line(1, **trained(256, 0.75), **{confirm.ACCURACY: 0.5})]
    lines.append(line(2, **trained(512, 0.25), **{confirm.ACCURACY: 0.9}))
    (tmp_path / "stack" / "dapo-0").mkdir()
    (tmp_path / "stack" / "dapo-0" / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    refilled = confirm.read_run("dapo", 0, tmp_path, num_steps=2)
    assert refilled is not None
    text = confirm.table(Options(), [run, refilled], [run, refilled])
    assert text.count("| 512 | 0.750 | 0.300 | 0.400 (0.400) | +0.050 (n=1: no interval) | 0.400 (0.400) |") == 2


def test_steps_that_refill_their_groups_are_half_as_many_on_the_real_stack(tmp_path: Path) -> None:
    options = Options(steps=40, eval_every=10)
    for name, steps, every in (("random", 40, 10), ("e3", 40, 10), ("greso", 20, 5), ("dapo", 20, 5)):
        overrides = confirm.stack_overrides(name, 0, options, tmp_path, tmp_path)
        assert {f"trainer.total_training_steps={steps}", f"trainer.test_freq={every}"} <= set(overrides)
