"""The report's sample generations: which ones, and hostile text shown as text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipe.prepo.tools.report import style
from recipe.prepo.tools.report.compare import Method
from recipe.prepo.tools.report.load import Run, load_run
from recipe.prepo.tools.report.page import find_samples, make_page, shorten
from recipe.prepo.tools.report.targets import Verdict

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
    monkeypatch.setitem(style.SETTINGS, "figure.dpi", 40)


def entry(output: str, score: float = 1.0, prompt: str = "How many?", step: int = 1) -> dict:
    return {"input": prompt, "output": output, "gts": "14", "score": score, "step": step, "uid": "a_0_0"}


def page_of(run: Run) -> str:
    return make_page([Method(run.name, (run,))], [], [(run, "", [])], None, Verdict("", ""))


def test_without_dumps_the_override_that_writes_them_is_named(finished_run: Path) -> None:
    html = page_of(load_run(finished_run))
    assert "trainer.rollout_data_dir=RUN_DIR/rollouts" in html
    assert "prepo.val_generations=20" in html


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
    assert html.count("question 0") == html.count("question 1") == 1, "those of one prompt stand together"


def test_samples_are_found_where_the_configuration_says(
    tmp_path: Path, make_run: MakeRun, write_lines: Callable[..., None]
) -> None:
    run_dir = make_run(tmp_path / "run", steps=1)
    write_lines(tmp_path / "elsewhere" / "3.jsonl", [entry("kept elsewhere")])
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config["trainer"]["validation_data_dir"] = str(tmp_path / "elsewhere")
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
    html = page_of(load_run(run_dir))
    page = read_page(html)
    assert len(html) < 60_000, "a long text was not cut"
    assert not page.tags & {"iframe", "link", "object"} and html.count("<script>") == 1
    assert "<img " not in html, "a text became a picture"
    html.encode("utf-8")
    assert not any(char in html for char in "\x00\x1b\u202e\u202c\u2066")
    assert page.text.count(shorten(text[:40], 40)) >= 3, "prompt, output and gold answer"


def test_text_is_cut_in_the_middle_and_stays_short() -> None:
    assert len(shorten("<" * 10**6, 900)) < 1000
    assert shorten("ab" * 10**6, 30).endswith("ab")
    assert shorten("e\u0301 \u0639 \u4f60", 9) == "e\u0301 \u0639 \u4f60", "accents and other scripts stay"
