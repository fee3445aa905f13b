"""Evaluation and analysis without vLLM: what they read, refuse, keep, count and write."""

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
from recipe.prepo.tools.analyze import analyse, choosing, draw
from recipe.prepo.tools.evaluate import summarise, table, vote
from recipe.prepo.tools.evaluation.models import find_model, loadable_folder
from recipe.prepo.tools.evaluation.options import make_parser
from recipe.prepo.tools.evaluation.session import check_lengths, collect, find_reward, graded, load_sets
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


def row_of(prompt_id: str, index: int = 0, *, data_source: str = "math", gold: str = "4") -> dict[str, Any]:
    return build_row(
        data_source=data_source, ground_truth=gold, prompt_id=prompt_id, split="test", index=index, question="2+2?"
    )


def write_set(path: Path, prompt_ids: list[str] | None = None, **changes: Any) -> Path:
    rows = [row_of(i, n) | changes for n, i in enumerate(prompt_ids or [f"{path.stem}-0", f"{path.stem}-1"])]
    pd.DataFrame(rows).to_parquet(path)
    return path


def test_sets_are_named_after_their_files_and_a_drawn_part_depends_on_the_seed_only(tmp_path: Path) -> None:
    ((name, rows),) = load_sets([TEST_SET]).items()
    frame = pd.read_parquet(TEST_SET)
    assert name == "mini_math_test"
    assert list(rows) == [info["prompt_id"] for info in frame["extra_info"]], "in the file's order"
    drawn = [list(load_sets([TEST_SET], max_questions=20, seed=s)["mini_math_test"]) for s in (0, 0, 1)]
    assert len(set(drawn[0])) == 20 and drawn[0] == drawn[1] != drawn[2]
    path = write_set(tmp_path / "plain.parquet", extra_info={"split": "test", "index": 3})
    assert list(load_sets([path])["plain"]) == ["plain/0", "plain/1"], "verl's own files have no prompt_id"


def test_bad_data_is_refused(tmp_path: Path) -> None:
    one = write_set(tmp_path / "a.parquet")
    (tmp_path / "other").mkdir()
    (tmp_path / "d.parquet").write_text("no parquet")
    write_set(tmp_path / "c.parquet", reward_model={"style": "rule", "ground_truth": ""})
    for paths, message in (
        ([one, write_set(tmp_path / "other" / "a.parquet")], "two files are called a"),
        ([one, write_set(tmp_path / "b.parquet", ["b-0", "a-0"])], r"'a-0' is in .*a\.parquet and in .*b\.parquet"),
        ([tmp_path / "none.parquet"], r"none\.parquet does not exist"),
        ([tmp_path / "c.parquet"], r"row 0 .*ground_truth: it is missing or empty"),
        ([tmp_path / "d.parquet"], r"d\.parquet cannot be read"),
    ):
        with pytest.raises(DataError, match=message):
            load_sets(paths)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--samples 0", "--samples: 0: it must be a whole number from 1 to 1000"),
        ("--temperature nan", "--temperature: nan"),
        ("--temperature 0", "Set --samples 1"),
        ("--chat-template-kwargs [1]", "must be a JSON object"),
        ("--reward rewards.py", "FILE.py:NAME"),
        ("--chat-template absent.jinja", "it must be a file, or Jinja text"),
        ("--k 1,32", "--samples 16"),
    ],
)
def test_a_bad_option_is_named(
    flags: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(MODEL), "--data", "x.parquet", "--out", "out", "--device", "cpu", *flags.split()]
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
    assert find_model(str(copy)).fingerprint == found.fingerprint and found.shards is None
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    assert find_model(str(copy)).fingerprint != found.fingerprint


