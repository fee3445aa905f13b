"""MoPPS with a prior by perplexity: prompts that were never rolled out are judged by similar ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import count, number
from recipe.prepo.rules.selection.mopps import Mopps
from recipe.prepo.types import Candidates, FloatArray, IntArray, RunFacts, Selection, StepOutcome

TINY = 1e-9
HIGHEST_ICC = 0.98
"""Intraclass correlation of a fitted prior; at 1 it would not be a distribution."""
FEWEST_NEAR = 8
"""With fewer groups no prior is fitted."""
LARGEST_MEMORY = 16_384
"""Groups. More would only cost time: 32 of these already cover a five-hundredth of the range of perplexities."""


def prior_of_near(
    correct_H: FloatArray,
    size_H: FloatArray,
    before_C: IntArray,
    *,
    num_near: int,
    prior_right: float,
    prior_wrong: float,
    max_rollouts: float,
) -> tuple[FloatArray, FloatArray]:
    """Beta priors fitted to the groups around each place of an ordered history: moments of the beta-binomial.

    The mean m is the share of correct rollouts of the ``num_near`` groups around a place, half of them before it, with
    ``prior_right`` and ``prior_wrong`` added. The intraclass correlation is ``icc = (v - 1/n) / (1 - 1/n)``, with v the
    variance of the groups' pass rates over m (1 - m) and n their mean size. Then ``alpha + beta = 1/icc - 1``, at most
    ``max_rollouts``, and ``alpha = m (alpha + beta)``.

    Args:
        correct_H, size_H: correct rollouts and all rollouts of each group of the history, shape [H].
        before_C: number of groups of the history before each place, shape [C].

    Returns:
        alpha and beta, shape [C] each.

    >>> correct, size = np.array([4.0, 4, 0, 0, 2, 2, 2, 2]), np.full(8, 4.0)
    >>> alpha, beta = prior_of_near(
    ...     correct, size, np.array([0, 8]), num_near=4, prior_right=1, prior_wrong=1, max_rollouts=6.0
    ... )
    >>> alpha.round(2).tolist(), beta.round(2).tolist()
    ([0.01, 3.0], [0.01, 3.0])
    """
    first_C = np.clip(before_C - num_near // 2, 0, len(correct_H) - num_near)
    rate_H = correct_H / size_H
    columns = (correct_H, size_H, rate_H, rate_H**2)
    sums = np.concatenate([np.zeros((1, len(columns))), np.cumsum(np.stack(columns, axis=1), axis=0)])
    correct_C, size_C, rate_C, square_C = (sums[first_C + num_near] - sums[first_C]).T
    mean_C = (correct_C + prior_right) / (size_C + prior_right + prior_wrong)
    variance_C = np.maximum(square_C / num_near - (rate_C / num_near) ** 2, 0.0) / (mean_C * (1.0 - mean_C))
    chance_C = num_near / size_C  # 1/n, the variance of groups whose prompts have one pass rate
    icc_C = np.where(chance_C < 1.0, (variance_C - chance_C) / np.maximum(1.0 - chance_C, TINY), 0.0)
    total_C = 1.0 / np.clip(icc_C, 1.0 / (1.0 + max_rollouts), HIGHEST_ICC) - 1.0
    return total_C * mean_C, total_C * (1.0 - mean_C)


class MoppsPpl(Mopps):
    """MoPPS (arXiv 2507.04632), with each prompt's prior fitted to earlier groups of similar perplexity.

    A combination of this project. PREPO observes that perplexity and pass rate are related (arXiv 2511.00794).
    """

    needs_scores = True
    saved = (*Mopps.saved, "forgetting", "nll_nats_N", "memory")

    @dataclass(frozen=True)
    class Config(Mopps.Config):
        near_groups: int = count()
        forget: float = number("[0, 1]")
        max_prior_rollouts: float = number("[0.1, 1e6]")

    def __init__(self, config: Config, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._forgetting = make_generator(seed, "selection.mopps_ppl.forgetting")

    def bind(self, run: RunFacts) -> None:
        super().bind(run)
        self._nll_nats_N = np.full(len(run.prompts), np.nan, dtype=np.float32)  # when last scored
        self._memory = np.empty((0, 3))  # earlier groups: nll_nats, correct rollouts, rollouts

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        assert candidates.nll_nats_C is not None, "the rule needs scores"
        self._nll_nats_N[self._index.rows(candidates.prompt_ids)] = candidates.nll_nats_C
        return super().select(candidates, num_selected=num_selected, progress=progress)

    def _prior(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        config = self.config
        num_near = min(config.near_groups, len(self._memory) // 4)  # at most a quarter counts as near
        if num_near < min(config.near_groups, FEWEST_NEAR):
            return super()._prior(rows)
        nll_nats_H, correct_H, size_H = self._memory[np.argsort(self._memory[:, 0], kind="stable")].T
        nll_nats_P = self._nll_nats_N[rows]
        before_P = np.searchsorted(nll_nats_H, nll_nats_P, side="left")
        through_P = np.searchsorted(nll_nats_H, nll_nats_P, side="right")
        return prior_of_near(
            correct_H,
            size_H,
            (before_P + through_P) // 2,  # the middle of equal ones
            num_near=num_near,
            prior_right=config.prior_right,
            prior_wrong=config.prior_wrong,
            max_rollouts=config.max_prior_rollouts,
        )

    def observe(self, outcome: StepOutcome) -> None:
        super().observe(outcome)
        groups = outcome.prompts(self._index)
        new = np.stack([self._nll_nats_N[groups.rows_G], groups.num_correct_G, groups.size_G], axis=1)
        # Evict at random: oldest-first would expire unselected groups together and retry them all.
        is_kept = self._forgetting.random(len(self._memory)) >= self.config.forget
        memory = np.concatenate([self._memory[is_kept], new])
        if (num_groups := len(memory)) > LARGEST_MEMORY:
            memory = memory[np.sort(self._forgetting.choice(num_groups, LARGEST_MEMORY, replace=False))]
        self._memory = memory
