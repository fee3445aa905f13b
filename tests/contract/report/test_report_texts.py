"""The report's prompts and sample generations: tables of prompts, and hostile text shown as text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from recipe.prepo.tools.report import style
from recipe.prepo.tools.report.charts import PANELS, NoData, choices, over_steps
from recipe.prepo.tools.report.compare import Method
from recipe.prepo.tools.report.load import Run, load_run
from recipe.prepo.tools.report.page import MAX_PROMPTS, make_page, run_tables
from recipe.prepo.tools.report.samples import find_samples, shorten, visible

MakeRun = Callable[..., Path]
ReadPage = Callable[[str], Any]
HOSTILE = {
    "script": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "null": "a\x00b\x1b[31m",
    "override": "safe \u202egnp.exe\u202c",
    "surrogate": "half \ud83d of one",
    "marks": "Z" + "\u0301" * 500,
    "long": "x" * 1_000_000,
    "wide": "\U0001f4a5" * 1_000_000,
}


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pixels: these tests ask for words and counts."""
    monkeypatch.setattr(style, "DPI", 40)


def entry(output: str, score: float = 1.0, prompt: str = "How many?", step: int = 1) -> dict:
    return {"input": prompt, "output": output, "gts": "14", "score": score, "step": step, "uid": "a_0_0"}


def page_of(run: Run) -> str:
    return make_page([Method(run.name, (run,))], [], [(run, "", [])], None)


def test_never_chosen_prompts_agree_with_the_audit_lines(finished_run: Path, read_page: ReadPage) -> None:
    run = load_run(finished_run)
    lines = [json.loads(line) for line in (finished_run / "audit/selection.jsonl").read_text().splitlines()]
    drawn = Counter(candidate["prompt_id"] for line in lines for candidate in line["candidates"])
    never = set(drawn) - {name for line in lines for name in line["selected"]}
    page = read_page(page_of(run))
    table = page.cells("never_chosen")
    assert len(table) - 1 == min(MAX_PROMPTS, len(never))
    shown = list(table)[1:]
    assert set(shown) <= never
    assert [drawn[name] for name in shown] == sorted((drawn[name] for name in never), reverse=True)[:MAX_PROMPTS]
    last_ppl = [c["ppl"] for line in lines for c in line["candidates"] if c["prompt_id"] == shown[0]][-1]
    assert table[shown[0]] == [str(drawn[shown[0]]), f"{last_ppl:,.3f}"]
    assert f"Prompts that were never chosen ({len(never)} of {len(drawn)})" in page.text
    assert f"Never chosen (hatched): {len(never)} of {len(drawn)}" in choices(run)[1]


def test_prompts_that_were_all_chosen_are_no_table(tmp_path: Path, make_run: MakeRun) -> None:
    run = load_run(make_run(tmp_path / "run", candidates=4, chosen=4))
    assert "never_chosen" not in [name for name, *_ in run_tables(run)]
    assert "Never chosen (hatched): 0 of " in choices(run)[1]


def test_choices_of_many_times_fall_into_bins(finished_run: Path) -> None:
    run = load_run(finished_run)
    assert run.chosen is not None
    often = pd.DataFrame({"step": [1] * 95, "prompt": [len(run.codes)] * 95, "ppl": [2.0] * 95})
    run.chosen = pd.concat([run.chosen, often])
    assert "at most 95. Each bar but the first is 4 counts wide" in choices(run)[1]


def test_without_dumps_the_override_that_writes_them_is_named(finished_run: Path) -> None:
    html = page_of(load_run(finished_run))
    assert "trainer.rollout_data_dir=RUN_DIR/rollouts" in html
    assert "trainer.validation_data_dir=RUN_DIR/validation" in html


def test_samples_are_correct_and_incorrect_ones_of_the_first_and_last_step(
    tmp_path: Path, make_run: MakeRun, write_lines: Callable[..., None]
) -> None:
    run_dir = make_run(tmp_path / "run", steps=1)
    for step in (1, 2, 10):
        lines = [entry(f"out {step} {index}", index % 2, f"question {index // 4}", step) for index in range(12)]
        write_lines(run_dir / "rollouts" / f"{step}.jsonl", lines)
    (run_dir / "rollouts" / "notes.txt").write_text("other")
    (run_dir / "rollouts" / "x.jsonl").write_text("{}")
    html = page_of(load_run(run_dir))
    assert [f"out {step} " in html for step in (1, 2, 10)] == [True, False, True]
    assert html.count(", correct</b>") == html.count(", incorrect</b>") == 4
    assert html.count("question 0") == html.count("question 1") == 4, "of different prompts"


