"""Runs in processes of one thread each. Each finished run is a file, so a comparison can continue later."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks.mini_math import oracle
from benchmarks.mini_math.methods import METHODS, Method, base_of, in_order, read_method
from benchmarks.mini_math.options import SETTINGS, Options, digest, flag
from benchmarks.mini_math.provenance import made_by
from recipe.prepo.errors import ConfigError, PrepoError
from recipe.prepo.run.files import write_atomically

ORACLE_NOTE = "a reference, not a method: samples that measure its pass rates are not counted as rollouts or tokens"
# One thread for every library. Returning each large buffer to the system would cost a fifth of the time.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
}


@dataclasses.dataclass(frozen=True)
class Task:
    """One run to make; ``config`` is the hash of its options, setting and rules."""

    method: Method
    seed: int
    options: Options
    config: str
    cache: Path
    out: Path
    audit: bool

    @property
    def path(self) -> Path:
        return run_path(self.out, self.method.name, self.seed)


def run_path(out: Path, method: str, seed: int) -> Path:
    return out / "runs" / f"{method}-{seed}.json"


def make_task(name: str, seed: int, options: Options, *, cache: Path, out: Path, audit: bool = False) -> Task:
    """A run of a method, with the rules that ``conf/`` has for it now.

    Raises:
        ConfigError: unknown method, or sizes that its rules cannot work with.
    """
    method = read_method(
        name, num_selected=options.num_selected, rollouts_per_prompt=options.rollouts_per_prompt, seed=seed
    )
    if options.pool < method.prepo.min_prompts:
        raise ConfigError(
            f"--pool {options.pool} is too small: a step of {name} draws {method.prepo.min_prompts} prompts. "
            f"Give at least that many, or a smaller --num-selected"
        )
    config = digest(
        {
            "options": dataclasses.asdict(options),
            "setting": dataclasses.asdict(SETTINGS[options.setting]),
            "method": dataclasses.asdict(method),
            "rules": method.rules,
        }
    )
    return Task(method, seed, options, config, cache, out, audit)


def is_finished(task: Task) -> bool:
    """Whether the run's file is there and was made by the same configuration."""
    return task.path.exists() and bool(json.loads(task.path.read_text(encoding="utf-8"))["config"] == task.config)


def claim_directory(out: Path, options: Options) -> None:
    """Write the options into a new directory, or check that its results have the same ones.

    Raises:
        ConfigError: the directory's results have other options; names them.
    """
    mine = dataclasses.asdict(options)
    theirs = read_options(out)
    if theirs is None:
        write_atomically(out / "config.json", json.dumps(mine, indent=1) + "\n")
        return
    if differing := differing_options(theirs, mine):
        raise ConfigError(
            f"--out {out} holds results of another configuration: {differing}. Give the same, or another --out"
        )


def differing_options(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """The options that differ, as part of a message; empty if none does.

    >>> differing_options({"steps": 40}, {"steps": 80})
    '--steps 40 (now 80)'
    """
    return ", ".join(
        f"{flag(name)} {theirs.get(name)} (now {mine[name]})" for name in mine if theirs.get(name) != mine[name]
    )


def read_options(out: Path) -> dict[str, Any] | None:
    """The options of the directory's results; None without results.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = out / "config.json"
    if not path.exists():
        return None
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {error}. Give another --out") from error
    if not isinstance(options, dict):
        raise ConfigError(f"{path} is not a benchmark's configuration. Give another --out")
    return options


def options_of(saved: dict[str, Any], out: Path) -> Options:
    """The options that a directory's results were made with.

    Raises:
        ConfigError: another version of the benchmark made them.
    """
    known = {field.name for field in dataclasses.fields(Options)}
    if differing := known ^ set(saved):
        raise ConfigError(
            f"{out} holds results of another version of this benchmark: its config.json differs in "
            f"{', '.join(sorted(differing))}. Give another directory"
        )
    return Options(**saved)


def run_task(task: Task) -> str:
    """Make one run, write its file and return a line about it."""
    import torch

    from benchmarks.mini_math.loop import Run
    from benchmarks.mini_math.settings import prepare_base, prepare_pool

    torch.set_num_threads(1)
    base = prepare_base(task.options, task.cache)
    pool = prepare_pool(task.options, base, task.cache)
    audit_dir = task.out / "audit" / f"{task.method.name}-{task.seed}" if task.audit else None
    result = Run(task.method, task.options, task.seed, base=base, pool=pool, audit_dir=audit_dir).run()
    write_atomically(task.path, json.dumps({**result, "config": task.config, "made_by": made_by()}) + "\n")
    last = result["curve"][-1]
    return (
        f"{task.method.name} seed {task.seed}: accuracy {result['curve'][0]['accuracy']:.3f} -> "
        f"{last['accuracy']:.3f}, {last['rollouts']} rollouts, {result['seconds']:.0f} CPU-s + "
        f"{result['seconds_with_evaluation'] - result['seconds']:.0f} for evaluations"
    )


def run_all(tasks: Sequence[Task], *, jobs: int) -> list[str]:
    """Make runs, ``jobs`` at a time; returns the errors of those that failed."""
    errors = []
    context = multiprocessing.get_context("spawn")
    with one_thread_each(), ProcessPoolExecutor(jobs, context, end_with_parent, (os.getpid(),)) as executor:
        futures = {executor.submit(run_task, task): task for task in tasks}
        for number, future in enumerate(as_completed(futures), start=1):
            try:
                line = future.result()
            except PrepoError as error:
                task = futures[future]
                line = f"{task.method.name} seed {task.seed} failed: {error}"
                errors.append(line)
            print(f"[{number}/{len(tasks)}] {line}", flush=True)
    return errors


def end_with_parent(parent: int) -> None:
    """End this process with its parent: a killed comparison would otherwise go on in the background."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="end_with_parent").start()


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Give processes that are started within the block one thread each."""
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def gather(out: Path, options: Options, *, cache: Path, names: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Write results.json from all finished runs of the directory, in the order of the methods; returns them.

    Args:
        names: method -> the name that results.json gives it, for those that were asked for by an old name.
    """
    results = []
    for path in (out / "runs").glob("*.json"):
        name, _, seed = path.stem.rpartition("-")
        if base_of(name) in METHODS and seed.isdigit():
            task = make_task(name, int(seed), options, cache=cache, out=out)
            if is_finished(task):
                results.append(json.loads(path.read_text(encoding="utf-8")))
    results.sort(key=lambda result: (in_order(result["row"]), result["seed"]))
    for result in results:
        if base_of(result["row"]) == oracle.NAME:
            result["note"] = ORACLE_NOTE
    named = [{**result, "row": (names or {}).get(result["row"], result["row"])} for result in results]
    write_atomically(out / "results.json", json.dumps(named, indent=1) + "\n")
    return results
