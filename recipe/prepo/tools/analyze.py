"""``python -m recipe.prepo.analyze --model … --data … --out DIR``: what would choosing prompts save on these data?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
import pandas as pd

from recipe.prepo.errors import ConfigError
from recipe.prepo.maths import FloatArray, IntArray
from recipe.prepo.maths.perplexity import perplexity
from recipe.prepo.maths.rng import make_generator
from recipe.prepo.tools.evaluation.options import COUNT, make_parser, run_command
from recipe.prepo.tools.evaluation.session import collect
from recipe.prepo.tools.evaluation.store import write_json
from recipe.prepo.tools.report.style import Chart, Line, Plot, picture
from recipe.prepo.tools.stats import (
    interval_text,
    mean_interval,
    pass_at_k,
    percentile_interval,
    signal_frac,
    spearman,
    spearman_interval,
)

DESCRIPTION = """
Before any training: each prompt's perplexity and pass rate under a model, their rank correlation with an interval, pass
rates by fifths of perplexity, the shares of groups that would teach, and what choosing prompts would save at the start.
A call over the same folder makes what is missing.
"""
FIGURE = "perplexity_pass_rate.png"
DEFAULT_GROUP = 8  # rollouts of a group, as in conf/recipe_defaults.yaml
NUM_PARTS = 5
CLEAR_RHO = 0.3
RATIOS = (5, 20)  # candidates for each chosen prompt: the default, and about as many as candidate_ratio=all is worth
NUM_FOLDS, NUM_RESAMPLES = 5, 1000
DEGREE = 4  # a hump with unequal sides: the easiest and the hardest prompts are seldom live
MIN_PROMPTS = 40  # fewer do not show what the best twentieth is worth


def main() -> int:
    """Entry point; returns the exit status."""
    parser = make_parser("analyze", DESCRIPTION)
    about = f"rollouts of a training group (default {DEFAULT_GROUP}, at most --samples)"
    parser.add_argument("--group-size", type=COUNT, metavar="M", help=about)
    return run_command(parser, analyze)


def analyze(options: argparse.Namespace) -> None:
    """Make what is missing, then write and print the analysis.

    Raises:
        PrepoError: bad input; nothing expensive was started.
    """
    group_size = options.group_size or min(DEFAULT_GROUP, options.samples)
    if not 2 <= group_size <= options.samples:
        raise ConfigError(
            f"--samples {options.samples}, --group-size {group_size}: a group needs at least 2 rollouts, and no more"
            f" than there are samples. Set --samples 2 or more, and --group-size from 2 to --samples."
        )
    collected = collect(options, scores_prompts=True)
    found_by_set = {}
    for name, groups in collected.groups.items():
        nll_nats = [prompt.nll_nats for prompt in collected.prompts[name]]
        lengths = [prompt.num_tokens for prompt in collected.prompts[name]]
        num_correct = [sum(sample.is_correct for sample in group) for group in groups]
        found = found_by_set[name] = analyse(
            nll_nats, lengths, num_correct, num_samples=options.samples, group_size=group_size, seed=options.seed
        )
        path = options.out / (FIGURE if len(collected.groups) == 1 else f"{name}.{FIGURE}")
        path.write_bytes(draw(perplexity(nll_nats), np.array(num_correct) / options.samples, found, name))
    content = {"settings": collected.settings, "generating_s": collected.seconds, "sets": found_by_set}
    write_json(options.out / "analysis.json", content)
    (options.out / "analysis.md").write_text(report(found_by_set), encoding="utf-8")
    print(report(found_by_set), end="")
    print(f"\n{collected.seconds:.1f} s of scoring and generating. Written to {options.out}")


def analyse(
    nll_nats_Q: Sequence[float],
    num_prompt_tokens_Q: Sequence[int],
    num_correct_Q: Sequence[int],
    *,
    num_samples: int,
    group_size: int,
    seed: int,
) -> dict[str, Any]:
    """The figures of one set of Q prompts, as ``analysis.json`` has them.

    Args:
        nll_nats_Q: mean negative log-likelihood of each prompt's ``num_prompt_tokens_Q`` scored tokens.
        num_correct_Q: correct samples of each prompt, of ``num_samples``. A training group has ``group_size`` of them.

    Returns:
        Among others ``rho`` (perplexity against pass rate), ``all_right_frac``, ``all_wrong_frac`` and ``live_frac``
        (prompts with only, no, or some correct samples), ``signal_frac``, ``right_groups_frac`` and
        ``wrong_groups_frac`` (groups that are live, all correct, all incorrect), ``parts`` (fifths by perplexity),
        ``choosing`` (:func:`choosing`) and ``conclusion``.
    """
    ppl_Q, correct_Q, lengths_Q = perplexity(nll_nats_Q), np.array(num_correct_Q), np.array(num_prompt_tokens_Q)
    rate_Q, live_Q = correct_Q / num_samples, signal_frac(num_samples, correct_Q, group_size)

    def interval(values: FloatArray) -> dict[str, float]:
        return mean_interval(values, shares=True, seed=seed)._asdict()

    parts = [
        {
            "ppl_low": float(ppl_Q[part].min()),
            "ppl_high": float(ppl_Q[part].max()),
            "pass_rate": interval(rate_Q[part]),
        }
        for part in np.array_split(np.argsort(ppl_Q, kind="stable"), min(NUM_PARTS, len(ppl_Q)))
    ]
    found = {
        "num_prompts": len(rate_Q),
        "num_samples": num_samples,
        "rho": spearman_interval(ppl_Q, rate_Q, range(len(rate_Q)), seed=seed)._asdict(),
        "pass_rate": interval(rate_Q),
        "all_right_frac": float((correct_Q == num_samples).mean()),
        "all_wrong_frac": float((correct_Q == 0).mean()),
        "live_frac": float(((correct_Q > 0) & (correct_Q < num_samples)).mean()),
        "group_size": group_size,
        "signal_frac": interval(live_Q),
        "right_groups_frac": float(1 - pass_at_k(num_samples, num_samples - correct_Q, group_size).mean()),
        "wrong_groups_frac": float(1 - pass_at_k(num_samples, correct_Q, group_size).mean()),
        "parts": parts,
        "rho_length_perplexity": spearman(lengths_Q, ppl_Q),
        "choosing": choosing(ppl_Q, live_Q, seed=seed),
    }
    return {**found, "conclusion": f"{_premise(found)}\n\n{_groups(found)}"}


def choosing(ppl_Q: FloatArray, live_Q: FloatArray, *, seed: int) -> dict[str, Any] | None:
    """What choosing by perplexity would save before the first update.

    The chance of a live group is predicted by a polynomial over the ranks of perplexity, fitted to the other folds.
    Of ``ratio`` candidates the one with the highest prediction is chosen. Resamples keep each prompt in its fold, so
    that its copies are never fitted and predicted at once.

    Args:
        live_Q: each prompt's chance of a live group, unbiased.

    Returns:
        None for fewer than ``MIN_PROMPTS`` perplexities, or equal chances. Else ``predictability`` (Spearman's rho of
        the prediction and ``live_Q``) and ``saving``: ratio -> rollouts for a live group by a random choice over those
        by the prediction, with its 95% bootstrap interval over prompts.
    """
    if len(np.unique(ppl_Q)) < MIN_PROMPTS or live_Q.min() == live_Q.max():
        return None
    rank_Q = pd.Series(ppl_Q).rank(pct=True).to_numpy()
    generator = make_generator(seed, "choosing by perplexity")
    fold_Q = generator.permutation(len(ppl_Q)) % NUM_FOLDS

    def predicted(of: IntArray) -> FloatArray:
        rank, live, fold, chance = rank_Q[of], live_Q[of], fold_Q[of], np.empty(len(of))
        for each in range(NUM_FOLDS):
            fit = np.polyfit(rank[fold != each], live[fold != each], DEGREE)
            chance[fold == each] = np.polyval(fit, rank[fold == each])
        return chance

    def savings(of: IntArray) -> list[float]:
        best_first = live_Q[of][np.argsort(-predicted(of), kind="stable")]
        chosen = [best_first[: -(-len(of) // ratio)].mean() for ratio in RATIOS]
        return [float(each / best_first.mean()) if best_first.any() else np.nan for each in chosen]

    everything = np.arange(len(ppl_Q))
    resampled = [savings(generator.integers(0, len(ppl_Q), len(ppl_Q))) for _ in range(NUM_RESAMPLES)]
    ends = [percentile_interval(values) for values in np.array(resampled).T]
    saving = {
        str(ratio): {"times": times, "low": low, "high": high}
        for ratio, times, (low, high) in zip(RATIOS, savings(everything), ends, strict=True)
    }
    return {"predictability": spearman(predicted(everything), live_Q), "saving": saving}


def _premise(found: Mapping[str, Any]) -> str:
    """What the rank correlation says of a perplexity schedule, in plain words."""
    rho, low, high = (found["rho"][name] for name in ("rho", "low", "high"))
    rates = ", ".join(f"{part['pass_rate']['mean']:.2f}" for part in found["parts"])
    counts = f"{found['num_prompts']:,} prompts x {found['num_samples']} samples"
    if not isfinite(low):
        return (
            f"Whether a perplexity schedule suits these data is unknown ({counts}). Spearman's rho is undefined: all"
            f" perplexities or all pass rates are equal, or there are too few prompts."
        )
    if high < 0:
        holds = "holds clearly" if rho <= -CLEAR_RHO else "holds weakly"
        why = "the lower a prompt's perplexity, the higher its pass rate. A window that moves up goes from easy to hard"
    elif low > 0:
        holds = "is reversed"
        why = "prompts of higher perplexity are easier. A window that moves up begins with hard ones"
    else:
        holds, why = "is not seen", "the interval includes 0. A window would not order the prompts by difficulty"
    return (
        f"The schedule's premise {holds} on these data (rho = {rho:.3f}, 95% interval {low:.3f} to {high:.3f},"
        f" {counts}): {why}. Pass rates by fifths of perplexity, lowest first: {rates}."
    )


def _groups(found: Mapping[str, Any]) -> str:
    """Which groups would teach, and what choosing their prompts would save."""
    text = (
        f"{found['live_frac']:.0%} of the prompts are live (some samples correct, some incorrect),"
        f" {found['all_right_frac']:.0%} all correct, {found['all_wrong_frac']:.0%} all incorrect;"
        f" {found['signal_frac']['mean']:.0%} of groups of {found['group_size']} rollouts drawn from these prompts"
        f" would have a learning signal, {found['right_groups_frac']:.0%} would be all correct and"
        f" {found['wrong_groups_frac']:.0%} all incorrect."
    )
    if found["choosing"] is None:
        return f"{text} What choosing would save is unknown: that needs {MIN_PROMPTS} prompts or more, not all alike."
    saving = found["choosing"]["saving"]
    times = "; ".join(f"the best of {ratio}: {interval_text(saving[ratio], '.2f')}" for ratio in saving)
    chance = (
        "" if any(each["low"] > 1 for each in saving.values()) else " The intervals include 1: it may save nothing."
    )
    return (
        f"{text} A prediction of live groups from perplexity, cross-validated, has a rank correlation of"
        f" {found['choosing']['predictability']:.2f} with what was sampled. Chosen by it, live groups would need this"
        f" many times fewer rollouts than chosen at random ({times}).{chance} This holds at the start of training only:"
        f" the model changes, and methods such as mopps_ppl and forecast also learn from their own rollouts."
    )


def report(found_by_set: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a paragraph and a table of the fifths for each set."""
    blocks = []
    for name, found in found_by_set.items():
        lines = [f"## {name}", "", found["conclusion"], "", "| perplexity | prompts | pass rate |", "|---|---|---|"]
        for part in found["parts"]:
            ends, rate = f"{part['ppl_low']:.3g} to {part['ppl_high']:.3g}", part["pass_rate"]
            lines.append(f"| {ends} | {rate['num_questions']} | {interval_text(rate)} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def draw(ppl_Q: FloatArray, rate_Q: FloatArray, found: Mapping[str, Any], title: str) -> bytes:
    """PNG: a point for each prompt."""
    rho = interval_text(found["rho"]) if isfinite(found["rho"]["rho"]) else "undefined"
    points = pd.DataFrame({"x": ppl_Q, "mean": rate_Q})
    y_label = f"share of {found['num_samples']} samples that are correct"
    plot = Plot(y_label, f"{title}\nSpearman's rho {rho}", [Line(0, "a prompt", points)])
    return picture(Chart([plot], "prompt perplexity", "", "points"))
