"""Runs of several seeds: one row, its mean with its spread; and what a row took to reach a target."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from recipe.prepo.errors import DataError
from recipe.prepo.tools.report import write_report
from recipe.prepo.tools.report.command import main
from recipe.prepo.tools.report.figures import accuracy, entropy
from recipe.prepo.tools.report.load import Run, load_run
from recipe.prepo.tools.report.rows import Row, curve, find_baseline, group_rows
from recipe.prepo.tools.report.summary import ROLLOUTS, SECONDS, TOKENS, cumulative, held_out
from recipe.prepo.tools.report.targets import Evaluations, cost_to_target, evaluations, ratio, reached_at, target_table

NAME = "val-core/openai/gsm8k/acc/mean@2"
MakeRun = Callable[..., Path]
ReadPage = Callable[[str], Any]


@pytest.fixture(scope="module")
def run_dirs(tmp_path_factory: pytest.TempPathFactory, make_run: MakeRun) -> dict[str, list[Path]]:
    """Two methods, three seeds each: the scores of a method differ by seed, and one method gains twice as fast."""
    root = tmp_path_factory.mktemp("seeds")
    found: dict[str, list[Path]] = {"prepo": [], "random": []}
    for name, rule, lift in (("prepo", "ppl_schedule", 0.04), ("random", "uniform", 0.02)):
        for seed in range(3):
            path = root / f"{name}-seed{seed}"
            found[name].append(make_run(path, rule=rule, lift=lift + 0.005 * seed, seed=seed, seconds=9.0 + seed))
    return found


@pytest.fixture(scope="module")
def rows(run_dirs: dict[str, list[Path]]) -> list[Row]:
    return group_rows([load_run(path) for paths in run_dirs.values() for path in paths])


def by_hand(paths: list[Path], target: float, cost: str) -> float | None:
    """Mean cost of the seeds at the first step whose mean score is at or above the target, from the file alone."""
    scores: dict[int, list[float]] = {}
    costs: dict[int, list[float]] = {}
    for path in paths:
        spent = 0.0
        for line in map(json.loads, (path / "metrics.jsonl").read_text().splitlines()):
            data = line["data"]
            spent = data.get(cost, 0.0) if cost != SECONDS else spent + data.get("timing_s/step", 0.0)
            if NAME in data:
                scores.setdefault(line["step"], []).append(data[NAME])
                costs.setdefault(line["step"], []).append(spent)
    for step in sorted(scores):
        if len(scores[step]) == len(paths) and math.fsum(scores[step]) / len(paths) >= target - 1e-9:
            return math.fsum(costs[step]) / len(paths)
    return None


def test_runs_that_differ_in_their_seed_only_are_one_row(rows: list[Row]) -> None:
    assert [row.name for row in rows] == ["prepo", "random"]
    assert [row.seeds for row in rows] == [(0, 1, 2), (0, 1, 2)]


@pytest.mark.parametrize(
    ("setting", "value", "num_rows"),
    [
        ("prepo.budget.name", "difficulty", 2),
        ("data.train_files", ["other.parquet"], 2),
        ("actor_rollout_ref.model.path", "other/model", 2),
        ("trainer.total_training_steps", 12, 2),
        ("trainer.experiment_name", "another name", 1),
        ("trainer.default_local_dir", "/somewhere/else", 1),
        ("data.seed", 5, 1),
        ("prepo.audit", False, 1),
    ],
)
def test_what_makes_another_row(tmp_path: Path, make_run: MakeRun, setting: str, value: object, num_rows: int) -> None:
    paths = [make_run(tmp_path / f"r-seed{seed}", steps=0, seed=seed) for seed in (0, 1)]
    config = yaml.safe_load((paths[1] / "config.yaml").read_text())
    *sections, key = setting.split(".")
    inner = config
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[key] = value
    (paths[1] / "config.yaml").write_text(yaml.safe_dump(config))
    assert len(group_rows([load_run(path) for path in paths])) == num_rows


def test_runs_without_a_config_are_rows_of_their_own(tmp_path: Path, make_run: MakeRun) -> None:
    paths = [make_run(tmp_path / name, steps=0) for name in ("a", "b")]
    for path in paths:
        (path / "config.yaml").unlink()
    assert [row.name for row in group_rows([load_run(path) for path in paths])] == ["a", "b"]


def test_curve_is_the_mean_with_the_lowest_and_the_highest_seed(rows: list[Row]) -> None:
    found = curve(rows[0], lambda run: held_out(run, [NAME]), lambda run, steps: cumulative(run, steps, SECONDS))
    assert found.steps.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert found.num_runs == 3
    assert found.mean[-1] == pytest.approx(0.25 + 6 * 0.045)
    assert (found.low[-1], found.high[-1]) == pytest.approx((0.25 + 6 * 0.04, 0.25 + 6 * 0.05))
    assert found.x.tolist() == pytest.approx([10.0 * step for step in range(7)])


def test_curve_keeps_the_steps_that_all_seeds_logged(rows: list[Row]) -> None:
    runs = [Run(**{**vars(run), "metrics": dict(run.metrics)}) for run in rows[0].runs]
    del runs[1].metrics[4]
    row = Row("cut", tuple(runs))
    assert curve(row, lambda run: run.series(ROLLOUTS), None).steps.tolist() == [1, 2, 3, 5, 6]
    for step in list(runs[2].metrics):
        runs[2].metrics[step] = {}
    assert curve(row, lambda run: run.series(ROLLOUTS), None).num_runs == 2


def test_spread_is_drawn_and_said(rows: list[Row]) -> None:
    single = [Row("prepo", rows[0].runs[:1]), Row("random", rows[1].runs[:1])]
    for draw in (entropy, lambda of: accuracy(of, ROLLOUTS, "a", "rollouts")):
        assert "from the lowest to the highest" in draw(rows).caption
        assert "from the lowest to the highest" not in draw(single).caption
        assert draw(rows).png != draw(single).png


@pytest.mark.parametrize("cost", [ROLLOUTS, TOKENS, SECONDS])
@pytest.mark.parametrize("target", [0.25, 0.3, 0.34, 0.43, 0.45, 0.5199999, 0.53])
def test_cost_to_target_agrees_with_a_computation_by_hand(
    rows: list[Row], run_dirs: dict[str, list[Path]], target: float, cost: str
) -> None:
    for row in rows:
        found = cost_to_target(evaluations(row, [NAME]), target, cost)
        expected = by_hand(run_dirs[row.name], target, cost)
        assert found == (None if expected is None else pytest.approx(expected))


def test_target_of_the_table_is_the_baselines_final_score(rows: list[Row], run_dirs: dict[str, list[Path]]) -> None:
    table = target_table(rows, [NAME], None, find_baseline(rows, None))
    assert table is not None
    final = 0.25 + 6 * 0.025
    assert table.level == pytest.approx(final)
    assert "«random»" in table.title
    cells = {line[0]: dict(zip(table.head, line, strict=True)) for line in table.rows}
    prepo, random = (by_hand(run_dirs[name], final, ROLLOUTS) for name in ("prepo", "random"))
    assert (prepo, random) == (64, 96)
    assert cells["prepo"]["rollouts"] == "64"
    assert cells["prepo"]["reached at step"] == "4"
    assert cells["prepo"]["rollouts, baseline / row"].startswith("1.50 [")
    assert cells["random"]["rollouts, baseline / row"] == "baseline"


def test_never_reached_is_said(rows: list[Row]) -> None:
    table = target_table(rows, [NAME], 0.45, find_baseline(rows, "random"))
    assert table is not None
    cells = {line[0]: dict(zip(table.head, line, strict=True)) for line in table.rows}
    assert cells["random"]["reached at step"] == "never in 6 steps (best 0.4000)"
    assert cells["random"]["rollouts"] == "never"
    assert cells["prepo"]["rollouts, baseline / row"].startswith("only the row did")
    table = target_table(rows, [NAME], 0.9, find_baseline(rows, "random"))
    assert table is not None
    assert {line[1].split(" in ")[0] for line in table.rows} == {"never"}
    assert table.rows[0][3] == "n/a"


def made(score: list[list[float]], *, seeds: tuple[int | None, ...] | None = None, cost: float = 10.0) -> Evaluations:
    """Evaluations every step, each step at the same cost."""
    scores = np.array(score)
    steps = np.arange(scores.shape[1], dtype=float)
    costs = {ROLLOUTS: np.tile(cost * steps, (len(scores), 1))}
    return Evaluations(steps, scores, costs, seeds or tuple(range(len(scores))))


def test_ratio_of_equal_rows_is_one_and_paired_seeds_have_no_spread() -> None:
    generator = np.random.default_rng(0)
    # Seeds differ in how fast they learn; the row is the baseline at half the cost, seed by seed.
    score = [(np.arange(20) * slope / 20).tolist() for slope in generator.uniform(0.5, 1.5, 6)]
    baseline, row = made(score), made(score, cost=5.0)
    paired = ratio(baseline, row, None, ROLLOUTS)
    assert (paired.value, paired.low, paired.high, paired.paired) == (2.0, 2.0, 2.0, True)
    unpaired = ratio(baseline, made(score, seeds=(10, 11, 12, 13, 14, 15), cost=5.0), None, ROLLOUTS)
    assert not unpaired.paired
    assert unpaired.low is not None and unpaired.high is not None
    assert unpaired.low < 2.0 < unpaired.high


def test_target_is_the_baselines_own_final_score_in_each_resample() -> None:
    """Resamples of slow seeds do not reach the mean final score of all seeds, but always their own."""
    slopes = (0.02, 0.03, 0.04, 0.05)
    baseline = made([(np.arange(11) * slope).tolist() for slope in slopes])
    row = made([[0.0, *[1.0] * 10]] * 4, seeds=(5, 6, 7, 8))
    found = ratio(baseline, row, None, ROLLOUTS)
    assert (found.value, found.low, found.high) == (10.0, 10.0, 10.0)
    assert ratio(baseline, row, 0.35, ROLLOUTS).high == math.inf


def test_interval_of_a_ratio_agrees_with_a_plain_bootstrap() -> None:
    generator = np.random.default_rng(1)
    scores = [np.cumsum(generator.uniform(0, 0.1, (5, 12)), axis=1).tolist() for _ in range(2)]
    baseline, row = made(scores[0]), made(scores[1])
    found = ratio(baseline, row, 0.4, ROLLOUTS)
    drawn = []
    for _ in range(4000):
        picks = generator.integers(0, 5, 5)
        ends = [reached_at(of.score[picks].mean(axis=0), 0.4) for of in (baseline, row)]
        assert None not in ends
        drawn.append(ends[0] / ends[1])
    low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    assert found.low == pytest.approx(low, abs=0.12)
    assert found.high == pytest.approx(high, abs=0.12)
    assert found.low <= found.value <= found.high


def test_ratio_without_repetitions_or_before_training_is_marked() -> None:
    slow, fast = made([[0.0, 0.1, 0.2, 0.3]]), made([[0.0, 0.3, 0.3, 0.3]])
    assert (ratio(slow, fast, 0.3, ROLLOUTS).value, ratio(slow, fast, 0.3, ROLLOUTS).low) == (3.0, None)
    assert math.isnan(ratio(slow, fast, 0.0, ROLLOUTS).value), "reached before training costs nothing"
    assert math.isnan(ratio(fast, slow, 0.31, ROLLOUTS).value), "neither reaches it"
    never = made([[0.0, 0.0, 0.0, 0.0]])
    assert ratio(slow, never, 0.3, ROLLOUTS).value == 0
    assert ratio(never, slow, 0.3, ROLLOUTS).value == math.inf


def test_page_of_seeds_has_rows_spread_and_each_seed(
    run_dirs: dict[str, list[Path]], tmp_path: Path, read_page: ReadPage
) -> None:
    paths = [path for pair in zip(*run_dirs.values(), strict=True) for path in pair]
    page = read_page(write_report(paths, tmp_path / "out").read_text(encoding="utf-8"))
    rows = page.cells("comparison")
    assert rows["row"] == ["prepo", "random"]
    assert rows["seeds"] == ["0, 1, 2", "0, 1, 2"]
    assert rows["final held-out score"][0] == "0.5200 [0.4900, 0.5500]"
    assert rows["seconds in steps"][0] == "60.0 [54.0, 66.0]"
    assert set(page.cells("seeds")) == {"run", *(path.name for path in paths)}
    target = page.cells("target")
    assert target["row"] == ["prepo", "random"]
    assert target["reached at step"] == ["4", "6"]
    assert target["rollouts"] == ["64", "96"]
    assert "2 rows compared, 6 runs" in page.text
    assert "prepo-seed0, by itself" in page.text


def test_baseline_by_name_by_run_and_by_directory(
    run_dirs: dict[str, list[Path]], rows: list[Row], tmp_path: Path, read_page: ReadPage
) -> None:
    assert find_baseline(rows, None) is rows[1], "the uniform row"
    assert find_baseline(rows, "prepo") is rows[0]
    assert find_baseline(rows, "prepo-seed1") is rows[0]
    assert find_baseline(rows, f"{run_dirs['random'][2]}/") is rows[1]
    assert find_baseline(rows[:1], None) is None
    with pytest.raises(DataError, match=r"--baseline nothing: no such row; the rows are prepo, random"):
        find_baseline(rows, "nothing")
    arguments = [str(run_dirs["prepo"][0]), "--baseline", str(run_dirs["random"][0]), "--out", str(tmp_path / "o")]
    assert main(arguments) == 0
    page = read_page((tmp_path / "o" / "index.html").read_text(encoding="utf-8"))
    assert page.cells("target")["rollouts, baseline / row"][1] == "baseline"


def test_target_flag_on_a_single_run(
    run_dirs: dict[str, list[Path]], tmp_path: Path, read_page: ReadPage, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run_dirs["prepo"][0]
    assert main([str(run_dir), "--target", "0.4", "--out", str(tmp_path)]) == 0
    page = read_page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert page.cells("target")["reached at step"] == ["4"]
    assert page.cells("target")["rollouts"] == [f"{by_hand([run_dir], 0.4, ROLLOUTS):.0f}"]
    with pytest.raises(SystemExit) as stopped:
        main([str(run_dir), "--target", "nan"])
    assert stopped.value.code == 2
    assert "nan is no finite number" in capsys.readouterr().err


def test_rows_on_other_data_and_a_seed_used_twice_are_noted(
    tmp_path: Path, make_run: MakeRun, read_page: ReadPage
) -> None:
    paths = [make_run(tmp_path / name, steps=2, sets=("gsm8k",)) for name in ("a", "b", "c")]
    config = yaml.safe_load((paths[2] / "config.yaml").read_text())
    config["data"]["train_files"] = ["other.parquet"]
    (paths[2] / "config.yaml").write_text(yaml.safe_dump(config))
    page = read_page(write_report(paths, tmp_path / "out").read_text(encoding="utf-8"))
    assert "the rows differ in data.train_files" in page.text
    assert "a and 1 more: several runs have the same seed (0)" in page.text
    assert "differ in data.val_files" not in page.text
