"""Evaluation without vLLM: what it reads, refuses, keeps, counts and writes."""

from __future__ import annotations

import json
import math
import shutil
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from data_prep.common import build_row
from recipe.prepo.errors import ConfigError, DataError, PrepoError, StateError
from recipe.prepo.tools import evaluate
from recipe.prepo.tools.analyze import analyse, draw
from recipe.prepo.tools.evaluate import summarise, table, vote
from recipe.prepo.tools.evaluation.models import find_model, loadable_folder
from recipe.prepo.tools.evaluation.options import make_parser
from recipe.prepo.tools.evaluation.session import (
    Question,
    check_lengths,
    collect,
    final_answer,
    find_reward,
    graded,
    load_sets,
)
from recipe.prepo.tools.evaluation.store import GENERATIONS, SETTINGS, Sample, ScoredPrompt, open_store, write_json

ASSETS = Path(__file__).parents[2] / "assets"
MODEL = ASSETS / "mini-math-qwen2"
TEST_SET = ASSETS / "mini-math" / "mini_math_test.parquet"
SETTINGS_OF_A = {
    "model": {"path": "a", "fingerprint": "1234"},
    "data": {"aime": {"path": "x/aime.parquet", "sha256": "ab", "num_questions": 2}},
    "sampling": {"temperature": 1.0, "max_tokens": 8},
}
SAMPLE = Sample("aime", "q0", 0, 7, "so \\boxed{4}", 5, "stop", 1.0, "4", False)


def write_set(path: Path, prompt_ids: list[str] | None = None, **changes: Any) -> Path:
    rows = [
        build_row(data_source="math", ground_truth="4", prompt_id=i, split="test", index=n, question="2+2?")
        for n, i in enumerate(prompt_ids or [f"{path.stem}-0", f"{path.stem}-1"])
    ]
    for row in rows:
        row.update(changes)
    pd.DataFrame(rows).to_parquet(path)
    return path


def test_sets_are_named_after_their_files_and_keep_the_rows_order() -> None:
    ((name, questions),) = load_sets([TEST_SET]).items()
    frame = pd.read_parquet(TEST_SET)
    assert name == "mini_math_test"
    assert [q.prompt_id for q in questions] == [info["prompt_id"] for info in frame["extra_info"]]
    assert questions[0].messages == [dict(message) for message in frame["prompt"][0]]


def test_verls_own_files_without_prompt_ids_get_them_by_row(tmp_path: Path) -> None:
    path = write_set(tmp_path / "plain.parquet", extra_info={"split": "test", "index": 3})
    assert [q.prompt_id for q in load_sets([path])["plain"]] == ["plain/0", "plain/1"]


def test_a_drawn_part_of_a_set_depends_on_the_seed_only() -> None:
    drawn = [
        [q.prompt_id for q in load_sets([TEST_SET], max_questions=20, seed=s)["mini_math_test"]] for s in (0, 0, 1)
    ]
    assert len(set(drawn[0])) == 20 and drawn[0] == drawn[1] != drawn[2]
    assert len(load_sets([TEST_SET], max_questions=1000)["mini_math_test"]) == 300


