"""Does a perplexity schedule suit these data? Perplexity against pass rate, in numbers, words and one figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recipe.prepo.maths.perplexity import perplexity
from recipe.prepo.tools.estimates import Estimate, FloatArray, mean_interval, signal_frac
from recipe.prepo.tools.rank_correlation import RankCorrelation, spearman, spearman_interval
from recipe.prepo.tools.report.style import figure, label, legend, line, look, to_png

ANALYSIS, TEXT, FIGURE = "analysis.json", "analysis.md", "perplexity_pass_rate.png"
NUM_PARTS = 5
CLEAR_RHO = 0.3
LOG_SCALE_FROM = 8.0


@dataclass(frozen=True)
class Part:
    """A fifth of the prompts by perplexity."""

    ppl_low: float
    ppl_high: float
    ppl_median: float
    pass_rate: Estimate


@dataclass(frozen=True)
class Analysis:
    """What one set says. The shares are of prompts: no sample right, all right, and some of both (``live``).

    ``signal_frac``: chance that a group of ``group_size`` rollouts of a prompt holds right and wrong ones.
    """

    num_prompts: int
    num_samples: int
    rho: RankCorrelation
    pass_rate: Estimate
    all_right_frac: float
    all_wrong_frac: float
    live_frac: float
    group_size: int
    signal_frac: Estimate
    parts: tuple[Part, ...]
    mean_prompt_tokens: float
    rho_length_perplexity: float

    def as_dict(self) -> dict[str, Any]:
        """For the JSON file, with the conclusion."""
        return {**asdict(self), "conclusion": conclusion(self)}


def analyse(
    nll_nats_Q: Sequence[float],
    num_prompt_tokens_Q: Sequence[int],
    num_right_Q: Sequence[int],
    *,
    num_samples: int,
    group_size: int,
    seed: int,
) -> Analysis:
    """The figures of Q prompts with ``num_samples`` graded samples each.

    Args:
        nll_nats_Q: mean negative log-likelihood of each prompt's tokens.
        num_prompt_tokens_Q: scored tokens of each prompt.
        num_right_Q: right samples of each prompt.
        group_size: rollouts of a training group, at most ``num_samples``.
    """
    ppl_Q = perplexity(nll_nats_Q)
    right_Q = np.asarray(num_right_Q, dtype=np.int64)
    rate_Q = right_Q / num_samples
    num_prompts = len(rate_Q)
    lengths_Q = np.asarray(num_prompt_tokens_Q, dtype=np.float64)
    clusters = list(range(num_prompts))
    return Analysis(
        num_prompts=num_prompts,
        num_samples=num_samples,
        rho=spearman_interval(ppl_Q, rate_Q, clusters, seed=seed),
        pass_rate=mean_interval(rate_Q, bounds=(0.0, 1.0), seed=seed),
        all_right_frac=float((right_Q == num_samples).mean()),
        all_wrong_frac=float((right_Q == 0).mean()),
        live_frac=float(((right_Q > 0) & (right_Q < num_samples)).mean()),
        group_size=group_size,
        signal_frac=mean_interval(
            signal_frac([num_samples] * num_prompts, right_Q.tolist(), group_size), bounds=(0.0, 1.0), seed=seed
        ),
        parts=_parts(ppl_Q, rate_Q, seed),
        mean_prompt_tokens=float(lengths_Q.mean()),
        rho_length_perplexity=spearman(lengths_Q, ppl_Q),
    )


def _parts(ppl_Q: FloatArray, rate_Q: FloatArray, seed: int) -> tuple[Part, ...]:
    """Fifths by perplexity, ties in the prompts' order; under five prompts give one part each."""
    order = np.argsort(ppl_Q, kind="stable")
    return tuple(
        Part(
            ppl_low=float(ppl_Q[part].min()),
            ppl_high=float(ppl_Q[part].max()),
            ppl_median=float(np.median(ppl_Q[part])),
            pass_rate=mean_interval(rate_Q[part], bounds=(0.0, 1.0), seed=seed),
        )
        for part in np.array_split(order, min(NUM_PARTS, len(order)))
    )


