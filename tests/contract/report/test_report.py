"""The report of one finished run and of several: numbers on the page, pictures, samples, the command's answers."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from report_pages import Page, make_run, write_lines

from recipe.prepo.errors import DataError
from recipe.prepo.report import main
from recipe.prepo.rules.registry import SELECTION
from recipe.prepo.tools.report import style, write_report
from recipe.prepo.tools.report.compare import Method
from recipe.prepo.tools.report.load import SECONDS, Run, load_run
from recipe.prepo.tools.report.page import make_page, shorten
from recipe.prepo.tools.report.targets import Verdict
from recipe.prepo.types import Panel

SHARED = {
    "accuracy_rollouts", "accuracy_tokens", "accuracy_seconds", "zero_advantage", "entropy", "temperature", "window",
    "weights",
}  # fmt: skip
OWN = {"step_time"}
EMPTY = {"staleness", "skipped", "rollouts", "perplexity_pass_rate"}
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


@pytest.fixture(scope="module")
def report_dir(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([finished_run], tmp_path_factory.mktemp("report")).parent


@pytest.fixture(scope="module")
def page(report_dir: Path) -> Any:
    return Page((report_dir / "index.html").read_text(encoding="utf-8"))


def page_of(run: Run) -> str:
    return make_page([Method(run.name, (run,))], [], [(run, "", [])], None, Verdict("", ""))


def test_page_holds_every_figure_inside_and_beside(report_dir: Path, page: Any) -> None:
    assert set(page.figures) - set(page.images) == EMPTY, "named in the list of figures without data"
    assert set(page.images) == SHARED | OWN
    for name, data in page.images.items():
        assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
        assert data == (report_dir / f"{name}.png").read_bytes()
        width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
        assert width > 500 and height > 300 and len(page.alts[name]) > 20


def test_page_fetches_nothing_and_runs_one_script(page: Any) -> None:
    assert not page.tags & {"link", "iframe", "object", "a", "form"}
    (script,) = re.findall(r"<script>(.*?)</script>", page.html, flags=re.S)
    named = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{named}'" in page.html and "default-src 'none'" in page.html
    assert "https://" not in page.html and "<details open" not in page.html
    assert re.findall('http://[^ "]+', page.html) == ["http://www.w3.org/2000/svg"], "a name space"


def test_tables_hold_the_numbers_of_the_run(finished_run: Path, page: Any) -> None:
    rows = page.cells("summary")
    expected = {
        "selection": "ppl_schedule", "weighting": "relative_entropy", "shaping": "none", "steps": "6 of 6",
        "final held-out score": "0.5500", "gain": "+0.3000", "rollouts": "96", "response tokens": "1,920",
        "seconds in steps": "54.0", "seconds in validation": "18.0", "zero-advantage share": "0.4930",
        "final math500/acc/mean@2": "0.5500", "final openai/gsm8k/acc/mean@2": "0.5500",
    }  # fmt: skip
    assert {name: rows[name] for name in expected} == {name: [value] for name, value in expected.items()}
    assert "plain mean over math500/acc/mean@2, openai/gsm8k/acc/mean@2." in page.text
    settings, metrics = page.cells("settings"), page.cells("metrics")
    assert (settings["model"], settings["training data"]) == (["some/model"], ["['train.parquet']"])
    logged = [json.loads(line) for line in (finished_run / "metrics.jsonl").read_text().splitlines()]
    assert set(metrics) == {"metric", SECONDS} | {name for line in logged for name in line["data"]}
    assert metrics["prepo/rollouts_total/max"] == ["96", "6"]


def test_comparison_lays_runs_side_by_side(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", sets=("gsm8k", "math500"))
    second = make_run(tmp_path / "second", steps=4, rule="uniform", sets=("math500",), lift=0.01, seed=1)
    page = Page(write_report([first, second], tmp_path / "out").read_text(encoding="utf-8"))
    assert set(page.images) == SHARED | {f"{name}_{index}" for name in OWN for index in (1, 2)}
    expected = {
        "method": ["first", "second"], "selection": ["ppl_schedule", "uniform"], "gain": ["+0.3000", "+0.0400"],
        "final held-out score": ["0.5500", "0.2900"], "rollouts": ["96", "64"], "response tokens": ["1,920", "1,280"],
        "seconds in steps": ["54.0", "36.0"], "zero-advantage share": ["0.4930", "0.4950"],
    }  # fmt: skip
    rows = page.cells("summary")
    assert {name: rows[name] for name in expected} == expected
    assert "plain mean over math500/acc/mean@2." in page.text, "only the sets that both runs have are compared"
    assert "second: 4 of 6 steps are logged" in page.text
    assert not (first / "report").exists()
    assert page.text.index("first needed 4.0x fewer rollouts than second, 1 seed each.") < page.text.index("Warnings")


def test_command_prints_the_path_of_the_page_or_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run(tmp_path / "run", steps=1)
    for options, folder in (([], run_dir / "report"), (["--out", str(tmp_path / "here")], tmp_path / "here")):
        assert main([str(run_dir), *options]) == 0
        assert capsys.readouterr().out.strip() == str(folder / "index.html")
        assert (folder / "accuracy_rollouts.png").stat().st_size > 1000
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "absent", tmp_path / "empty"):
        assert main([str(path)]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"error: {path} is not a run directory") and message.count("\n") == 1
        assert not (path / "report").exists()
    with pytest.raises(DataError, match="no run directory: pass one or more"):
        write_report([])


def test_importing_the_summary_loads_neither_matplotlib_nor_the_trainer() -> None:
    heavy = "{'matplotlib', 'verl', 'ray', 'torch'}"
    code = f"import sys, recipe.prepo.tools.summary; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_rule_adds_its_own_panels_and_unknown_rules_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Toy(SELECTION["uniform"]):  # type: ignore[misc,name-defined]
        panels = (Panel("Toy share", "What the toy did.", {"prepo/toy/mean": "toy", "absent": "absent"}, "share"),)

    monkeypatch.setitem(SELECTION, "toy", Toy)
    monkeypatch.setitem(style.SETTINGS, "figure.dpi", 40)
    pages = []
    for name in ("toy", "of_another_release"):
        run_dir = make_run(tmp_path / name, steps=2, rule=name)
        with (run_dir / "metrics.jsonl").open("a") as metrics:
            metrics.write('{"step": 1, "data": {"prepo/toy/mean": 0.5}}\n')
        pages.append(Page(write_report([run_dir]).read_text(encoding="utf-8")))
    assert "What the toy did." in pages[0].figures["rule_toy_share"] and "rule_toy_share" in pages[0].images
    assert "rule_toy_share" not in pages[1].figures


def entry(output: str, score: float = 1.0, prompt: str = "How many?") -> dict:
    return {"input": prompt, "output": output, "gts": "14", "score": score}


def test_samples_are_correct_and_incorrect_ones_of_the_first_and_last_step(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", steps=1)
    html = page_of(load_run(run_dir))
    assert "trainer.rollout_data_dir=RUN_DIR/rollouts" in html and "prepo.val_generations=20" in html
    for step in (1, 2, 10):
        lines = [entry(f"out {step} {index}", index % 2, f"question {index // 4}") for index in range(12)]
        write_lines(run_dir / "rollouts" / f"{step}.jsonl", lines)
    (run_dir / "rollouts" / "x.jsonl").write_text("{}")
    html = page_of(load_run(run_dir))
    assert [f"out {step} " in html for step in (1, 2, 10)] == [True, False, True]
    assert html.count(", correct</b>") == html.count(", incorrect</b>") == 4
    assert html.count("question 0") == html.count("question 1") == 1, "those of one prompt stand together"


def test_damaged_dumps_are_passed_over(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", steps=1)
    (run_dir / "rollouts").mkdir()
    good = json.dumps(entry("the good one"))
    bad = ["not json", "[1]", "[" * 100_000, '{"score": NaN, "output": "nan"}', '{"output": "no score"}', ""]
    (run_dir / "rollouts" / "1.jsonl").write_text("\n".join([*bad, good, good[:-20]]))
    (run_dir / "rollouts" / "2.jsonl").write_bytes(b"\xff\xfe\x00\x00")
    html = page_of(load_run(run_dir))
    assert html.count("<article") == 1 and "the good one" in html


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_texts_are_shown_as_text(tmp_path: Path, kind: str) -> None:
    text = HOSTILE[kind]
    run_dir = make_run(tmp_path / "run", steps=1)
    write_lines(run_dir / "rollouts" / "1.jsonl", [entry(text, prompt=text) | {"gts": text}])
    html = page_of(load_run(run_dir))
    page = Page(html)
    assert len(html.encode()) < 70_000, "a long text was not cut"
    assert not page.tags & {"iframe", "link", "object"} and html.count("<script>") == 1
    assert "<img " not in html, "a text became a picture"
    assert not any(char in html for char in "\x00\x1b\u202e\u202c\u2066")
    assert page.text.count(shorten(text[:40], 40)) >= 3, "prompt, output and gold answer"
