"""Runs of several seeds are one method: its mean with its spread, the baseline, and the cost to reach a target."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from report_pages import Page, make_run

from recipe.prepo.errors import DataError
from recipe.prepo.report import main
from recipe.prepo.run.metric_names import ROLLOUTS
from recipe.prepo.tools.report import write_report
from recipe.prepo.tools.report.compare import Method, find_baseline, group_methods
from recipe.prepo.tools.report.load import load_run
from recipe.prepo.tools.report.targets import STEP, Evaluations, TargetTable, judge, ratio

NAME = "val-core/openai/gsm8k/acc/mean@2"


@pytest.fixture(scope="module")
def run_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Two methods, three seeds each: the scores of a method differ by seed, and one method gains twice as fast."""
    root = tmp_path_factory.mktemp("seeds")
    return {
        name: [
            make_run(root / f"{name}-seed{seed}", rule=rule, lift=lift + 0.005 * seed, seed=seed, seconds=9.0 + seed)
            for seed in range(3)
        ]
        for name, rule, lift in (("prepo", "ppl_schedule", 0.04), ("random", "uniform", 0.02))
    }


@pytest.fixture(scope="module")
def methods(run_dirs: dict[str, list[Path]]) -> list[Method]:
    return group_methods([load_run(path) for paths in run_dirs.values() for path in paths])


def changed(run_dir: Path, settings: dict[str, object]) -> Path:
    """The run directory with some settings of its config.yaml changed, by dotted name."""
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    for name, value in settings.items():
        *sections, key = name.split(".")
        inner = config
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[key] = value
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    return run_dir


@pytest.mark.parametrize(
    ("setting", "value", "num_methods"),
    [
        ("prepo.budget.name", "difficulty", 2),
        ("data.train_files", ["other.parquet"], 2),
        ("trainer.experiment_name", "another name", 1),
        ("data.seed", 5, 1),
        ("prepo.audit", False, 1),
    ],
)
def test_what_makes_another_method(tmp_path: Path, setting: str, value: object, num_methods: int) -> None:
    paths = [make_run(tmp_path / f"r-seed{seed}", steps=0, seed=seed) for seed in (0, 1)]
    changed(paths[1], {setting: value})
    assert len(group_methods([load_run(path) for path in paths])) == num_methods
    for path in paths:
        (path / "config.yaml").unlink()
    assert len(group_methods([load_run(path) for path in paths])) == 2, "runs without a config stand alone"


def table_of(methods: list[Method], target: float | None, baseline: str | None = None) -> TargetTable:
    table, _ = judge(methods, [NAME], target, find_baseline(methods, baseline))
    assert table is not None and table.cells is not None
    return table


def test_target_of_the_table_is_the_baselines_final_score(methods: list[Method]) -> None:
    table = table_of(methods, None)
    assert table.level == pytest.approx(0.25 + 6 * 0.025) and '"random"' in table.title
    prepo, random = (table.cells.loc[name] for name in ("prepo", "random"))  # type: ignore[union-attr]
    assert (prepo["rollouts"], prepo["reached at step"]) == ("64", "4")
    assert prepo["rollouts, baseline / method"].startswith("1.50 [")
    assert random["rollouts, baseline / method"] == "baseline"
    assert prepo["final score, difference"] == "+0.1200 [+0.1200, +0.1200], better in 3 of 3"


