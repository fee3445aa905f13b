"""``python -m recipe.prepo.analyze --model … --data … --out DIR``: does a perplexity schedule suit these data?

Before any training: each prompt's perplexity and pass rate under a model, their rank correlation with an interval, the
share of prompts that still teach something, pass rates by fifths of perplexity, and a figure. A call over the same
folder makes what is missing.
"""

from __future__ import annotations

import argparse

import numpy as np

from recipe.prepo.errors import ConfigError
from recipe.prepo.maths.perplexity import perplexity
from recipe.prepo.tools.evaluation.analysis import ANALYSIS, FIGURE, TEXT, analyse, draw, report
from recipe.prepo.tools.evaluation.results import write_json
from recipe.prepo.tools.evaluation.session import fill, opened, prepare, run_command

DEFAULT_GROUP = 8  # rollouts of a group, as in conf/prepo.yaml


def analyze(options: argparse.Namespace) -> None:
    """Make what is missing, then write and print what it says.

    Args:
        options: checked ones (:func:`~recipe.prepo.tools.evaluation.options.check_options`).

    Raises:
        PrepoError: bad input; nothing expensive was started.
    """
    if options.samples < 2 or not 2 <= (options.group_size or 2) <= options.samples:
        raise ConfigError(
            f"--samples {options.samples}, --group-size {options.group_size}: give at least 2 samples, and a group of 2"
            f" rollouts or more that is no larger than the number of samples."
        )
    session = prepare(options)
    group_size = options.group_size or min(DEFAULT_GROUP, options.samples)
    with opened(session) as store:
        seconds = fill(session, store, score_prompts=True)
        found_by_set = {}
        for one in session.sets:
            scored = [store.prompts[question.prompt_id] for question in one.questions]
            num_right = [
                sum(store.samples[question.prompt_id, i].reward == 1.0 for i in range(options.samples))
                for question in one.questions
            ]
            found = found_by_set[one.name] = analyse(
                [prompt.nll_nats for prompt in scored],
                [prompt.num_tokens for prompt in scored],
                num_right,
                num_samples=options.samples,
                group_size=group_size,
                seed=options.seed,
            )
            ppl_Q = perplexity([prompt.nll_nats for prompt in scored])
            name = FIGURE if len(session.sets) == 1 else f"{one.name}.{FIGURE}"
            (options.out / name).write_bytes(draw(ppl_Q, np.array(num_right) / options.samples, found, one.name))
        sets = {name: found.as_dict() for name, found in found_by_set.items()}
        write_json(options.out / ANALYSIS, {"settings": session.settings, "generating_s": seconds, "sets": sets})
        (options.out / TEXT).write_text(report(found_by_set), encoding="utf-8")
    print(report(found_by_set), end="")
    print(f"\n{seconds:.1f} s of scoring and generating. Written to {options.out}")


def _add_group_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--group-size", type=int, metavar="M", help="rollouts of a training group (default 8, at most --samples)"
    )


def main() -> int:
    """Entry point; returns the exit status."""
    return run_command("recipe.prepo.analyze", __doc__, _add_group_size, analyze)