def test_bad_data_is_refused(tmp_path: Path) -> None:
    one = write_set(tmp_path / "a.parquet")
    (tmp_path / "other").mkdir()
    (tmp_path / "d.parquet").write_text("no parquet")
    write_set(tmp_path / "c.parquet", reward_model={"style": "rule", "ground_truth": ""})
    for paths, message in (
        ([one, write_set(tmp_path / "other" / "a.parquet")], "two files are called a"),
        ([one, write_set(tmp_path / "b.parquet", ["b-0", "a-0"])], r"'a-0' is in .*a\.parquet and in .*b\.parquet"),
        ([tmp_path / "none.parquet"], r"none\.parquet does not exist"),
        ([tmp_path / "other"], r"other does not exist, or is no file"),
        ([tmp_path / "c.parquet"], r"row 0 .*ground_truth: it is missing or empty"),
        ([tmp_path / "d.parquet"], r"d\.parquet cannot be read"),
    ):
        with pytest.raises(DataError, match=message):
            load_sets(paths)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples", "0"], "--samples: 0: it must be a whole number from 1 to 1000"),
        (["--samples", "1001"], "--samples: 1001"),
        (["--prompts", "0"], "--prompts: 0"),
        (["--max-tokens", "-3"], "--max-tokens: -3"),
        (["--temperature", "-1"], "--temperature: -1"),
        (["--temperature", "nan"], "--temperature: nan"),
        (["--temperature", "0"], "Set --samples 1"),
        (["--top-p", "0"], "--top-p: 0"),
        (["--top-k", "0"], "--top-k: 0"),
        (["--seed", "-1"], "--seed: -1"),
        (["--gpu-memory", "90"], "--gpu-memory: 90"),
        (["--chat-template-kwargs", "{enable_thinking: no}"], "must be a JSON object"),
        (["--chat-template-kwargs", "[1]"], "must be a JSON object"),
        (["--reward", "rewards.py"], "FILE.py:NAME"),
        (["--chat-template", "absent.jinja"], "no readable file, and no Jinja text"),
        (["--k", "1,32"], "--samples 16"),
        (["--k", "0"], "--k: 0"),
        (["--k", "a"], "whole numbers of at least 1"),
    ],
)
def test_a_bad_option_is_named(
    flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(MODEL), "--data", "x.parquet", "--out", "out", "--device", "cpu", *flags]
    monkeypatch.setattr("sys.argv", ["evaluate", *arguments])
    monkeypatch.setattr(evaluate, "collect", lambda options: pytest.fail("works"))
    try:
        status = evaluate.main()
    except SystemExit as stop:
        status = stop.code  # argparse's own
    assert status == 2
    error = capsys.readouterr().err
    assert "error: " in error and message in error


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The layout that verl's FSDP checkpoint has, with two ranks; the shards' content is not read here."""
    folder = tmp_path / "run" / "global_step_7"
    inner = folder / "actor" / "huggingface"
    inner.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(MODEL / name, inner)
    (folder / "actor" / "fsdp_config.json").write_text('{"FSDP_version": 2, "world_size": 2}')
    for rank in range(2):
        (folder / "actor" / f"model_world_size_2_rank_{rank}.pt").write_bytes(b"rank %d" % rank)
    return folder


def test_a_model_folder_is_identified_by_its_content(tmp_path: Path) -> None:
    copy = shutil.copytree(MODEL, tmp_path / "moved")
    found = find_model(str(MODEL))
    assert find_model(str(copy)).fingerprint == found.fingerprint
    assert found.shards is None
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert find_model(str(copy)).fingerprint != found.fingerprint


@pytest.mark.parametrize("inside", [".", "actor"])
def test_a_verl_checkpoint_is_found(checkpoint: Path, inside: str) -> None:
    found = find_model(str(checkpoint / inside))
    assert found.shards == checkpoint / "actor" and found.folder == checkpoint / "actor" / "huggingface"
    (checkpoint / "actor" / "model_world_size_2_rank_1.pt").write_bytes(b"trained on")
    assert find_model(str(checkpoint)).fingerprint != found.fingerprint


def test_a_verl_checkpoint_that_holds_a_whole_model_needs_no_merging(checkpoint: Path) -> None:
    shutil.copy(MODEL / "model.safetensors", checkpoint / "actor" / "huggingface")
    assert find_model(str(checkpoint)).shards is None


def test_what_is_no_model_is_refused_with_what_to_give_instead(checkpoint: Path, tmp_path: Path) -> None:
    def refusal(path: Path | str) -> str:
        with pytest.raises(ConfigError) as error:
            find_model(str(path))
        return str(error.value)

    assert "does not exist" in refusal("./nowhere/model")
    for path in (checkpoint.parent, checkpoint / "actor" / "huggingface", MODEL / "config.json", tmp_path):
        found = refusal(path)
        assert str(path) in found and "no config.json with weights" in found and "global_step_N" in found
    (checkpoint / "actor" / "model_world_size_2_rank_1.pt").unlink()
    assert "model_world_size_2_rank_1.pt" in refusal(checkpoint)
    (checkpoint / "actor" / "lora_train_meta.json").write_text("{}")
    assert "LoRA" in refusal(checkpoint)


def test_a_hub_model_is_identified_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the hub's own client, offline, out of a cache as it leaves one."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit = "0123456789" * 4
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(MODEL, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    found = find_model("someone/tiny")
    assert found.fingerprint == f"someone/tiny@{commit}"
    assert loadable_folder(found, tmp_path) == repository / "snapshots" / commit
    with pytest.raises(ConfigError, match="--model someone/other is no local folder"):
        find_model("someone/other")


@pytest.mark.parametrize(
    ("data_source", "gold", "response", "reward", "answer"),
    [
        ("math", "1/2", r"first \boxed{3}, no: \boxed{\frac{1}{2}}", 1.0, r"\frac{1}{2}"),
        ("gsm8k", "18", "… #### 18\nThat is it.", 1.0, "18"),
        ("gsm8k", "18", "… #### 17", 0.0, "17"),
        ("mini_math", "7", "3 +4=7 #### 7", 1.0, "7"),
        ("mini_math", "7", r"\boxed{7}", 0.0, None),
        ("math", "7", r"\boxed{}", 0.0, None),
    ],
)
def test_graded_as_in_training_with_the_answer_that_was_judged(
    data_source: str, gold: str, response: str, reward: float, answer: str | None
) -> None:
    finished = {"text": response, "num_tokens": 3, "finish_reason": "stop"}
    found = graded(Question("s", "q", [], data_source, gold, {}), 0, 7, finished)
    assert (found.reward, found.answer, found.timed_out) == (reward, answer, False)


OWN_REWARDS = """
def graded(data_source, solution_str, ground_truth, extra_info):
    return 0.95 if solution_str == ground_truth else 0.05
