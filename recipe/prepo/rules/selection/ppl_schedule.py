"""PREPO's schedule: a window that slides from the lowest to the highest prompt perplexity (arXiv 2511.00794)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipe.prepo.rules.base import AuditLine, Options, SelectionRule, number
from recipe.prepo.types import Candidates, FloatArray, Selection


def window_start(progress: float, num_candidates: int, num_selected: int) -> int:
    """First rank of the window, ``l(rho) = floor(rho * (|B| - K))``, in double precision."""
    assert 0.0 <= progress <= 1.0 and 0 <= num_selected <= num_candidates, f"{progress=}"
    return math.floor(progress * (num_candidates - num_selected))


def ascending_order(ppl_C: FloatArray, prompt_ids: Sequence[str]) -> list[int]:
    """Candidate positions by ascending perplexity, ties by prompt id (by code point), then by position.

    >>> ascending_order(np.array([2.0, 1.0, 2.0]), ["b", "c", "a"])
    [1, 2, 0]
    """
    order_C = np.argsort(ppl_C, kind="stable")
    tied = np.flatnonzero(np.diff(ppl_C[order_C]) == 0)  # equal to the next one
    for run in np.split(tied, np.flatnonzero(np.diff(tied) > 1) + 1) if tied.size else ():
        places = slice(run[0], run[-1] + 2)
        order_C[places] = sorted(order_C[places].tolist(), key=prompt_ids.__getitem__)
    return order_C.tolist()


class PplSchedule(SelectionRule):
    """``I_rho = {sigma(j) : l(rho) <= j <= l(rho) + K - 1}``, ``l(rho) = floor(rho * (|B| - K))`` (arXiv 2511.00794).

    rho = 0 takes the K lowest perplexities, rho = 1 the K highest; K = |B| takes all. This project adds
    ``progress_start`` and ``progress_end``, between which rho moves over the run: 0 and 1 as in the paper.

    >>> candidates = Candidates(("a", "b", "c", "d"), np.array([0.4, 0.1, 0.3, 0.2]), np.full(4, 9))
    >>> rule = PplSchedule(PplSchedule.Config(progress_start=0.0, progress_end=1.0), seed=0)
    >>> [rule.select(candidates, num_selected=2, progress=rho).indices_P.tolist() for rho in (0.0, 0.5, 1.0)]
    [[1, 3], [3, 2], [2, 0]]
    """

    needs_scores = True

    @dataclass(frozen=True)
    class Config(Options):
        progress_start: float = number("[0, 1]")
        progress_end: float = number("[0, 1]")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.progress_start > self.progress_end:
                raise ValueError(f"progress_start={self.progress_start} is above progress_end={self.progress_end}")

    def __init__(self, config: Any, *, seed: int) -> None:
        super().__init__(config, seed=seed)
        self._starts: list[int] = []  # of the step's choices

    def select(self, candidates: Candidates, *, num_selected: int, progress: float) -> Selection:
        assert candidates.ppl_C is not None, "the rule needs scores"
        low, high = self.config.progress_start, self.config.progress_end
        start = window_start(min(low + progress * (high - low), 1.0), len(candidates), num_selected)
        self._starts.append(start)
        order = ascending_order(candidates.ppl_C, candidates.prompt_ids)
        reasons = dict.fromkeys(sorted(order[:start]), "below_window")
        reasons |= dict.fromkeys(sorted(order[start + num_selected :]), "above_window")
        return Selection(
            np.array(order[start : start + num_selected], dtype=np.int64), reasons, {"window_start": start}
        )

    def metrics(self) -> dict[str, float]:
        starts, self._starts = self._starts, []
        return {"prepo/window_start/mean": float(np.mean(starts))} if starts else {}

    @classmethod
    def check_choice(cls, line: AuditLine, options: Mapping[str, Any]) -> str:
        low, high = options["progress_start"], options["progress_end"]
        ranked = sorted(line["candidates"], key=lambda candidate: (candidate["ppl"], candidate["prompt_id"]))
        ids = [candidate["prompt_id"] for candidate in ranked]
        num_skipped = line.get("num_skipped") or Counter(skip["reason"] for skip in line["skipped"])
        num_candidates = line["num_selected"] + sum(num_skipped.values())
        start = math.floor((low + line["progress"] * (high - low)) * (num_candidates - line["num_selected"]))
        if line["window_start"] != start:
            return f"window_start {line['window_start']}, recomputed {start}"
        start = start if num_candidates == len(ids) else ids.index(line["selected"][0])
        end = start + line["num_selected"]
        if line["selected"] != ids[start:end]:
            return "the chosen prompts are not the window"
        for reason, beside in (("below_window", ids[:start]), ("above_window", ids[end:])):
            if Counter(skip["prompt_id"] for skip in line["skipped"] if skip["reason"] == reason) != Counter(beside):
                return f"other prompts than those recorded are {reason!r}"
        return ""
