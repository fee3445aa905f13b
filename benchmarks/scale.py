"""How the rules and their state grow: choosing among |B| candidates, and keeping N prompts in memory and on disk.

``python -m benchmarks.scale [--candidates N …] [--prompts N …]``. One thread, no model; each size of the training set
runs in a process of its own, so that its peak memory is its own. The table goes to outputs/bench/scale.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recipe.prepo.doctor import compose_config
from recipe.prepo.maths.prompt_index import PromptIndex
from recipe.prepo.notation import Candidates, RunFacts
from recipe.prepo.rules.registry import SELECTION
from recipe.prepo.state.audit import selection_line
from recipe.prepo.state.checkpoint import load_state, save_state
from recipe.prepo.state.controller import Controller, RunIdentity

OUT = Path("outputs/bench/scale.json")
EVERY_STATE = {
    "selection": "greso",
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


def controller(rules: dict[str, dict[str, Any]], index: PromptIndex, *, num_candidates: int) -> Controller:
    return Controller(
        rules,
        identity=RunIdentity(
            seed=0, num_selected=max(1, num_candidates // 5), num_candidates=num_candidates, data_sha256=""
        ),
        run=RunFacts(prompts=index, vocab_size=151936, rollouts_per_prompt=8, total_steps=100, steps_per_epoch=10),
        base_temperature=1.0,
    )


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def time_selection(name: str, num_candidates: int, repeats: int) -> dict[str, Any]:
    """Seconds of one choice of a fifth of the candidates, and of the audit line about it."""
    ids = tuple(f"prompt-{i:09d}" for i in range(num_candidates))
    rng = np.random.default_rng(0)
    candidates = Candidates(ids, rng.normal(0.7, 0.2, num_candidates), np.full(num_candidates, 150))
    index = PromptIndex(ids)
    rules = options(selection=name)
    num_selected = num_candidates if not SELECTION[name].uses_candidates else num_candidates // 5
    times, line_times = [], []
    for step in range(1, repeats + 1):
        chooser = controller(rules, index, num_candidates=num_candidates)
        spent, decision = seconds(lambda: chooser.select(candidates, num_selected=num_selected, step=step))  # noqa: B023
        times.append(spent)
        line_times.append(seconds(lambda: json.dumps(selection_line(decision)))[0])  # noqa: B023
    return {
        "rule": name,
        "candidates": num_candidates,
        "select_s": statistics.median(times),
        "audit_line_s": statistics.median(line_times),
    }


def write_state(num_prompts: int, folder: str) -> dict[str, Any]:
    """Fill the state of every rule that keeps something for each prompt, and save it."""
    keeper = controller(options(**EVERY_STATE), PromptIndex(ids_of(num_prompts)), num_candidates=80)
    state = keeper.state_dict()
    rng = np.random.default_rng(0)
    for array in _arrays(state):
        array[:] = rng.integers(0, 100, num_prompts)
    save_s, _ = seconds(lambda: save_state(Path(folder), state))
    size = sum(file.stat().st_size for file in Path(folder).iterdir())
    return {"save_s": save_s, "file_mb": size / 2**20}


def resume_state(num_prompts: int, folder: str) -> dict[str, Any]:
    """What a resumed run needs: index the prompts, load the state, save it again; memory beyond the bare process."""
    rules = options(**EVERY_STATE)
    resting_mb = resident_mb()
    with WatchPeak() as watch:
        index_s, index = seconds(lambda: PromptIndex(ids_of(num_prompts)))
        keeper = controller(rules, index, num_candidates=80)
        load_s, _ = seconds(lambda: keeper.load_state_dict(load_state(Path(folder))))
        held_mb = resident_mb() - resting_mb
        save_state(Path(folder), keeper.state_dict())
    return {"index_s": index_s, "load_s": load_s, "held_mb": held_mb, "peak_mb": watch.peak_mb - resting_mb}


def ids_of(num_prompts: int) -> Iterator[str]:
    return (f"prompt-{i:09d}" for i in range(num_prompts))


class WatchPeak:
    """Highest resident memory within the block, looked at every 5 ms."""

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


def measure_state(num_prompts: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=OUT.parent) as folder:
        return {
            "prompts": num_prompts,
            **in_a_process(write_state, num_prompts, folder),
            **in_a_process(resume_state, num_prompts, folder),
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


def exponent(rows: list[dict[str, Any]], size: str, cost: str) -> float | None:
    """Slope of log cost over log size between the smallest and the largest row."""
    first, last = rows[0], rows[-1]
    if first[size] == last[size]:
        return None
    return float(np.log(last[cost] / first[cost]) / np.log(last[size] / first[size]))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000])
    parser.add_argument("--prompts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"
    OUT.parent.mkdir(parents=True, exist_ok=True)
    selection, exponents = [], {}
    for name in sorted(SELECTION):
        if name == "all":
            continue
        rows = [time_selection(name, size, arguments.repeats) for size in arguments.candidates]
        exponents[name] = exponent(rows, "candidates", "select_s")
        selection += rows
        for row in rows:
            print(
                f"{name:13} {row['candidates']:>7} candidates: {1e3 * row['select_s']:8.2f} ms, "
                f"audit line {1e3 * row['audit_line_s']:8.2f} ms",
                flush=True,
            )
    state = [measure_state(size) for size in arguments.prompts]
    for row in state:
        print(
            f"{row['prompts']:>10} prompts: index {row['index_s']:6.2f} s, {row['held_mb']:7.1f} MiB held, "
            f"{row['peak_mb']:7.1f} MiB at most, save {row['save_s']:5.2f} s, load {row['load_s']:5.2f} s, "
            f"{row['file_mb']:7.1f} MiB on disk",
            flush=True,
        )
    exponents["held memory"] = exponent(state, "prompts", "held_mb")
    OUT.write_text(json.dumps({"selection": selection, "state": state, "exponents": exponents}, indent=1) + "\n")


if __name__ == "__main__":
    main()