async def judged(data_source, solution_str, ground_truth, extra_info):
    return {"score": 10.0, "acc": solution_str == ground_truth, "pred": solution_str.upper()}
def raises(data_source, solution_str, ground_truth, extra_info):
    return 1 / 0
"""


@pytest.mark.parametrize(
    ("name", "response", "above", "expected"),
    [
        ("graded", "7", None, (0.95, True, None)),
        ("graded", "8", None, (0.05, False, None)),
        ("graded", "8", 0.01, (0.05, True, None)),
        ("judged", "x", None, (10.0, False, "X")),
        ("judged", "7", None, (10.0, True, "7")),
        ("judged", "x", 9.0, (10.0, True, "X")),
    ],
)
def test_an_own_reward_grades_as_in_training(
    tmp_path: Path, name: str, response: str, above: float | None, expected: tuple[float, bool, str | None]
) -> None:
    (tmp_path / "mine.py").write_text(OWN_REWARDS)
    reward, question = {"path": str(tmp_path / "mine.py"), "name": name}, Question("s", "q", [], "mine", "7", {})
    identity = find_reward(Namespace(reward=reward, correct_above=above), question)
    assert identity is not None and len(identity["sha256"]) == 64
    found = graded(question, 0, 7, {"text": response, "num_tokens": 3, "finish_reason": "stop"}, reward, above)
    assert (found.reward, found.is_correct, found.answer) == expected


@pytest.mark.parametrize(
    ("file", "name", "said"),
    [
        ("mine.py", "raises", "ZeroDivisionError"),
        ("mine.py", "absent", "only graded, "),
        ("none.py", "graded", "--reward .*none.py:graded"),
    ],
)
def test_a_reward_that_does_not_work_is_refused_before_anything_starts(
    tmp_path: Path, file: str, name: str, said: str
) -> None:
    (tmp_path / "mine.py").write_text(OWN_REWARDS)
    options = Namespace(reward={"path": str(tmp_path / file), "name": name}, correct_above=None)
    with pytest.raises(PrepoError, match=said):
        find_reward(options, Question("s", "q", [], "mine", "7", {}))


@pytest.mark.parametrize(
    ("template", "said"),
    [(None, "has no chat template.* --chat-template"), ("{{ raise_exception('no system role') }}", "no system role")],
)
def test_a_model_without_a_chat_template_needs_one(tmp_path: Path, template: str | None, said: str) -> None:
    model = shutil.copytree(MODEL, tmp_path / "model")
    (model / "chat_template.jinja").unlink()
    arguments = ["--model", str(model), "--data", str(TEST_SET), "--out", str(tmp_path / "out"), "--device", "cpu"]
    arguments += ["--chat-template", template] if template else []
    with pytest.raises(PrepoError, match=said):
        collect(make_parser("evaluate", "").parse_args(arguments))
    assert not (tmp_path / "out").exists()


def test_wrong_answers_vote_by_value() -> None:
    assert vote("0.50") == vote(r"\dfrac{1}{2}") != vote("0.51")
    assert vote("x + y") == vote("x+y") != vote("y+x")
    assert final_answer("math", "no mark") is None is vote(None)


def test_samples_are_found_again_and_a_torn_line_is_made_anew(tmp_path: Path) -> None:
    with open_store(tmp_path / "out", SETTINGS_OF_A) as (samples, prompts):
        samples.add(SAMPLE)
        samples.add(replace(SAMPLE, sample=1, answer=None, text="ein ½\u2028"))
        prompts.add(ScoredPrompt("q0", 0.5, 9))
    lines = tmp_path / "out" / GENERATIONS
    whole = lines.read_bytes()
    lines.write_bytes(whole + b'{"set": "aime", "prom')
    with open_store(tmp_path / "out", SETTINGS_OF_A) as (samples, prompts):
        assert list(samples) == [("q0", 0), ("q0", 1)]
        assert samples["q0", 0] == SAMPLE and samples["q0", 1].text == "ein ½\u2028"
        assert prompts == {"q0": ScoredPrompt("q0", 0.5, 9)}
        samples.add(replace(SAMPLE, sample=2))
    assert lines.read_bytes().startswith(whole)
    assert [json.loads(line)["sample"] for line in lines.read_text(encoding="utf-8").split("\n") if line] == [0, 1, 2]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    with open_store(tmp_path, SETTINGS_OF_A) as (samples, _):
        samples.add(SAMPLE)
    with open(tmp_path / GENERATIONS, "a") as file:
        file.write("{}\n")
    with (
        pytest.raises(StateError, match=r"generations\.jsonl: line 2 is damaged"),
        open_store(tmp_path, SETTINGS_OF_A),
    ):
        pass


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s["model"].update(fingerprint="5678"), r"another model\.fingerprint: '1234' there, '5678' now"),
        (lambda s: s["data"]["aime"].update(sha256="cd"), r"another data\.aime\.sha256"),
        (lambda s: s["data"].update(amc={"sha256": "ef"}), r"another data\.amc: None there"),
        (lambda s: s["data"].clear(), r"another data\.aime.*None now"),
        (lambda s: s["sampling"].update(temperature=0.6), r"another sampling\.temperature: 1.0 there, 0.6 now"),
    ],
)
def test_another_model_data_or_setting_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    with open_store(tmp_path, SETTINGS_OF_A) as (samples, _):
        samples.add(SAMPLE)
    settings = json.loads(json.dumps(SETTINGS_OF_A))
    change(settings)
    before = (tmp_path / SETTINGS).read_bytes()
    with pytest.raises(StateError, match=named), open_store(tmp_path, settings):
        pass
    assert (tmp_path / SETTINGS).read_bytes() == before


def test_a_moved_model_is_the_same_one_and_a_folder_is_for_one_call_at_a_time(tmp_path: Path) -> None:
    moved = json.loads(json.dumps(SETTINGS_OF_A))
    moved["model"]["path"] = moved["data"]["aime"]["path"] = "elsewhere"
    with open_store(tmp_path, SETTINGS_OF_A), pytest.raises(StateError, match="in use"), open_store(tmp_path, moved):
        pass
    with open_store(tmp_path, moved) as (samples, _):
        assert samples == {}


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / GENERATIONS).write_text("")
    with pytest.raises(StateError, match="unknown settings"), open_store(tmp_path, SETTINGS_OF_A):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="is a file"), open_store(tmp_path / "file", SETTINGS_OF_A):
        pass


def group(prompt_id: str, answers: str, *, tokens: int = 10, cut: int = 0) -> list[Sample]:
    """Samples of one question: "r" is correct, "-" marks no answer, any other letter is an incorrect answer."""
    return [
        Sample(
            set="s",
            prompt_id=prompt_id,
            sample=i,
            seed=0,
            text="",
            num_tokens=tokens + i,
            finish_reason="length" if i < cut else "stop",
            reward=float(letter == "r"),
            answer=None if letter == "-" else letter,
            timed_out=False,
        )
        for i, letter in enumerate(answers)
    ]


def test_figures_equal_those_computed_by_hand() -> None:
    groups = [group("a", "rraa", cut=2), group("b", "bbbr", tokens=20), group("c", "--r-"), group("d", "----")]
    found = summarise({"one": groups, "two": [group("e", "rrrr"), group("f", "rrra")]}, [1, 2, 4], seed=0)
    one = {metric: value["mean"] for metric, value in found["sets"]["one"]["metrics"].items()}
    assert one == pytest.approx(
        {
            "passrate@4": (2 / 4 + 1 / 4 + 1 / 4 + 0) / 4,
            "pass@1": (2 / 4 + 1 / 4 + 1 / 4 + 0) / 4,
            "pass@2": (5 / 6 + 3 / 6 + 3 / 6 + 0) / 4,  # pairs of the 6 that include a correct one
            "pass@4": 3 / 4,
            "maj@1": (2 / 4 + 1 / 4 + 1 / 4 + 0) / 4,
            # a: rr counts 1, each of the 4 ties 1/2, of 6. b: the 3 pairs with r tie. c: the 3 pairs with r win.
            "maj@2": (3 / 6 + 1.5 / 6 + 3 / 6 + 0) / 4,
            "maj@4": (1 / 2 + 0 + 1 + 0) / 4,
            "mean_tokens": (11.5 + 21.5 + 11.5 + 11.5) / 4,
            "truncated_frac": (2 / 4) / 4,
        }
    )
    average = found["average"]
    assert average["passrate@4"]["mean"] == pytest.approx((0.25 + 7 / 8) / 2)
    assert average["passrate@4"]["num_questions"] == 6
    for result in found["sets"].values():
        for value in result["metrics"].values():
            assert value["low"] <= value["mean"] <= value["high"]


def test_table_shows_percent_with_intervals_and_the_average_of_several_sets() -> None:
    found = summarise({"one": [group("a", "rraa"), group("b", "aaaa")], "two": [group("c", "rrrr")] * 2}, [4], seed=0)
    lines = table(found).splitlines()
    assert lines[0] == "| set | questions | passrate@4 % | pass@4 % | maj@4 % | tokens | truncated % |"
    assert [line.count("|") for line in lines] == [8] * 5
    assert lines[2].startswith("| one | 2 | 25.00 (0.00 to ")
    assert lines[3].startswith("| two | 2 | 100.00 (")
    assert lines[4].startswith("| average of the sets | 4 | 62.50 (")
    (single,) = table(summarise({"one": [group("a", "ra")]}, [2], seed=0)).splitlines()[2:]
    assert single.startswith("| one | 1 | 50.00 | 100.00 |")


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", summarise({"one": [group("a", "ra")]}, [2], seed=0))
    found = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert found["sets"]["one"]["metrics"]["pass@2"] == {"mean": 1.0, "low": None, "high": None, "num_questions": 1}


def analysed(slope: float, num_prompts: int = 200) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    nll = generator.normal(0.5, 0.2, num_prompts)
    rate = 1 / (1 + np.exp(slope * (nll - 0.5) / 0.2))
    correct = generator.binomial(16, rate)
    return analyse(nll.tolist(), [30] * num_prompts, correct.tolist(), num_samples=16, group_size=8, seed=0)


@pytest.mark.parametrize(
    ("slope", "said"),
    [(2.0, "premise holds clearly"), (0.15, "premise holds weakly"), (0.0, "not seen"), (-2.0, "reversed")],
)
def test_conclusion_follows_the_correlations_interval(slope: float, said: str) -> None:
    found = analysed(slope)
    assert said in found["conclusion"]
    assert math.copysign(1, -slope) == math.copysign(1, found["rho"]["rho"]) or slope == 0


def test_analysis_counts_shares_and_fifths() -> None:
    correct = [16] * 10 + [12] * 10 + [8] * 10 + [4] * 10 + [0] * 10
    nll = np.linspace(0.1, 1.0, 50)
    found = analyse(nll.tolist(), [30] * 50, correct, num_samples=16, group_size=8, seed=0)
    assert (found["all_right_frac"], found["all_wrong_frac"], found["live_frac"]) == (0.2, 0.2, 0.6)
    assert [part["pass_rate"]["mean"] for part in found["parts"]] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert found["parts"][0]["ppl_low"] == pytest.approx(math.exp(0.1))
    assert found["parts"][4]["ppl_high"] == pytest.approx(math.e)
    # Of 12 correct and 4 incorrect samples, groups of 8 without an incorrect one: C(12, 8) / C(16, 8).
    assert found["signal_frac"]["mean"] == pytest.approx((2 * (1 - 495 / 12870) + (1 - 2 / 12870)) / 5)
    assert found["rho"]["rho"] < -0.9


def test_analysis_of_few_or_equal_prompts_has_no_verdict() -> None:
    for nll, correct in (([0.5], [3]), ([0.5, 0.6, 0.7], [16, 16, 16])):
        found = analyse(nll, [30] * len(nll), correct, num_samples=16, group_size=8, seed=0)
        assert "is unknown" in found["conclusion"]
        assert draw(np.exp(nll), np.array(correct) / 16, found, "set").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((4, 3), r"prompt q0 has 5 tokens, more than --max-prompt-tokens 4,.* Set --max-prompt-tokens 5"),
        ((5, 4), r"\(5 tokens\) and --max-tokens 4 need 9 tokens.* made for 8 .* Set --max-tokens 3 or less"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(limits: tuple[int, int], message: str) -> None:
    tokens, config = {"q0": [0] * 5, "q1": [0]}, {"max_position_embeddings": 8}

    def check(max_prompt_tokens: int, max_tokens: int, **more: Any) -> None:
        options = Namespace(model="m", max_prompt_tokens=max_prompt_tokens, max_tokens=max_tokens)
        check_lengths(tokens, {**config, **more}, options)

    check(5, 3)
    check(5, 9, rope_parameters={"factor": 2})
    with pytest.raises((ConfigError, DataError), match=message):
        check(*limits)
