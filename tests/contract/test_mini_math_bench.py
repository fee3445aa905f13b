"""The fast loop on the tiny model: it computes what verl computes, and does what the recipe's controller decides."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audited_run import check_run

from benchmarks.mini_math import __main__ as command
from benchmarks.mini_math import full, policy, rates, runs
from benchmarks.mini_math.collect import PromptStream
from benchmarks.mini_math.numbers import Curves, accuracy_at, area, mean_difference, reach_target, rollouts_to
from benchmarks.mini_math.options import Options
from benchmarks.mini_math.policy import Responses, draw_tokens, generate, prompt_nll_nats, response_log_probs
from benchmarks.mini_math.settings import SHIPPED, load_model
from benchmarks.mini_math.update import group_advantages, policy_loss
from data_prep.mini_math.passrate import encode_prompts, prompt_perplexities
from data_prep.mini_math.pretrain import Recipe, build_model, build_tokenizer
from data_prep.mini_math.task import sample_pool
from recipe.prepo.run.jsonl import read_lines

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "docs" / "results"
SIZES = {"steps": 3, "num_selected": 4, "rollouts_per_prompt": 4, "pool": 40, "held_out": 30, "eval_every": 2,
         "probe": 6, "oracle_samples": 4, "pool_samples": 8}  # fmt: skip
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
        runs.run_task(runs.make_task(name, 0, Options(**SIZES), cache=folder / "cache", out=folder, audit=True))
    return folder


def read_run(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "runs" / f"{name}-0.json").read_text(encoding="utf-8"))


def audit_lines(folder: Path, method: str, name: str) -> list[dict[str, Any]]:
    return list(read_lines(folder / "audit" / f"{method}-0" / "audit" / f"{name}.jsonl"))


def sample(model: Any, tokenizer: Any, prompts: list[list[int]], sizes: list[int], *, temperature: float) -> Responses:
    options = {"max_tokens": 48, "eos_id": tokenizer.eos_token_id, "generator": policy.torch_generator(0, "test")}
    return generate(model, prompts, sizes, temperature=temperature, **options)


def test_generation_agrees_with_teacher_forcing(
    shipped: Any, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "TOGETHER", 2)  # prompts of different lengths are prefilled one piece after the other
    monkeypatch.setattr(policy, "MAX_BATCH", 9)
    (model, tokenizer), sizes, temperature = shipped, [3, 1, 5, 2, 2, 1], 1.4
    responses = sample(model, tokenizer, prompts, sizes, temperature=temperature)
    prompts_R = [prompt for prompt, size in zip(prompts, sizes, strict=True) for _ in range(size)]
    assert len(responses) == 14 and len(set(responses.num_tokens_R.tolist())) > 3
    for i, (prompt, tokens) in enumerate(zip(prompts_R, responses.token_ids(), strict=True)):
        assert tokenizer.eos_token_id not in tokens[:-1]
        assert tokens[-1] == tokenizer.eos_token_id or len(tokens) == 48
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
        log_dist = torch.log_softmax(logits.double() / temperature, -1)
        entropy = -(log_dist.exp() * log_dist).sum(-1)
        n = len(tokens)
        expected = log_dist[torch.arange(n), tokens]
        torch.testing.assert_close(responses.log_probs_RT[i, :n].double(), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(responses.entropies_RT[i, :n].double(), entropy, atol=1e-4, rtol=0)
        assert responses.entropy_nats_R[i] == pytest.approx(float(entropy.mean()), abs=1e-4)


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


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    dist = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    drawn = draw_tokens(dist.expand(40_000, 6), torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=6) / 40_000
    torch.testing.assert_close(shares, dist, atol=0.012, rtol=0)  # five standard errors
    assert shares[dist == 0].sum() == 0


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


def test_methods_of_one_seed_see_the_pool_in_the_same_order() -> None:
    ids = [str(i) for i in range(10)]
    batches, singles = PromptStream(ids, seed=5), PromptStream(ids, seed=5)
    first = batches.draw_batch(4) + batches.draw_batch(4)
    assert first == tuple(singles.draw(1)[0] for _ in range(8))
    assert len(set(singles.draw(12))) == 10  # the two that were left, and the next epoch
    assert len(set(batches.draw_batch(4) + batches.draw_batch(4))) == 8  # those two are dropped
    assert PromptStream(ids, seed=6).draw(10) != PromptStream(ids, seed=5).draw(10)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOKE)
def test_a_run_trains_on_what_the_controller_chose_and_its_curve_counts_it(smoke: Path, name: str) -> None:
    run = read_run(smoke, name)
    assert [run[key] for key in ("row", "seed", "task", "model", "setting")] == [name, 0, "words", "qwen2", "fresh"]
    curve = run["curve"]
    assert all(point["rollouts"] >= planned for point, planned in zip(curve, (0, 32, 48), strict=True))
    for point in curve:
        shares = [point[key] for key in ("accuracy", "zero_advantage_frac", "all_correct_frac", "all_wrong_frac")]
        assert min(shares) >= 0.0 and max(shares) <= 1.0 and shares[2] + shares[3] == pytest.approx(shares[1])
        assert point["entropy_nats"] > 0.0 and point["temperature"] > 0.0
    for key in ("accuracy", "entropy_nats"):  # before the first step all are the same model
        assert curve[0][key] == read_run(smoke, "random")["curve"][0][key]

    choices, rollouts = audit_lines(smoke, name, "selection"), audit_lines(smoke, name, "rollouts")
    discards = name in ("greso", "dapo")
    trained_tokens = sum(line["num_tokens"] for line in rollouts)
    assert curve[-1]["rollouts"] == sum(sum(choice["rollout_n"].values()) for choice in choices)
    assert curve[-1]["tokens"] > trained_tokens if discards else curve[-1]["tokens"] == trained_tokens
    for step in range(1, curve[-1]["step"] + 1):
        chosen = sum((Counter(choice["rollout_n"]) for choice in choices if choice["step"] == step), Counter())
        of_step = [line for line in rollouts if line["step"] == step]
        trained = Counter(line["prompt_id"] for line in of_step)
        assert sum(trained.values()) == (20 if name == "grpo_5x" else 4) * 4
        assert not trained - chosen if discards else trained == chosen
        for prompt_id in trained if discards else ():
            assert {line["reward"] for line in of_step if line["prompt_id"] == prompt_id} == {0.0, 1.0}
        temperatures = {choice["temperature"] for choice in choices if choice["step"] == step}
        assert {line["temperature"] for line in of_step} == temperatures
    assert check_run(smoke / "audit" / f"{name}-0").startswith("ok: ")


def test_a_comparison_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, sizes = tmp_path / "out", SIZES | {"steps": 2, "pool": 20, "held_out": 10}
    arguments = [*(f"--{name.replace('_', '-')}={value}" for name, value in sizes.items()), "--jobs=1"]
    arguments += ["--out", str(out), "--cache", str(tmp_path / "cache")]
    assert command.main([*arguments, "--methods", "random", "--seeds", "0"]) == 0
    assert "1 runs, 0 of them finished already" in capsys.readouterr().out
    before = (out / "runs" / "random-0.json").stat().st_mtime_ns
    assert command.main([*arguments, "--rows", "uniform", "--seeds", "0"]) == 0  # as outside scripts ask
    assert "1 runs, 1 of them finished already" in capsys.readouterr().out
    assert (out / "runs" / "random-0.json").stat().st_mtime_ns == before
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert [(result["row"], result["seed"]) for result in results] == [("uniform", 0)]

    assert command.main([*arguments, "--methods", "random", "--learning-rate", "0.5"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "--learning-rate 0.0001 (now 0.5)" in error


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mini_math", "again", "forecast"])
def test_the_published_tables_are_those_of_the_published_runs(name: str, tmp_path: Path) -> None:
    assert full.main(["--from", str(PUBLISHED / f"{name}_runs.jsonl"), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text == (PUBLISHED / f"{name}.md").read_text(encoding="utf-8")
    if name == "mini_math":
        table = (tmp_path / "overview.md").read_text(encoding="utf-8")
        assert table in (PUBLISHED / "README.md").read_text(encoding="utf-8")


def test_every_interval_of_the_summary_page_is_one_of_the_published_tables() -> None:
    tables = "".join((PUBLISHED / f"{name}.md").read_text() for name in ("mini_math", "again", "one_epoch", "forecast"))
    intervals = r"[-+]?\d+\.\d+ \[[-+]?\d+\.\d+, [-+]?\d+\.\d+\]"
    quoted = re.findall(intervals, (PUBLISHED / "README.md").read_text(encoding="utf-8"))
    assert len(quoted) > 10
    assert [found for found in quoted if found not in tables] == []


def curves_of(*accuracies: list[float]) -> Curves:
    rollouts = [[0.0, 100.0, 200.0, 300.0]] * len(accuracies)
    return Curves(tuple(range(len(accuracies))), np.arange(4.0), np.array(rollouts), np.array(accuracies))


def test_rollouts_to_a_target_areas_and_accuracies_are_interpolated() -> None:
    rollouts, accuracy = np.array([0.0, 100.0, 200.0, 300.0]), np.array([0.2, 0.4, 0.3, 0.6])
    for target, expected in ((0.3, 50.0), (0.5, 200 + 100 * 2 / 3), (0.2, 0.0), (0.61, None)):
        assert rollouts_to(target, rollouts, accuracy) == (None if expected is None else pytest.approx(expected))
    assert area(rollouts, accuracy, until=200.0) == pytest.approx((0.3 * 100 + 0.35 * 100) / 200)
    assert area(rollouts, accuracy, until=400.0) == pytest.approx((30 + 35 + 45 + 60) / 400)
    rollouts, accuracy = np.array([0.0, 200.0, 400.0, 600.0]), np.array([0.2, 0.4, 0.5, 0.6])
    # A method with more rollouts is compared at as many.
    for at, evaluated, expected in ((300.0, 100.0, 0.425), (600.0, 200.0, 0.55), (900.0, 200.0, 0.6)):
        assert accuracy_at(at, rollouts, accuracy, evaluation_rollouts=evaluated) == pytest.approx(expected)


def test_differences_have_students_interval_and_ratios_are_paired_and_never_says_so() -> None:
    found = mean_difference([0.02, 0.05, -0.01, 0.04, 0.03])  # by hand: mean .026, sd .02302, 2.776 * sd / sqrt(5)
    assert found.value == pytest.approx(0.026) and found.num_seeds == 5
    assert found.bounds == (pytest.approx(-0.003, abs=6e-4), pytest.approx(0.055, abs=6e-4))
    assert mean_difference([0.1]).bounds is None

    uniform, faster = curves_of(*[[0.2, 0.3, 0.4, 0.4]] * 5), curves_of(*[[0.2, 0.4, 0.5, 0.5]] * 5)
    worse = curves_of([0.2, 0.2, 0.2, 0.25], *[[0.2, 0.2, 0.2, 0.2]] * 4)
    half = reach_target(faster, uniform, 0.5)
    assert (half.level, half.rollouts) == (pytest.approx(0.3), pytest.approx(50.0))
    assert half.ratio is not None and half.ratio.num_seeds == 5
    assert (half.ratio.value, half.ratio.bounds) == (pytest.approx(2.0), (pytest.approx(2.0), pytest.approx(2.0)))
    few = reach_target(faster.of_seeds([0, 1, 2, 3]), uniform, 0.5).ratio
    assert few is not None and few.value == pytest.approx(2.0) and few.bounds is None
    end = reach_target(worse, uniform, 1.0)
    assert (end.level, end.rollouts, end.num_reached, end.num_seeds) == (pytest.approx(0.4), None, 0, 5)
    assert end.ratio is not None and end.ratio.value == 0.0
    low = reach_target(worse, uniform, 0.25)
    assert (low.rollouts, low.num_reached) == (None, 1)  # one seed reaches 0.25, the mean curve does not


BAD_INPUT: list[tuple[Any, list[str], list[str]]] = [
    (command, ["--methods", "uniform,grop"], ["'grop'", "greso", "prepo_end25"]),
    (command, ["--pool", "40"], ["--pool 40", "80"]),
    (command, ["--methods", "e3", "--rollouts-per-prompt", "2"], ["lowest=4", "prepo.budget.lowest"]),
    (full, ["--settings", "early-gpt"], ["early-gpt", "'gpt'", "qwen2, llama", "words, expressions"]),
    (rates, ["--rates", "fast"], ["'fast'", "5e-5"]),
]


@pytest.mark.parametrize(("module", "arguments", "named"), BAD_INPUT)
def test_bad_input_is_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], module: Any, arguments: list[str], named: list[str]
) -> None:
    assert module.main(["--out", str(tmp_path / "out"), "--cache", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert all(name in error for name in named), error
    assert not (tmp_path / "out").exists()
