"""How costs grow: choosing among |B| candidates, weighting ragged groups, keeping state of N prompts.

``python -m benchmarks.scale [--candidates N …] [--groups N …] [--prompts N …]``. One thread, no model. Each size runs
in its own process, for its own peak memory. Tables: outputs/bench/scale.json and scale.md.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.results import write_results
from recipe.prepo.candidates import Pool
from recipe.prepo.config import LARGEST_POOL
from recipe.prepo.controller import Controller, RunIdentity
from recipe.prepo.doctor import compose_config
from recipe.prepo.maths.prompt_index import PromptIndex
from recipe.prepo.rules.base import SelectionRule
from recipe.prepo.rules.registry import SELECTION, build_rule
from recipe.prepo.run.audit import rollout_lines, selection_line
from recipe.prepo.run.checkpoint import load_state, save_state
from recipe.prepo.types import Candidates, Decision, FloatArray, RolloutBatch, RunFacts, StepOutcome

OUT = Path("outputs/bench/scale.json")
WARM_UP_EPOCHS = 4  # of E3's budget: from then on groups have 4 to 12 rollouts
KEPT: dict[str, Any] = {"score_ratio": 5.0, "rescore_after": 0, "model": ""}
EVERY_STATE = {  # of each group the rule with the most state for each prompt
    "selection": "mopps_ppl",
    "weighting": "none",
    "budget": "difficulty",
    "temperature": "entropy_target",
    "shaping": "length_bias",
}


def options(**names: str) -> dict[str, dict[str, Any]]:
    """The rules' options as ``conf/`` has them."""
    from omegaconf import OmegaConf

    config = compose_config(["experiment=tiny_cpu", *(f"prepo/{group}={name}" for group, name in names.items())])
    return {group: OmegaConf.to_container(config.prepo[group]) for group in EVERY_STATE}  # type: ignore[misc]


