"""Which prompts the rollouts went to: how often each was chosen, the ones that never were, the ones that took most."""

from __future__ import annotations

from collections import Counter

import numpy as np

from recipe.prepo.tools.report.audit_figures import SELECTION_MISSING
from recipe.prepo.tools.report.load import Run
from recipe.prepo.tools.report.markup import details, table
from recipe.prepo.tools.report.style import Drawing, figure, plain_numbers, to_png
from recipe.prepo.tools.report.summary import MISSING, number

MAX_PROMPTS = 20
MAX_BINS = 30


def never_chosen(run: Run) -> list[str]:
    """Prompts that were candidates and never chosen, most often drawn first."""
    if run.selections is None:
        return []
    drawn, chosen = run.selections.times_drawn, run.selections.times_chosen
    return sorted((name for name in drawn if name not in chosen), key=lambda name: (-drawn[name], name))


def never_chosen_text(run: Run) -> str:
    """«12 of 240 (5.0%)», of the prompts that were candidates at least once."""
    if run.selections is None or not run.selections.times_drawn:
        return MISSING
    count, drawn = len(never_chosen(run)), len(run.selections.times_drawn)
    return f"{count:,} of {drawn:,} ({count / drawn:.1%})"


def choices(run: Run) -> Drawing:
    """Histogram: how many prompts were chosen how often, 0 included; beyond `MAX_BINS` bars, in bins."""
    name, title = "choices", "How often each prompt was chosen"
    found = run.selections
    if found is None:
        return Drawing(name, title, SELECTION_MISSING)
    if not found.times_drawn:
        return Drawing(name, title, "audit/selection.jsonl lists no candidate.")
    prompts = found.times_drawn.keys() | found.times_chosen.keys()
    spectrum = Counter(found.times_chosen[prompt] for prompt in prompts)
    most = max(spectrum)
    width = 1 if most <= MAX_BINS else -(-most // MAX_BINS)
    heights: Counter[int] = Counter()
    for times, count in spectrum.items():
        heights[0 if times == 0 else 1 + (times - 1) // width] += count
    drawn, (axes,) = figure()
    at = np.array(sorted(heights))
    left = np.where(at == 0, -0.4, 1 + (at - 1) * width - 0.4)
    bars = axes.bar(
        left,
        [heights[place] for place in at.tolist()],
        width=np.where(at == 0, 0.8, width - 0.2),
        align="edge",
        color="#bcbcbc",
        edgecolor="#444444",
        linewidth=0.5,
    )
    if spectrum[0]:
        bars[0].set(facecolor="#ffffff", hatch="///")
    axes.set_xlabel("times chosen")
    axes.set_ylabel("prompts")
    plain_numbers(axes)
    caption = f"Never chosen (hatched): {never_chosen_text(run)} of the prompts that were candidates."
    caption += f" Median {np.median([found.times_chosen[prompt] for prompt in prompts]):g} times, at most {most:,}."
    caption += f" Each bar but the first is {width} counts wide." if width > 1 else ""
    return Drawing(name, title, caption, to_png(drawn))


def never_chosen_html(run: Run, suffix: str = "") -> str:
    """The first of the prompts that were never chosen, with their perplexity when they were a candidate last."""
    found, names = run.selections, never_chosen(run)
    if found is None or not names:
        return ""
    rows = [[name, str(found.times_drawn[name]), number(found.last_ppl.get(name), 3)] for name in names[:MAX_PROMPTS]]
    text = f"Prompts that were never chosen ({never_chosen_text(run)})"
    return details(text, table(f"never_chosen{suffix}", ("prompt", "times a candidate", "last perplexity"), rows))


def most_rollouts_html(run: Run, suffix: str = "") -> str:
    """The prompts that took the most rollouts, with what came of them."""
    if run.rollouts is None or not run.rollouts.count:
        return ""
    spent: dict[str, tuple[int, int, float]] = {}
    for (step, prompt_id), count in run.rollouts.count.items():
        steps, rollouts, reward = spent.get(prompt_id, (0, 0, 0.0))
        spent[prompt_id] = (steps + 1, rollouts + count, reward + run.rollouts.reward_sum[step, prompt_id])
    most = sorted(spent.items(), key=lambda item: (-item[1][1], item[0]))[:MAX_PROMPTS]
    rows = []
    for prompt_id, (steps, rollouts, reward) in most:
        ppl = run.selections.last_ppl.get(prompt_id) if run.selections else None
        rows.append([prompt_id, str(steps), str(rollouts), f"{reward / rollouts:.3f}", number(ppl, 3)])
    head = ("prompt", "steps", "rollouts", "mean reward", "last perplexity")
    return details(f"Prompts that took the most rollouts (of {len(spent):,})", table(f"prompts{suffix}", head, rows))
