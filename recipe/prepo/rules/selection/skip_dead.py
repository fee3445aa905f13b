"""GRESO's skipping as a filter before another choice: K of the candidates that recently gave a signal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import AuditLine, Options, SelectionRule, number
from recipe.prepo.rules.neutral import Uniform
from recipe.prepo.rules.selection.greso import SignalHistory, skip_probability, skip_reasons
from recipe.prepo.rules.selection.ppl_schedule import PplSchedule
from recipe.prepo.types import Candidates, Panel, RunFacts, Selection, StepOutcome

LEFT_OUT = "prepo/left_out_frac/mean"


class SkipDead(SelectionRule):
    """Skips with probability ``1 - max(p^z, explore)`` after z groups in a row without a signal, then chooses.

    The probability is GRESO's (arXiv 2506.02177), with ``p_easy`` and ``p_hard`` fixed; no group is discarded, no step
    refilled. If fewer than K candidates are left, those come back that were the least likely to be skipped.
    """

    chooser: ClassVar[type[SelectionRule]]
    """The rule that chooses among the candidates that are left."""

    reads_correctness = True
    saved = ("skips", "history", "chooser")
    panels = (
        Panel(
            "Candidates without a recent signal",
            "Share of the step's candidates that the rule left out before it chose.",
            {LEFT_OUT: "left out: no recent signal"},
            "share of candidates",
        ),
    )

    @dataclass(frozen=True)
    class Config(Options):
        p_easy: float = number("[0, 1]")
        p_hard: float = number("[0, 1]")
        explore: float = number("(0, 1]", why=": 0 could skip a prompt forever; the published value is 0.01")

    def __init__(self, config: Any, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._skips = make_generator(seed, "selection.skip_dead")
        self._history = SignalHistory()
        self._chooser = self.chooser(config, seed=seed)
        self._num_left_out = self._num_candidates = 0  # of the step's choices

    def bind(self, run: RunFacts) -> None:
        self._history.bind(run)

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        config, run_C = self.config, self._history.runs(candidates.prompt_ids)
        skip_C = skip_probability(run_C, p_easy=config.p_easy, p_hard=config.p_hard, explore=config.explore)
        draw_C = self._skips.random(len(candidates))
        is_left_C = draw_C >= skip_C
        if (num_missing := num_selected - int(is_left_C.sum())) > 0:
            order_C = np.lexsort((draw_C, skip_C, is_left_C))  # skipped ones first
            is_left_C[order_C[:num_missing]] = True
        left_L = np.flatnonzero(is_left_C)
        self._num_left_out += len(candidates) - len(left_L)
        self._num_candidates += len(candidates)
        found = self._chooser.select(candidates.take(left_L), num_selected=num_selected, progress=progress)
        reasons = {int(left_L[i]): reason for i, reason in found.skip_reasons.items()}
        return Selection(left_L[found.indices_P], reasons | skip_reasons(~is_left_C, run_C), found.details)

    def observe(self, outcome: StepOutcome) -> None:
        self._history.observe(outcome)

    def metrics(self) -> dict[str, float]:
        num_left_out, num_candidates = self._num_left_out, self._num_candidates
        self._num_left_out = self._num_candidates = 0
        return {**({LEFT_OUT: num_left_out / num_candidates} if num_candidates else {}), **self._chooser.metrics()}

    @classmethod
    def check_choice(cls, line: AuditLine, options: Mapping[str, Any]) -> str:
        """The chooser's check, on the candidates that were not left out for their earlier rollouts."""
        skipped = [skip for skip in line["skipped"] if not skip["reason"].endswith("_before")]
        num_left = Counter([*line["selected"], *(skip["prompt_id"] for skip in skipped)])
        left = []
        for candidate in line["candidates"]:  # a prompt may occur twice, chosen once and left out once
            if num_left[candidate["prompt_id"]] > 0:
                num_left[candidate["prompt_id"]] -= 1
                left.append(candidate)
        others = {k: n for k, n in line.get("num_skipped", {}).items() if not k.endswith("_before")}
        return cls.chooser.check_choice(
            {**line, "candidates": left, "skipped": skipped, "num_skipped": others}, options
        )


class UniformSkip(SkipDead):
    """Uniform draw among the candidates that GRESO (arXiv 2506.02177) would not skip; needs no scores."""

    chooser = Uniform
    needs_scores = False


class PplScheduleSkip(SkipDead):
    """PREPO's window (arXiv 2511.00794) among the candidates that GRESO (arXiv 2506.02177) would not skip."""

    chooser = PplSchedule
    needs_scores = True

    @dataclass(frozen=True)
    class Config(SkipDead.Config, PplSchedule.Config):
        pass