def test_a_verl_checkpoint_is_found_and_one_that_holds_a_whole_model_needs_no_merging(checkpoint: Path) -> None:
    found = find_model(str(checkpoint))
    assert found.shards == checkpoint / "actor" and found.folder == checkpoint / "actor" / "huggingface"
    assert find_model(str(checkpoint / "actor")) == found
    (checkpoint / "actor" / "model_world_size_2_rank_1.pt").write_bytes(b"trained on")
    assert find_model(str(checkpoint)).fingerprint != found.fingerprint
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
        ("gsm8k", "18", "… #### 17\nThat is it.", 0.0, "17"),
        ("mini_math", "7", "3 +4=7 #### 7", 1.0, "7"),
        ("math", "7", r"\boxed{}", 0.0, None),
    ],
)
def test_graded_as_in_training_with_the_answer_that_was_judged(
    data_source: str, gold: str, response: str, reward: float, answer: str | None
) -> None:
    finished = {"text": response, "num_tokens": 3, "finish_reason": "stop"}
    found = graded("s", row_of("q", data_source=data_source, gold=gold), 0, 7, finished)
    assert (found.prompt_id, found.reward, found.answer, found.timed_out) == ("q", reward, answer, False)


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
        ("judged", "x", 9.0, (10.0, True, "X")),
    ],
)
def test_an_own_reward_grades_as_in_training(
    tmp_path: Path, name: str, response: str, above: float | None, expected: tuple[float, bool, str | None]
) -> None:
    (tmp_path / "mine.py").write_text(OWN_REWARDS)
    reward, row = {"path": str(tmp_path / "mine.py"), "name": name}, row_of("q", data_source="mine", gold="7")
    identity = find_reward(Namespace(reward=reward, correct_above=above), row)
    assert identity is not None and len(identity["sha256"]) == 64
    found = graded("s", row, 0, 7, {"text": response, "num_tokens": 3, "finish_reason": "stop"}, reward, above)
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
        find_reward(options, row_of("q", data_source="mine", gold="7"))


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
    lines.write_bytes(whole + b"{}\n")
    with pytest.raises(StateError, match=r"jsonl: line 3 is damaged"), open_store(tmp_path / "out", SETTINGS_OF_A):
        pass


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s["model"].update(fingerprint="5678"), r"another model\.fingerprint: '1234' there, '5678' now"),
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


def test_a_folder_is_for_one_call_at_a_time_and_for_samples_only(tmp_path: Path) -> None:
    moved = json.loads(json.dumps(SETTINGS_OF_A))
    moved["model"]["path"] = moved["data"]["aime"]["path"] = "elsewhere"
    out = tmp_path / "out"
    with open_store(out, SETTINGS_OF_A), pytest.raises(StateError, match="in use"), open_store(out, moved):
        pass
    with open_store(out, moved) as (samples, _):
        assert samples == {}, "a moved model is the same one"
    (out / SETTINGS).unlink()
    (tmp_path / "file").write_text("")
    for folder, said in ((out, "unknown settings"), (tmp_path / "file", "is a file")):
        with pytest.raises(StateError, match=said), open_store(folder, SETTINGS_OF_A):
            pass


def group(prompt_id: str, answers: str, *, tokens: int = 10, cut: int = 0) -> list[Sample]:
    """Samples of one question: "r" is correct, "-" marks no answer, any other letter is an incorrect answer."""
    return [
        replace(
            SAMPLE,
            prompt_id=prompt_id,
            sample=i,
            num_tokens=tokens + i,
            finish_reason="length" if i < cut else "stop",
            reward=float(letter == "r"),
            answer=None if letter == "-" else letter,
        )
        for i, letter in enumerate(answers)
    ]


def test_figures_equal_those_computed_by_hand(tmp_path: Path) -> None:
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
    assert found["average"]["passrate@4"]["mean"] == pytest.approx((0.25 + 7 / 8) / 2)
    assert found["average"]["passrate@4"]["num_questions"] == 6
    for result in found["sets"].values():
        for value in result["metrics"].values():
            assert value["low"] <= value["mean"] <= value["high"]
    single = summarise({"one": [group("a", "ra")]}, [2], seed=0)
    assert table(single).splitlines()[2].startswith("| one | 1 | 50.00 | 100.00 |")
    write_json(tmp_path / "x.json", single)
    json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)  # no NaN: one question has no interval
    assert vote("0.50") == vote(r"\dfrac{1}{2}") != vote("0.51"), "incorrect answers vote by value"
    assert vote("x + y") == vote("x+y") != vote("y+x")


