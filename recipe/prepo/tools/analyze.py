"""``python -m recipe.prepo.analyze --model … --data … --out DIR``: does a perplexity schedule suit these data?"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np

from recipe.prepo.errors import ConfigError
from recipe.prepo.maths import FloatArray
from recipe.prepo.maths.perplexity import perplexity
from recipe.prepo.tools.evaluation.options import COUNT, make_parser, run_command
from recipe.prepo.tools.evaluation.session import collect
from recipe.prepo.tools.evaluation.store import write_json
from recipe.prepo.tools.report.style import figure, label, label_powers, legend, line, look, to_png
from recipe.prepo.tools.stats import interval_text, mean_interval, signal_frac, spearman, spearman_interval

DESCRIPTION = """
Before any training: each prompt's perplexity and pass rate under a model, their rank correlation with an interval, the
share of prompts that still teach, pass rates by fifths of perplexity, and a figure. A call over the same folder makes
what is missing.
"""
FIGURE = "perplexity_pass_rate.png"
DEFAULT_GROUP = 8  # rollouts of a group, as in conf/recipe_defaults.yaml
NUM_PARTS = 5
CLEAR_RHO = 0.3


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
        (prompts with only, no, or some correct samples), ``signal_frac`` (groups with correct and incorrect rollouts),
        ``parts`` (fifths by perplexity) and ``conclusion``.
    """
    ppl_Q, correct_Q, lengths_Q = perplexity(nll_nats_Q), np.array(num_correct_Q), np.array(num_prompt_tokens_Q)
    rate_Q = correct_Q / num_samples

    def interval(values: FloatArray) -> dict[str, float]:
        return mean_interval(values, shares=True, seed=seed)._asdict()

    parts = [
        {
            "ppl_low": float(ppl_Q[part].min()),
            "ppl_high": float(ppl_Q[part].max()),
            "ppl_median": float(np.median(ppl_Q[part])),
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
        "signal_frac": interval(signal_frac(num_samples, correct_Q, group_size)),
        "parts": parts,
        "mean_prompt_tokens": float(lengths_Q.mean()),
        "rho_length_perplexity": spearman(lengths_Q, ppl_Q),
    }
    return {**found, "conclusion": _conclusion(found)}


def _conclusion(found: Mapping[str, Any]) -> str:
    """One paragraph in plain words."""
    rho, low, high = (found["rho"][name] for name in ("rho", "low", "high"))
    rates = ", ".join(f"{part['pass_rate']['mean']:.2f}" for part in found["parts"])
    counts = f"{found['num_prompts']:,} prompts x {found['num_samples']} samples"
    if high < 0:
        holds = "holds clearly" if rho <= -CLEAR_RHO else "holds weakly"
        why = "the lower a prompt's perplexity, the higher its pass rate. A window that moves up goes from easy to hard"
    elif low > 0:
        holds, why = (
            "is reversed",
            "prompts of higher perplexity are easier. A window that moves up begins with hard ones",
        )
    else:
        holds, why = "is not seen", "the interval includes 0. A window would not order the prompts by difficulty"
    text = (
        f"The schedule's premise {holds} on these data (rho = {rho:.3f}, 95% interval {low:.3f} to {high:.3f},"
        f" {counts}): {why}. Pass rates by fifths of perplexity, lowest first: {rates}."
    )
    if not isfinite(low):
        text = (
            f"Whether a perplexity schedule suits these data is unknown ({counts}). Spearman's rho is undefined: all"
            f" perplexities or all pass rates are equal, or there are too few prompts."
        )
    return (
        f"{text} {found['live_frac']:.0%} of the prompts are live (some samples correct, some incorrect),"
        f" {found['all_right_frac']:.0%} all correct, {found['all_wrong_frac']:.0%} all incorrect;"
        f" {found['signal_frac']['mean']:.0%} of groups of {found['group_size']} rollouts drawn from these prompts"
        f" would have a learning signal."
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
    """PNG: every prompt as a grey point, and the mean of each fifth with its interval."""
    with look():
        drawn, (axes,) = figure(height_in=3.8)
        alpha = 0.8 if len(ppl_Q) < 100 else 0.35
        axes.scatter(ppl_Q, rate_Q, s=18, color="#777777", alpha=alpha, linewidth=0, label="a prompt")
        x = np.array([part["ppl_median"] for part in found["parts"]])
        y, low, high = np.array([list(part["pass_rate"].values())[:3] for part in found["parts"]]).T
        line(axes, x, y, 1, "mean of a fifth, with its 95% interval")
        spread = np.nan_to_num([y - low, high - y])
        axes.errorbar(x, y, yerr=spread, fmt="none", ecolor="#000000", elinewidth=1.0, capsize=3, zorder=3)
        if np.max(ppl_Q) >= 8 * np.min(ppl_Q):
            axes.set_xscale("log")
            label_powers(axes.xaxis)
        axes.set(ylim=(-0.04, 1.04), xlabel="prompt perplexity", ylabel=f"pass rate of {found['num_samples']} samples")
        rho = interval_text(found["rho"]) if isfinite(found["rho"]["rho"]) else "undefined"
        axes.set_title(f"{label(title)}\nSpearman's rho {rho}", loc="left")
        legend(drawn, axes)
        return to_png(drawn)
