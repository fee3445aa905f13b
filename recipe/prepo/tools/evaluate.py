"""``python -m recipe.prepo.evaluate --model … --data … --out DIR``: accuracy of a model on sets of questions.

Samples each question through vLLM, grades as in training, and writes passrate@n, pass@k, maj@k, mean length and the
share of truncated responses, with bootstrap intervals over questions. A call over the
same folder makes what is missing.
"""

from __future__ import annotations

import argparse

from recipe.prepo.tools.evaluation.results import RESULTS, TABLE, parse_ks, summarise, table, write_json
from recipe.prepo.tools.evaluation.session import fill, opened, prepare, run_command


def evaluate(options: argparse.Namespace) -> None:
    """Make the samples that are missing, then write and print the results.

    Args:
        options: checked ones (:func:`~recipe.prepo.tools.evaluation.options.check_options`).

    Raises:
        PrepoError: bad input; nothing expensive was started.
    """
    ks = parse_ks(options.k, options.samples)
    session = prepare(options)
    with opened(session) as store:
        seconds = fill(session, store, score_prompts=False)
        groups_by_set = {
            one.name: [[store.samples[q.prompt_id, i] for i in range(options.samples)] for q in one.questions]
            for one in session.sets
        }
        results = summarise(groups_by_set, ks, seed=options.seed)
        write_json(options.out / RESULTS, {"settings": session.settings, "generating_s": seconds, **results})
        (options.out / TABLE).write_text(table(results), encoding="utf-8")
    print(table(results), end="")
    print(f"95% intervals over questions; {seconds:.1f} s of generating. Written to {options.out}")


def _add_k(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--k", metavar="K,K", help="of pass@k and maj@k (default: 4,8,16 as far as samples go)")


def main() -> int:
    """Entry point; returns the exit status."""
    return run_command("recipe.prepo.evaluate", __doc__, _add_k, evaluate)