def controller(rules: dict[str, dict[str, Any]], index: PromptIndex, *, num_candidates: int, **kept: Any) -> Controller:
    return Controller(
        rules,
        identity=RunIdentity(
            seed=0, num_selected=max(1, num_candidates // 5), num_candidates=num_candidates, data_sha256="", **kept
        ),
        run=RunFacts(prompts=index, vocab_size=151936, rollouts_per_prompt=8, total_steps=100, steps_per_epoch=1),
        base_temperature=1.0,
    )


def seconds(function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> tuple[float, Any]:
    start = clock()
    result = function()
    return clock() - start, result


def time_selection(name: str, num_candidates: int, repeats: int) -> dict[str, Any]:
    """Seconds to choose a fifth of the candidates, and to make the audit line.

    Every prompt had three groups of two rollouts before; `greso` draws until it has as many.
    """
    ids = tuple(f"prompt-{i:09d}" for i in range(num_candidates))
    rng = np.random.default_rng(0)
    candidates = Candidates(ids, rng.normal(0.7, 0.2, num_candidates), np.full(num_candidates, 150))
    index = PromptIndex(ids)
    rules = options(selection=name)
    num_selected = num_candidates // 5
    times, line_times = [], []
    for step in range(1, repeats + 1):
        chooser = controller(rules, index, num_candidates=num_candidates)
        state = chooser.state_dict()
        state["rules"]["selection"] = _seasoned(rules["selection"], chooser.run, candidates, rng)
        chooser.load_state_dict(state)
        choose = functools.partial(chooser.select, candidates)
        if not SELECTION[name].uses_candidates:
            choose = functools.partial(chooser.select_from_stream, functools.partial(_drawn, itertools.cycle(ids)))
        spent, decision = seconds(functools.partial(choose, num_selected=num_selected, step=step))
        times.append(spent)
        line_times.append(seconds(lambda: json.dumps(selection_line(decision)))[0])  # noqa: B023
    return {
        "rule": name,
        "candidates": num_candidates,
        "select_s": statistics.median(times),
        "audit_line_s": statistics.median(line_times),
    }


def time_pool(name: str, num_prompts: int, repeats: int) -> dict[str, Any]:
    """CPU-seconds to choose 128 of all prompts, with kept scores of which 640 are renewed, without the scoring."""
    ids = tuple(ids_of(num_prompts))
    rng = np.random.default_rng(0)
    rules, identity = options(selection=name), RunIdentity(0, 128, None, "", **KEPT)
    facts = RunFacts(PromptIndex(ids), vocab_size=151936, rollouts_per_prompt=8, total_steps=100, steps_per_epoch=1)
    chooser = Controller(rules, identity=identity, run=facts, base_temperature=1.0, pool=Pool(ids, shuffle_seed=0))

    def score(prompt_ids: Sequence[str]) -> Candidates:
        size = len(prompt_ids)
        return Candidates(tuple(prompt_ids), rng.normal(0.7, 0.2, size), np.full(size, 150))

    state = chooser.state_dict()
    state["rules"]["selection"] = _seasoned(rules["selection"], facts, score(ids), rng)
    chooser.load_state_dict(state)
    assert chooser.scores is not None
    chooser.scores.update(np.arange(num_prompts), score(ids), step=1)

    def choose(step: int) -> Decision:
        _, drawn = cast(Pool, chooser.pool).draw(128)
        candidates, _ = chooser.with_scores(
            drawn, num_selected=128, step=step, score=lambda places: score([drawn[i] for i in places.tolist()])
        )
        return chooser.select(candidates, num_selected=128, step=step)

    times, line_times, size = [], [], 0
    for step in range(2, 2 + repeats):
        spent, decision = seconds(functools.partial(choose, step), time.process_time)
        times.append(spent)
        spent, line = seconds(lambda: json.dumps(selection_line(decision)), time.process_time)  # noqa: B023
        line_times.append(spent)
        size = len(line)
    return {
        "prompts": num_prompts,
        "choose_s": statistics.median(times),
        "audit_line_s": statistics.median(line_times),
        "line_mb": size / 2**20,
    }


def _seasoned(
    options: dict[str, Any], run: RunFacts, candidates: Candidates, rng: np.random.Generator
) -> dict[str, Any]:
    """State of a rule that saw three groups of each candidate."""
    rule = cast(SelectionRule, build_rule("selection", options, seed=0))
    rule.bind(run)
    if rule.uses_candidates:
        rule.select(candidates, num_selected=1, progress=0.0)
    group_R = np.tile(np.arange(len(candidates)), 2)
    for step in range(1, 4):
        reward_R = rng.integers(0, 2, len(group_R)).astype(np.float64)
        rollouts = RolloutBatch(candidates.prompt_ids * 2, group_R, reward_R, np.ones_like(group_R))
        rule.observe(StepOutcome(trained=rollouts, discarded=(), step=step))
    return rule.state_dict()


def _drawn(stream: Iterator[str], num_prompts: int) -> list[str]:
    return list(itertools.islice(stream, num_prompts))


def time_rollouts(num_groups: int, repeats: int) -> dict[str, Any]:
    """Seconds of a step's work on rollouts in groups of 4 to 12: sizes, rewards, weights, outcome, audit."""
    rules = options(selection="uniform", weighting="relative_entropy", budget="difficulty", shaping="length_bias")
    rng = np.random.default_rng(0)
    index = PromptIndex(ids_of(num_groups))
    keeper = controller(rules, index, num_candidates=num_groups)
    candidates = Candidates(tuple(ids_of(num_groups)))
    spent: dict[str, list[float]] = {}

    def timed(name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        took, result = seconds(functools.partial(function, *arguments, **options))
        spent.setdefault(name, []).append(took)
        return result

    for step in range(1, WARM_UP_EPOCHS + repeats + 1):
        if step == WARM_UP_EPOCHS:  # E3's sizes start at 8 for all
            spent.clear()
        decision = timed("sizes_s", keeper.select, candidates, num_selected=num_groups, step=step)
        group_R = np.repeat(np.arange(num_groups), decision.rollout_n_P)
        num_rollouts = len(group_R)
        rollouts = RolloutBatch(
            prompt_ids=[candidates.prompt_ids[i] for i in decision.selection.indices_P[group_R].tolist()],
            group_R=group_R,
            reward_R=rng.integers(0, 2, num_rollouts).astype(float),
            num_tokens_R=rng.integers(1, 500, num_rollouts),
            entropy_nats_R=rng.uniform(0.1, 2.0, num_rollouts),
        )
        shaped_R = timed("shape_s", keeper.shape, rollouts)
        weight_R = timed("weigh_s", keeper.weigh, rollouts, step=step)
        timed("finish_s", keeper.finish_step, rollouts, weight_R, step=step, shaped_R=shaped_R)
        timed("audit_lines_s", _lines_of, rollouts, weight_R, step)
    return {
        "groups": num_groups,
        "rollouts": num_rollouts,
        **{name: statistics.median(times) for name, times in spent.items()},
    }


def _lines_of(rollouts: RolloutBatch, weight_R: FloatArray, step: int) -> int:
    place_R = np.arange(len(rollouts))
    lines = rollout_lines(
        rollouts,
        step=step,
        rollout_R=place_R - np.searchsorted(rollouts.group_R, rollouts.group_R),
        weight_R=weight_R,
        advantage_R=weight_R,
        advantage_weighted_R=weight_R,
        base_temperature=1.0,
        temperature_R=np.ones(len(rollouts)),
        shaped_R=None,
    )
    return sum(len(json.dumps(line)) for line in lines)


def with_memory(measurement: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """A measurement, with its memory beyond the bare process in MiB."""
    options()  # everything is imported
    resting_mb = resident_mb()
    with WatchPeak() as watch:
        row = measurement(*arguments)
    return {**row, "peak_mb": max(watch.peak_mb - resting_mb, 0.01)}


def write_state(num_prompts: int, folder: str, kept: dict[str, Any]) -> dict[str, Any]:
    """Fill and save the state of every rule that keeps data for each prompt; of `mopps_ppl` alone with kept scores."""
    rules = options(selection="mopps_ppl") if kept else options(**EVERY_STATE)
    keeper = controller(rules, PromptIndex(ids_of(num_prompts)), num_candidates=80, **kept)
    state = keeper.state_dict()
    rng = np.random.default_rng(0)
    for array in _arrays(state):
        array[:] = rng.integers(0, 100, array.shape)
    save_s, _ = seconds(lambda: save_state(Path(folder), state))
    size = sum(file.stat().st_size for file in Path(folder).iterdir())
    return {"save_s": save_s, "file_mb": size / 2**20}


def resume_state(num_prompts: int, folder: str, kept: dict[str, Any]) -> dict[str, Any]:
    """Work of a resumed run: index the prompts, load the state, save it again; memory beyond the bare process."""
    rules = options(selection="mopps_ppl") if kept else options(**EVERY_STATE)
    resting_mb = resident_mb()
    with WatchPeak() as watch:
        index_s, index = seconds(lambda: PromptIndex(ids_of(num_prompts)))
        keeper = controller(rules, index, num_candidates=80, **kept)
        load_s, _ = seconds(lambda: keeper.load_state_dict(load_state(Path(folder))))
        held_mb = resident_mb() - resting_mb
        save_state(Path(folder), keeper.state_dict())
    return {"index_s": index_s, "load_s": load_s, "held_mb": held_mb, "peak_mb": watch.peak_mb - resting_mb}


def ids_of(num_prompts: int) -> Iterator[str]:
    return (f"prompt-{i:09d}" for i in range(num_prompts))


class WatchPeak:
    """Highest resident memory within the block, sampled every 5 ms."""

    def __enter__(self) -> WatchPeak:
        self.peak_mb = resident_mb()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.peak_mb = max(self.peak_mb, resident_mb())

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._thread.join()


def measure_state(num_prompts: int, kept: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=OUT.parent) as folder:
        return {
            "prompts": num_prompts,
            **in_a_process(write_state, num_prompts, folder, kept),
            **in_a_process(resume_state, num_prompts, folder, kept),
        }


def _arrays(state: Any) -> Sequence[np.ndarray]:
    if isinstance(state, np.ndarray):
        return [state]
    return [array for value in state.values() for array in _arrays(value)] if isinstance(state, dict) else []


def resident_mb() -> float:
    """Resident memory of this process now, in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def in_a_process(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def exponents(rows: Sequence[dict[str, Any]], size: str) -> dict[str, float]:
    """Slope of log cost over log size, by least squares over the two largest decades."""
    if len({row[size] for row in rows}) < 2:
        return {}
    kept = [row for row in rows if row[size] >= rows[-1][size] / 100]
    if len(kept) < 2:
        kept = list(rows)
    sizes = np.log([row[size] for row in kept])
    costs = [name for name in rows[0] if name.endswith(("_s", "_mb"))]
    return {name: float(np.polyfit(sizes, np.log([row[name] for row in kept]), 1)[0]) for name in costs}


def table(rows: Sequence[dict[str, Any]], size: str) -> list[str]:
    """Markdown: one line for each size, and the exponents."""
    costs = [name for name in rows[0] if name.endswith(("_s", "_mb"))]

    def head(name: str) -> str:
        stem, _, unit = name.rpartition("_")
        return f"{stem.replace('_', ' ')} {'ms' if unit == 's' else 'MiB'}"

    def cell(row: dict[str, Any], name: str) -> str:
        return f"{row[name] * 1e3:,.2f}" if name.endswith("_s") else f"{row[name]:,.1f}"

    found = exponents(rows, size)
    return [
        f"| {size} | {' | '.join(map(head, costs))} |",
        "|---" * (len(costs) + 1) + "|",
        *(f"| {row[size]:,} | {' | '.join(cell(row, name) for name in costs)} |" for row in rows),
        f"| exponent | {' | '.join(f'{found[name]:.2f}' if found else '–' for name in costs)} |",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000])
    parser.add_argument("--groups", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000])
    parser.add_argument("--prompts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default="", help="tables whose title holds this text")
    arguments = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    OUT.parent.mkdir(parents=True, exist_ok=True)
    measured: dict[str, tuple[str, list[int], Callable[[int], dict[str, Any]]]] = {}
    for name in (name for name in sorted(SELECTION) if name != "all"):
        measured[f"choosing a fifth, {name}"] = (
            "candidates",
            arguments.candidates,
            lambda n, name=name: in_a_process(with_memory, time_selection, name, n, arguments.repeats),  # type: ignore
        )
    measured["rollouts of a step, in groups of 4 to 12"] = (
        "groups",
        arguments.groups,
        lambda n: in_a_process(with_memory, time_rollouts, n, arguments.repeats),
    )
    measured["choosing 128 of all prompts, mopps_ppl with kept scores"] = (
        "prompts",
        [n for n in arguments.prompts if n <= LARGEST_POOL],
        lambda n: in_a_process(with_memory, time_pool, "mopps_ppl", n, arguments.repeats),
    )
    measured["state of every rule"] = ("prompts", arguments.prompts, lambda n: measure_state(n, {}))
    measured["state of mopps_ppl with kept scores"] = ("prompts", arguments.prompts, lambda n: measure_state(n, KEPT))
    parts = {
        title: (size, [measure(n) for n in sizes])
        for title, (size, sizes, measure) in measured.items()
        if arguments.only in title
    }
    lines = ["# Growth", "", "Exponents: slope of log cost over log size, over the two largest decades.", ""]
    for title, (size, rows) in parts.items():
        lines += [f"## {title[0].upper()}{title[1:]}", "", *table(rows, size), ""]
    print("\n".join(lines))
    found = {
        title: {"size": size, "rows": rows, "exponents": exponents(rows, size)} for title, (size, rows) in parts.items()
    }
    write_results(OUT.parent, OUT.stem, found, "\n".join(lines))


if __name__ == "__main__":
    main()