@pytest.mark.parametrize(
    ("chosen", "target", "baseline", "sentence", "details"),
    [
        ((0, 1), None, "random", r"prepo needed 1\.5x fewer rollouts than random \[1\.5, 2\.0\], 3 paired seeds\.",
         "To reach random's final score. Also 1.5x fewer response tokens ["),
        ((0, 1), None, "prepo", r"random never reached prepo's final score\.", ""),
        ((0, 1), 0.45, "random", r"prepo reached a held-out score of 0\.45\. random never did\.", ""),
        ((1, 0), 0.35, "prepo", r"random needed 1\.\dx more rollouts than prepo \[1\.\d, 2\.0\], 3 paired seeds\.", ""),
        ((0,), None, None, r"Held-out score 0\.250 to 0\.520 \(\+0\.270\) with 96 rollouts in 6 steps, the mean of 3",
         "One method says nothing"),
        ((0, 1), None, None, "prepo ended highest. Held-out score", "--baseline METHOD names one"),
    ],
)  # fmt: skip
def test_the_verdict_says_what_was_saved_and_how_sure_that_is(
    methods: list[Method], chosen: tuple[int, ...], target: float | None, baseline: str | None, sentence: str,
    details: str,
) -> None:  # fmt: skip
    some = [methods[at] for at in chosen]
    _, found = judge(some, [NAME], target, find_baseline(some, baseline) if baseline else None)
    assert re.match(sentence, found.sentence), found
    assert details in found.details
    single = [Method(method.name, method.runs[:1]) for method in some]
    if baseline and "needed" in sentence:
        _, found = judge(single, [NAME], target, find_baseline(single, baseline))
        assert found.sentence.endswith(", 1 seed each.") and "may be chance" in found.details


def test_never_reached_is_reported(methods: list[Method]) -> None:
    cells = table_of(methods, 0.45, "random").cells
    assert cells is not None
    assert cells.loc["random", "reached at step"] == "never in 6 steps (best 0.4000)"
    assert cells.loc["random", "rollouts"] == "never"
    assert cells.loc["prepo", "rollouts, baseline / method"].startswith("only this method")


def made(score: list[list[float]], *, seeds: tuple[int | None, ...] | None = None, cost: float = 10.0) -> Evaluations:
    """Evaluations every step, each step at the same cost."""
    scores = np.array(score)
    steps = np.arange(scores.shape[1], dtype=float)
    costs = {ROLLOUTS: np.tile(cost * steps, (len(scores), 1)), STEP: np.tile(steps, (len(scores), 1))}
    return Evaluations(scores, costs, seeds or tuple(range(len(scores))))


def test_paired_seeds_have_no_spread_where_unpaired_ones_do() -> None:
    generator = np.random.default_rng(0)
    # Seeds differ in how fast they learn; the method is the baseline at half the cost, seed by seed.
    score = [(np.arange(20) * slope / 20).tolist() for slope in generator.uniform(0.5, 1.5, 6)]
    baseline, row = made(score), made(score, cost=5.0)
    assert ratio(baseline, row, None, ROLLOUTS) == (2.0, 2.0, 2.0)
    _, low, high = ratio(baseline, made(score, seeds=(10, 11, 12, 13, 14, 15), cost=5.0), None, ROLLOUTS)
    assert low < 2.0 < high


def test_target_is_the_baselines_own_final_score_in_each_resample() -> None:
    """Resamples of slow seeds do not reach the mean final score of all seeds, but always their own."""
    slopes = (0.02, 0.03, 0.04, 0.05)
    baseline = made([(np.arange(11) * slope).tolist() for slope in slopes])
    row = made([[0.0, *[1.0] * 10]] * 4, seeds=(5, 6, 7, 8))
    assert ratio(baseline, row, None, ROLLOUTS) == (10.0, 10.0, 10.0)
    assert ratio(baseline, row, 0.35, ROLLOUTS)[2] == math.inf


def test_interval_of_a_ratio_agrees_with_a_plain_bootstrap() -> None:
    generator = np.random.default_rng(1)
    scores = [np.cumsum(generator.uniform(0, 0.1, (5, 12)), axis=1).tolist() for _ in range(2)]
    baseline, row = made(scores[0]), made(scores[1])
    value, found_low, found_high = ratio(baseline, row, 0.4, ROLLOUTS)
    drawn = []
    for _ in range(4000):
        picks = generator.integers(0, 5, 5)
        reached = [int(np.argmax(of.score[picks].mean(axis=0) >= 0.4)) for of in (baseline, row)]
        drawn.append(reached[0] / reached[1])
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    assert (found_low, found_high) == pytest.approx((low, high), abs=0.12)
    assert found_low <= value <= found_high


