"""Do methods rank on verl and vLLM as in the fast loop? ``python -m benchmarks.confirm [--methods …] [--seeds …]``.

Trains the methods on the real stack (one run at a time, every second seed in reversed order) and in the fast loop, with
the same base model, pool, held-out problems, learning rate and steps. Writes DIR/README.md; finished runs are kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mini_math import oracle, provenance
from benchmarks.mini_math.__main__ import main as compare
from benchmarks.mini_math.__main__ import read_names, read_seeds
from benchmarks.mini_math.grade import Prompt
from benchmarks.mini_math.loop import BETAS, WEIGHT_DECAY
from benchmarks.mini_math.methods import check_names, current_name, overrides_of, read_method
from benchmarks.mini_math.numbers import (
    GROUP_SHARES,
    REFERENCE,
    Budget,
    group_shares,
    paired_difference,
    read_curves,
)
from benchmarks.mini_math.options import SETTINGS, Options
from benchmarks.mini_math.report import estimate_text
from benchmarks.mini_math.runs import gather
from benchmarks.mini_math.settings import held_out_prompts, prepare_base, prepare_pool
from benchmarks.real_stack import train
from data_prep.common import build_row, write_parquet
from data_prep.mini_math import DATA_SOURCE
from recipe.prepo.run.jsonl import read_lines

ACCURACY = f"val-core/{DATA_SOURCE}/acc/mean@1"


def write_data(prompts: Sequence[Prompt], split: str, path: Path) -> None:
    """Write problems of the fast loop as verl reads them."""
    rows = [
        build_row(
            data_source=DATA_SOURCE,
            question=prompt.question,
            ground_truth=str(prompt.answer),
            prompt_id=prompt.prompt_id,
            split=split,
            index=index,
        )
        for index, prompt in enumerate(prompts)
    ]
    write_parquet(rows, path)


def stack_overrides(method: str, seed: int, options: Options, base: Path, out: Path) -> list[str]:
    """Overrides of a run on the real stack that equals one of the fast loop."""
    return [
        *overrides_of(method),
        f"data.train_files={(out / 'train.parquet').absolute()}",
        f"data.val_files={(out / 'test.parquet').absolute()}",
        "data.train_max_samples=-1",
        f"data.train_batch_size={options.num_selected}",
        f"actor_rollout_ref.model.path={base.absolute()}",
        f"actor_rollout_ref.actor.optim.lr={options.learning_rate}",
        f"actor_rollout_ref.actor.optim.betas=[{BETAS[0]},{BETAS[1]}]",
        f"actor_rollout_ref.actor.optim.weight_decay={WEIGHT_DECAY}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={options.num_selected // options.mini_batches}",
        f"actor_rollout_ref.rollout.n={options.rollouts_per_prompt}",
        "actor_rollout_ref.rollout.val_kwargs.n=1",
        f"trainer.total_training_steps={steps_of(method, options)}",
        f"trainer.test_freq={max(1, options.eval_every * steps_of(method, options) // options.steps)}",
        "trainer.save_freq=-1",
        "trainer.resume_mode=disable",
        f"trainer.default_local_dir={_run_dir(method, seed, out).absolute()}",
        f"prepo.seed={seed}",
        "prepo.report_every=0",
    ]


def steps_of(method: str, options: Options) -> int:
    """Steps on the real stack: half as many for methods that refill groups, as their steps have twice the rollouts.

    This holds roughly if half of the groups are live; the comparison is at equal rollouts in any case.
    """
    found = read_method(
        method, num_selected=options.num_selected, rollouts_per_prompt=options.rollouts_per_prompt, seed=0
    )
    is_refilled = found.filters_groups or found.prepo.skips_prompts
    return max(2, options.steps // 2) if is_refilled else options.steps


def _run_dir(method: str, seed: int, out: Path) -> Path:
    return out / "stack" / f"{method}-{seed}"


def read_run(method: str, seed: int, out: Path, *, num_steps: int) -> dict[str, Any] | None:
    """A run of the real stack in the fast loop's form; None until its last step is evaluated."""
    path = _run_dir(method, seed, out) / "metrics.jsonl"
    lines = read_lines(path) if path.exists() else []
    curve, rollouts = [], 0.0
    train: dict[str, list[float]] = {name: [] for name in (*GROUP_SHARES, "groups", "rollouts")}
    for line in lines:
        data = line["data"]
        if "timing_s/step" in data:
            rollouts = data["prepo/rollouts_total/max"]
            for name in GROUP_SHARES:
                train[name].append(data[f"prepo/{name}/mean"])
            train["groups"].append(data["prepo/selected/sum"])
            train["rollouts"].append(rollouts)
        if ACCURACY in data:
            curve.append({"step": line["step"], "rollouts": rollouts, "accuracy": data[ACCURACY]})
    is_done = bool(curve) and curve[-1]["step"] >= num_steps
    return {"row": method, "seed": seed, "curve": curve, "train": train} if is_done else None