def conclusion(found: Analysis) -> str:
    """One paragraph in plain words."""
    rho = found.rho
    counts = f"{found.num_prompts:,} prompts x {found.num_samples} samples"
    if not math.isfinite(rho.low):
        first = (
            f"Spearman's rho is undefined: all perplexities or all pass rates are equal, or there are too few prompts"
            f" ({counts}). Whether a perplexity schedule suits these data cannot be told."
        )
    else:
        numbers = f"rho = {rho.rho:.3f}, 95% interval {rho.low:.3f} to {rho.high:.3f}, {counts}"
        if rho.high < 0:
            strength = "clearly" if rho.rho <= -CLEAR_RHO else "weakly"
            first = (
                f"The schedule's premise holds {strength} on these data: the lower a prompt's perplexity, the higher"
                f" its pass rate ({numbers}). A window that moves from low to high perplexity goes from easier to"
                f" harder prompts."
            )
        elif rho.low > 0:
            first = (
                f"The schedule's premise is reversed on these data: prompts of higher perplexity are the easier ones"
                f" ({numbers}). A window from low to high perplexity would begin with the harder prompts."
            )
        else:
            first = (
                f"The schedule's premise is not seen on these data: the interval holds 0 ({numbers}). A window over"
                f" perplexity would not order the prompts by difficulty."
            )
        first += f" Pass rates by fifths of perplexity, lowest first: {_rates(found)}."
    live = (
        f"{found.live_frac:.0%} of the prompts are live (some samples right, some wrong), {found.all_right_frac:.0%}"
        f" all right, {found.all_wrong_frac:.0%} all wrong; {found.signal_frac.mean:.0%} of groups of"
        f" {found.group_size} rollouts drawn from these prompts would have a learning signal."
    )
    return f"{first} {live}"


def _rates(found: Analysis) -> str:
    return ", ".join(f"{part.pass_rate.mean:.2f}" for part in found.parts)


def report(found_by_set: Mapping[str, Analysis]) -> str:
    """Markdown: a paragraph and a table of the fifths for each set."""
    blocks = []
    for name, found in found_by_set.items():
        rows = [
            f"| {part.ppl_low:.3g} to {part.ppl_high:.3g} | {part.pass_rate.num_questions} | {part.pass_rate.mean:.3f}"
            + (f" ({part.pass_rate.low:.3f} to {part.pass_rate.high:.3f})" if math.isfinite(part.pass_rate.low) else "")
            + " |"
            for part in found.parts
        ]
        head = [f"## {name}", "", conclusion(found), "", "| perplexity | prompts | pass rate |", "|---|---|---|"]
        blocks.append("\n".join([*head, *rows]))
    return "\n\n".join(blocks) + "\n"


def draw(ppl_Q: FloatArray, rate_Q: FloatArray, found: Analysis, title: str) -> bytes:
    """PNG: every prompt as a grey point, and the mean of each fifth with its interval."""
    from matplotlib.ticker import LogLocator, NullLocator

    with look():
        drawn, (axes,) = figure(height_in=3.8)
        axes.scatter(
            ppl_Q, rate_Q, s=18, color="#777777", alpha=0.8 if len(ppl_Q) < 100 else 0.35, linewidth=0, label="a prompt"
        )
        x = np.array([part.ppl_median for part in found.parts])
        y = np.array([part.pass_rate.mean for part in found.parts])
        ends = np.array([[part.pass_rate.low, part.pass_rate.high] for part in found.parts])
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
        axes.set_ylabel(f"pass rate of {found.num_samples} samples")
        rho = found.rho
        text = "undefined" if not math.isfinite(rho.rho) else f"{rho.rho:.3f} ({rho.low:.3f} to {rho.high:.3f})"
        axes.set_title(f"{label(title)}\nSpearman's rho {text}", loc="left")
        legend(drawn, axes)
        return to_png(drawn)