def test_samples_are_found_where_the_configuration_says(
    tmp_path: Path, make_run: MakeRun, write_lines: Callable[..., None]
) -> None:
    run_dir = make_run(tmp_path / "run", steps=1)
    write_lines(tmp_path / "elsewhere" / "3.jsonl", [entry("kept elsewhere")])
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config["trainer"]["validation_data_dir"] = str(tmp_path / "elsewhere")
    config["trainer"]["rollout_data_dir"] = "no\x00such" + "/folder" * 2000
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    html = page_of(load_run(run_dir))
    assert "kept elsewhere" in html
    assert [heading for heading, _ in find_samples(load_run(run_dir))] == ["Validation generations"]


def test_damaged_dumps_are_passed_over(tmp_path: Path, make_run: MakeRun) -> None:
    run_dir = make_run(tmp_path / "run", steps=1)
    (run_dir / "rollouts").mkdir()
    good = json.dumps(entry("the good one"))
    bad = ["not json", "[1]", "[" * 100_000, '{"score": NaN, "output": "nan"}', '{"output": "no score"}', ""]
    (run_dir / "rollouts" / "1.jsonl").write_text("\n".join([*bad, good, good[:-20]]))
    (run_dir / "rollouts" / "2.jsonl").write_bytes(b"\xff\xfe\x00\x00")
    html = page_of(load_run(run_dir))
    assert html.count("<article") == 1
    assert "the good one" in html


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_texts_are_shown_as_text(
    tmp_path: Path, make_run: MakeRun, write_lines: Callable[..., None], read_page: ReadPage, kind: str
) -> None:
    text = HOSTILE[kind]
    run_dir = make_run(tmp_path / "run", steps=1)
    write_lines(run_dir / "rollouts" / "1.jsonl", [entry(text, prompt=text) | {"gts": text}])
    selection = [json.loads(line) for line in (run_dir / "audit/selection.jsonl").read_text().splitlines()]
    selection[0]["candidates"].append({"prompt_id": text, "nll_nats": 1.0, "num_tokens": 3, "ppl": 2.7})
    write_lines(run_dir / "audit" / "selection.jsonl", selection)
    html = page_of(load_run(run_dir))
    page = read_page(html)
    assert len(html) < 60_000, "a long text was not cut"
    assert not page.tags & {"script", "iframe", "link", "object"}
    assert "<img " not in html, "a text became a picture"
    html.encode("utf-8")
    assert not any(char in html for char in "\x00\x1b\u202e\u202c\u2066")
    shown = shorten(text, 200)
    assert shown in page.cells("never_chosen")
    assert page.text.count(visible(text[:40])) >= 4, "prompt id, prompt, output and gold answer"


def test_text_is_cut_in_the_middle_and_stays_short() -> None:
    assert len(shorten("<" * 10**6, 900)) < 1000
    assert shorten("ab" * 10**6, 30).endswith("ab")
    assert visible("e\u0301 \u0639 \u4f60") == "e\u0301 \u0639 \u4f60", "accents and other scripts stay"
    assert visible("Z" + "\u0301" * 500) == "Z" + "\u0301" * 2


def test_staleness_is_drawn_only_where_rollouts_lag(finished_run: Path) -> None:
    run, panel = load_run(finished_run), PANELS["staleness"]
    methods = [Method("run", (run,))]
    with pytest.raises(NoData, match="not logged"):
        over_steps("staleness", panel, methods)
    run.metrics[list(panel.series)] = 0.0
    with pytest.raises(NoData):
        over_steps("staleness", panel, methods)
    run.metrics[next(iter(panel.series))] = run.metrics.index + 0.5
    assert "0 is on-policy" in over_steps("staleness", panel, methods)[1]