def table(options: Options, fast: Sequence[Mapping[str, Any]], stack: Sequence[Mapping[str, Any]]) -> str:
    """Final accuracy, area and zero-advantage share of both sides, and how the methods rank."""
    names = [name for name in dict.fromkeys(run["row"] for run in stack) if any(run["row"] == name for run in fast)]
    lines = [
        "# The real stack against the fast loop",
        "",
        f"`python -m benchmarks.confirm`, {provenance.text(fast)}. Setting `{options.setting}`, {options.steps} "
        f"steps of {options.num_selected} x {options.rollouts_per_prompt} rollouts, learning rate "
        f"{options.learning_rate:g}, {options.held_out:,} held-out problems, one sample each. All values are at as "
        f"many rollouts as `{REFERENCE}` uses. Differences are to `{REFERENCE}` over the same seeds, with Student's "
        "95% intervals.",
        "",
        "| method | side | seeds | rollouts | zero advantage | start | final accuracy | difference | area "
        "| difference |",
        "|---" * 10 + "|",
    ]
    areas: dict[str, list[float]] = {"fast loop": [], "real stack": []}
    for name in names:
        for side, runs in (("fast loop", fast), ("real stack", stack)):
            curves = read_curves(runs)
            mine, reference = curves[name], curves.get(REFERENCE)
            budget = Budget.of(reference or mine)
            final, under = ([of(i, mine) for i in range(len(mine.seeds))] for of in (budget.accuracy, budget.area))
            areas[side].append(float(np.mean(under)))
            shares = [
                group_shares(run, until=budget.rollouts)["zero_advantage_frac"] for run in runs if run["row"] == name
            ]
            differences = ["", ""]
            if reference is not None and name != REFERENCE:
                differences = [
                    estimate_text(paired_difference(mine, reference, statistic), "+.3f")
                    for statistic in (budget.accuracy, budget.area)
                ]
            lines.append(
                f"| `{name}` | {side} | {', '.join(map(str, mine.seeds))} | {mine.rollouts_SE[:, -1].mean():,.0f} | "
                f"{np.mean(shares):.3f} | {mine.accuracy_SE[:, 0].mean():.3f} | {_each(final)} | {differences[0]} | "
                f"{_each(under)} | {differences[1]} |"
            )
    orders = [" > ".join(f"`{names[i]}`" for i in np.argsort(-np.array(values))) for values in areas.values()]
    lines += ["", f"By area: {orders[0]} in the fast loop, {orders[1]} on the real stack."]
    return "\n".join(lines) + "\n"


def _each(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of the fast loop if it is not 0; an error of a training is raised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", default="early", choices=list(SETTINGS))
    parser.add_argument("--methods", "--rows", default="random,prepo,low_only")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--eval-every", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/confirm"))
    parser.add_argument("--cache", type=Path, default=Path("outputs/bench/cache"))
    arguments = parser.parse_args(argv)
    names = [current_name(name) for name in read_names(arguments.methods)]
    check_names(names)
    if unfit := {oracle.NAME, "grpo_5x"} & set(names):
        raise SystemExit(f"error: --methods: {', '.join(sorted(unfit))} cannot be trained on the real stack")
    seeds, out = read_seeds(arguments.seeds), arguments.out
    options = Options(setting=arguments.setting, steps=arguments.steps, eval_every=arguments.eval_every)
    fast = ["--setting", options.setting, "--steps", str(options.steps), "--eval-every", str(options.eval_every)]
    fast += ["--methods", ",".join(names), "--seeds", arguments.seeds, "--cache", str(arguments.cache)]
    if status := compare([*fast, "--out", str(out / "fast")]):
        return status
    base = prepare_base(options, arguments.cache)
    write_data(prepare_pool(options, base, arguments.cache).prompts, "train", out / "train.parquet")
    write_data(held_out_prompts(options.held_out, options.task), "test", out / "test.parquet")
    fast_runs = gather(out / "fast", options, cache=arguments.cache)

    def write_table() -> str:
        found = [read_run(name, seed, out, num_steps=steps_of(name, options)) for name in names for seed in seeds]
        text = table(options, fast_runs, [run for run in found if run is not None])
        (out / "README.md").write_text(text, encoding="utf-8")
        return text

    for number, seed in enumerate(seeds):
        for name in names if number % 2 == 0 else names[::-1]:
            if read_run(name, seed, out, num_steps=steps_of(name, options)) is None:
                print(f"real stack: {name}, seed {seed}", flush=True)
                overrides = stack_overrides(name, seed, options, base, out)
                train(overrides, _run_dir(name, seed, out).with_suffix(".log"))
                write_table()
    print(write_table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
