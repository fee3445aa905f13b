"""``python -m recipe.prepo.analyze --model … --data … --out DIR``: does a perplexity schedule suit these data?

Before any training: each prompt's perplexity and pass rate under a model, their rank correlation with an interval, the
share of prompts that still teach, pass rates by fifths of perplexity, and a figure. A call over the same folder makes
what is missing.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from recipe.prepo.errors import ConfigError
from recipe.prepo.maths.perplexity import perplexity
from recipe.prepo.tools.estimates import FloatArray, mean_interval, signal_frac
from recipe.prepo.tools.evaluation.options import run_command
from recipe.prepo.tools.evaluation.session import fill, prepare
from recipe.prepo.tools.evaluation.store import open_store, write_json
from recipe.prepo.tools.rank_correlation import spearman, spearman_interval
from recipe.prepo.tools.report.style import figure, label, legend, line, look, to_png

ANALYSIS, TEXT, FIGURE = "analysis.json", "analysis.md", "perplexity_pass_rate.png"
DEFAULT_GROUP = 8  # rollouts of a group, as in conf/prepo.yaml
NUM_PARTS = 5
CLEAR_RHO = 0.3
LOG_SCALE_FROM = 8.0


def main() -> int:
    """Entry point; returns the exit status."""
    return run_command("recipe.prepo.analyze", __doc__, _add_group_size, analyze)


def _add_group_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--group-size", type=int, metavar="M", help="rollouts of a training group (default 8, at most --samples)"
    )


def analyze(options: argparse.Namespace) -> None:
    """Make what is missing, then write and print the analysis. ``options`` are checked ones.

    Raises:
        PrepoError: bad input; nothing expensive was started.
    """
    group_size = options.group_size or min(DEFAULT_GROUP, options.samples)
    if not 2 <= group_size <= options.samples:
        raise ConfigError(
            f"--samples {options.samples}, --group-size {options.group_size}: a group needs at least 2 rollouts, and no"
            f" more than there are samples. Set --samples 2 or more, and --group-size from 2 to --samples."
        )
    session = prepare(options)
    found_by_set = {}
    with open_store(options.out, session.settings) as store:
        seconds = fill(session, store, score_prompts=True)
        for one in session.sets:
            scored = [store.prompts[q.prompt_id] for q in one.questions]
            nll_nats = [prompt.nll_nats for prompt in scored]
            num_correct = [
                sum(store.samples[q.prompt_id, i].reward == 1.0 for i in range(options.samples)) for q in one.questions
            ]
            found = found_by_set[one.name] = analyse(
                nll_nats,
                [prompt.num_tokens for prompt in scored],
                num_correct,
                num_samples=options.samples,
                group_size=group_size,
                seed=options.seed,
            )
            name = FIGURE if len(session.sets) == 1 else f"{one.name}.{FIGURE}"
            rates = np.array(num_correct) / options.samples
            (options.out / name).write_bytes(draw(perplexity(nll_nats), rates, found, one.name))
        content = {"settings": session.settings, "generating_s": seconds, "sets": found_by_set}
        write_json(options.out / ANALYSIS, content)
        (options.out / TEXT).write_text(report(found_by_set), encoding="utf-8")
    print(report(found_by_set), end="")
    print(f"\n{seconds:.1f} s of scoring and generating. Written to {options.out}")


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
        nll_nats_Q: mean negative log-likelihood of each prompt's scored tokens, of which ``num_prompt_tokens_Q`` exist.
        num_correct_Q: correct samples of each prompt, of ``num_samples``.
        group_size: rollouts of a training group, at most ``num_samples``.

    Returns:
        Among others ``rho`` (perplexity against pass rate), ``all_right_frac``, ``all_wrong_frac`` and ``live_frac``
        (prompts with only, no, or some correct samples), ``signal_frac`` (groups with correct and incorrect rollouts),
        ``parts`` (fifths by perplexity) and ``conclusion``.
    """
    ppl_Q, correct_Q = perplexity(nll_nats_Q), np.asarray(num_correct_Q, dtype=np.int64)
    rate_Q, lengths_Q = correct_Q / num_samples, np.asarray(num_prompt_tokens_Q, dtype=np.float64)
    signal_Q = signal_frac([num_samples] * len(rate_Q), correct_Q.tolist(), group_size)

    def interval(values: FloatArray) -> dict[str, float]:
        return asdict(mean_interval(values, shares=True, seed=seed))

    order = np.argsort(ppl_Q, kind="stable")
    parts = [
        {
            "ppl_low": float(ppl_Q[part].min()),
            "ppl_high": float(ppl_Q[part].max()),
            "ppl_median": float(np.median(ppl_Q[part])),
            "pass_rate": interval(rate_Q[part]),
        }
        for part in np.array_split(order, min(NUM_PARTS, len(order)))
    ]
    found = {
        "num_prompts": len(rate_Q),
        "num_samples": num_samples,
        "rho": asdict(spearman_interval(ppl_Q, rate_Q, range(len(rate_Q)), seed=seed)),
        "pass_rate": interval(rate_Q),
        "all_right_frac": float((correct_Q == num_samples).mean()),
        "all_wrong_frac": float((correct_Q == 0).mean()),
        "live_frac": float(((correct_Q > 0) & (correct_Q < num_samples)).mean()),
        "group_size": group_size,
        "signal_frac": interval(signal_Q),
        "parts": parts,
        "mean_prompt_tokens": float(lengths_Q.mean()),
        "rho_length_perplexity": spearman(lengths_Q, ppl_Q),
    }
    return {**found, "conclusion": _conclusion(found)}