def analysed(nll: np.ndarray, correct: np.ndarray | list[int]) -> dict[str, Any]:
    return analyse(list(nll), [30] * len(nll), list(correct), num_samples=16, group_size=8, seed=0)


@pytest.mark.parametrize(
    ("slope", "said"),
    [(2.0, "premise holds clearly"), (0.15, "premise holds weakly"), (0.0, "not seen"), (-2.0, "reversed")],
)
def test_conclusion_follows_the_correlations_interval(slope: float, said: str) -> None:
    generator = np.random.default_rng(0)
    nll = generator.normal(0.5, 0.2, 200)
    found = analysed(nll, generator.binomial(16, 1 / (1 + np.exp(slope * (nll - 0.5) / 0.2))))
    assert said in found["conclusion"]
    assert math.copysign(1, -slope) == math.copysign(1, found["rho"]["rho"]) or slope == 0


def test_analysis_counts_shares_and_fifths() -> None:
    found = analysed(np.linspace(0.1, 1.0, 50), [16] * 10 + [12] * 10 + [8] * 10 + [4] * 10 + [0] * 10)
    assert (found["all_right_frac"], found["all_wrong_frac"], found["live_frac"]) == (0.2, 0.2, 0.6)
    assert [part["pass_rate"]["mean"] for part in found["parts"]] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert found["parts"][0]["ppl_low"] == pytest.approx(math.exp(0.1))
    assert found["parts"][4]["ppl_high"] == pytest.approx(math.e)
    # Of 12 correct and 4 incorrect samples, groups of 8 without an incorrect one: C(12, 8) / C(16, 8).
    all_correct = (1 + 495 / 12870 + 1 / 12870) / 5
    assert found["right_groups_frac"] == found["wrong_groups_frac"] == pytest.approx(all_correct)
    assert found["signal_frac"]["mean"] == pytest.approx(1 - 2 * all_correct)
    assert found["rho"]["rho"] < -0.9


@pytest.mark.parametrize(("nll", "correct"), [([0.5], [3]), ([0.5, 0.6, 0.7], [16, 16, 16])])
def test_analysis_of_few_or_equal_prompts_has_no_verdict(nll: list[float], correct: list[int]) -> None:
    found = analysed(np.array(nll), correct)
    assert "is unknown" in found["conclusion"] and "needs 40 prompts" in found["conclusion"]
    assert draw(np.exp(nll), np.array(correct) / 16, found, "set").startswith(b"\x89PNG")


def test_choosing_saves_what_the_data_allow() -> None:
    """A third of the prompts, those of middle perplexity, has live groups: choosing them needs 3 times fewer."""
    ppl = np.random.default_rng(0).permutation(np.linspace(1.0, 9.0, 300))
    live = ((ppl > 1 + 8 / 3) & (ppl < 1 + 16 / 3)).astype(float)
    found = choosing(ppl, live, seed=0)
    assert found is not None and found["predictability"] > 0.7
    for saving in found["saving"].values():
        assert saving["times"] == pytest.approx(3.0, rel=0.05) and 2 < saving["low"] < 3 < saving["high"] < 4.5
    unrelated = choosing(np.random.default_rng(1).permutation(ppl), live, seed=0)
    assert unrelated is not None and unrelated["predictability"] < 0.15
    assert all(saving["low"] < 1 < saving["high"] for saving in unrelated["saving"].values())
    assert choosing(ppl, np.zeros(300), seed=0) is None, "nothing is live"


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((4, 3), r"prompt q0 has 5 tokens, more than --max-prompt-tokens 4,.* Set --max-prompt-tokens 5"),
        ((5, 4), r"\(5 tokens\) and --max-tokens 4 need 9 tokens.* made for 8 .* Set --max-tokens 3 or less"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(limits: tuple[int, int], message: str) -> None:
    def check(max_prompt_tokens: int, max_tokens: int) -> None:
        options = Namespace(model="m", max_prompt_tokens=max_prompt_tokens, max_tokens=max_tokens)
        check_lengths({"q0": [0] * 5, "q1": [0]}, {"max_position_embeddings": 8}, options)

    check(5, 3)
    with pytest.raises((ConfigError, DataError), match=message):
        check(*limits)