def test_ratio_without_repetitions_or_before_training_is_marked() -> None:
    slow, fast, never = (made([score]) for score in ([0.0, 0.1, 0.2, 0.3], [0.0, 0.3, 0.3, 0.3], [0.0] * 4))
    value, low, _ = ratio(slow, fast, 0.3, ROLLOUTS)
    assert value == 3.0 and math.isnan(low)
    assert math.isnan(ratio(slow, fast, 0.0, ROLLOUTS)[0]), "reached before training costs nothing"
    assert math.isnan(ratio(fast, slow, 0.31, ROLLOUTS)[0]), "neither reaches it"
    assert ratio(slow, never, 0.3, ROLLOUTS)[0] == 0
    assert ratio(never, slow, 0.3, ROLLOUTS)[0] == math.inf


def test_page_of_seeds_has_methods_spread_and_each_seed(run_dirs: dict[str, list[Path]], tmp_path: Path) -> None:
    paths = [path for pair in zip(*run_dirs.values(), strict=True) for path in pair]
    page = Page(write_report(paths, tmp_path / "out").read_text(encoding="utf-8"))
    rows, target = page.cells("summary"), page.cells("target")
    assert (rows["method"], target["method"]) == (["prepo", "random"], ["prepo", "random"])
    assert rows["final held-out score"][0] == "0.5200 [0.4900, 0.5500]"
    assert rows["seconds in steps"][0] == "60.0 [54.0, 66.0]"
    assert set(page.cells("seeds")["method"]) == {path.name for path in paths}
    assert (target["reached at step"], target["rollouts"]) == (["4", "6"], ["64", "96"])
    for text in ("seed 0, 1, 2, steps 6 of 6.", "2 methods, 6 runs", "prepo-seed0, by itself"):
        assert text in page.text


def test_baseline_by_name_by_run_and_by_directory(
    run_dirs: dict[str, list[Path]], methods: list[Method], tmp_path: Path
) -> None:
    assert find_baseline(methods, None) is methods[1], "the method with uniform selection"
    assert find_baseline(methods, "prepo") is methods[0]
    assert find_baseline(methods, "prepo-seed1") is methods[0]
    assert find_baseline(methods, f"{run_dirs['random'][2]}/") is methods[1]
    assert find_baseline(methods[:1], None) is None
    with pytest.raises(DataError, match=r"--baseline nothing: no such method; the methods are prepo, random"):
        find_baseline(methods, "nothing")
    arguments = [str(run_dirs["prepo"][0]), "--baseline", str(run_dirs["random"][0]), "--out", str(tmp_path / "o")]
    assert main(arguments) == 0
    page = Page((tmp_path / "o" / "index.html").read_text(encoding="utf-8"))
    assert page.cells("target")["rollouts, baseline / method"][1] == "baseline"


@pytest.mark.parametrize(
    ("rules", "baseline"),
    [
        ({"plain": {}, "length_bias": {"shaping": "length_bias"}}, "plain"),
        ({"w": {"weighting": "relative_entropy"}, "both": {"weighting": "relative_entropy", "selection": "all",
                                                           "budget": "difficulty"}}, "w"),
        ({"stock": {"selection": "all"}, "e3": {"selection": "all", "budget": "difficulty"}}, "stock"),
        ({"mopps": {"selection": "mopps"}, "prepo": {"selection": "ppl_schedule"}}, None),
        ({"of_another_release": {"weighting": "unknown"}, "plain": {}}, "plain"),
    ],
)  # fmt: skip
def test_the_baseline_is_the_method_with_the_fewest_rules(
    tmp_path: Path, rules: dict[str, dict[str, str]], baseline: str | None
) -> None:
    runs = []
    for name, switched in rules.items():
        settings = {f"prepo.{group}.name": rule for group, rule in ({"weighting": "none"} | switched).items()}
        runs.append(load_run(changed(make_run(tmp_path / name, steps=0, rule="uniform"), settings)))
    found = find_baseline(group_methods(runs), None)
    assert (found.name if found else None) == baseline


def test_other_data_and_a_seed_used_twice_are_warned_about(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / name, steps=2, sets=("gsm8k",)) for name in ("a", "b", "c")]
    changed(paths[2], {"data.train_files": ["other.parquet"]})
    page = Page(write_report(paths, tmp_path / "out").read_text(encoding="utf-8"))
    assert "the methods differ in data.train_files" in page.text
    assert "a: several runs have the same seed (0, 0)" in page.text
    assert "differ in data.val_files" not in page.text