def _conclusion(found: Mapping[str, Any]) -> str:
    """One paragraph in plain words."""
    rho, low, high = (found["rho"][name] for name in ("rho", "low", "high"))
    rates = ", ".join(f"{part['pass_rate']['mean']:.2f}" for part in found["parts"])
    verdict = "The schedule's premise {} on these data (rho = {:.3f}, 95% interval {:.3f} to {:.3f}, {}): {}."
    counts = f"{found['num_prompts']:,} prompts x {found['num_samples']} samples"
    if high < 0:
        holds = "holds clearly" if rho <= -CLEAR_RHO else "holds weakly"
        why = (
            "the lower a prompt's perplexity, the higher its pass rate. A window that moves from low to high perplexity"
            " goes from easier to harder prompts"
        )
    elif low > 0:
        holds = "is reversed"
        why = (
            "prompts of higher perplexity are easier. A window that moves from low to high begins with the harder ones"
        )
    else:
        holds = "is not seen"
        why = "the interval includes 0. A window over perplexity would not order the prompts by difficulty"
    text = verdict.format(holds, rho, low, high, counts, why)
    text += f" Pass rates by fifths of perplexity, lowest first: {rates}."
    if not math.isfinite(low):
        text = (
            f"Whether a perplexity schedule suits these data is unknown ({counts}). Spearman's rho is undefined: all"
            " perplexities or all pass rates are equal, or there are too few prompts."
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
            rate = part["pass_rate"]
            interval = f" ({rate['low']:.3f} to {rate['high']:.3f})" if math.isfinite(rate["low"]) else ""
            ends = f"{part['ppl_low']:.3g} to {part['ppl_high']:.3g}"
            lines.append(f"| {ends} | {rate['num_questions']} | {rate['mean']:.3f}{interval} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def draw(ppl_Q: FloatArray, rate_Q: FloatArray, found: Mapping[str, Any], title: str) -> bytes:
    """PNG: every prompt as a grey point, and the mean of each fifth with its interval."""
    from matplotlib.ticker import LogLocator, NullLocator

    with look():
        drawn, (axes,) = figure(height_in=3.8)
        alpha = 0.8 if len(ppl_Q) < 100 else 0.35
        axes.scatter(ppl_Q, rate_Q, s=18, color="#777777", alpha=alpha, linewidth=0, label="a prompt")
        rates = [part["pass_rate"] for part in found["parts"]]
        x = np.array([part["ppl_median"] for part in found["parts"]])
        y = np.array([rate["mean"] for rate in rates])
        ends = np.array([[rate["low"], rate["high"]] for rate in rates])
        line(axes, x, y, 1, "mean of a fifth, with its 95% interval")
        spread = np.nan_to_num(np.abs(ends - y[:, None])).T
        axes.errorbar(x, y, yerr=spread, fmt="none", ecolor="#000000", elinewidth=1.0, capsize=3, zorder=3)
        if ppl_Q.max() > LOG_SCALE_FROM * ppl_Q.min():
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter("{x:,g}")
        axes.set_ylim(-0.04, 1.04)
        axes.set_xlabel("prompt perplexity")
        axes.set_ylabel(f"pass rate of {found['num_samples']} samples")
        rho, low, high = (found["rho"][name] for name in ("rho", "low", "high"))
        text = f"{rho:.3f} ({low:.3f} to {high:.3f})" if math.isfinite(rho) else "undefined"
        axes.set_title(f"{label(title)}\nSpearman's rho {text}", loc="left")
        legend(drawn, axes)
        return to_png(drawn)
