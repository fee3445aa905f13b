"""With the neutral rules this recipe is stock verl: the same batches, rewards and updates."""

from __future__ import annotations

import pytest
from real_stack import Run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def texts(run: Run, step: int) -> list[tuple]:
    lines = run.lines(f"rollouts/{step}.jsonl")
    return sorted((line["input"], line["output"], line["gts"], line["score"]) for line in lines)


def test_batches_are_those_of_stock_verl(neutral_run: Run, stock_run: Run) -> None:
    for step in (1, 2):
        assert texts(neutral_run, step) == texts(stock_run, step)
        assert len(texts(stock_run, step)) == 32


def test_rewards_advantages_and_updates_are_those_of_stock_verl(neutral_run: Run, stock_run: Run) -> None:
    stock, neutral = stock_run.steps, neutral_run.steps
    compared = 0
    for step, data in stock.items():
        for name, value in data.items():
            if name.startswith(("actor/", "critic/", "response_length/", "prompt_length/")) and "/perf/" not in name:
                # Rollouts finish in another order each time, and so sums round differently in the last digit.
                assert neutral[step][name] == pytest.approx(value, rel=1e-5, abs=1e-8), (step, name)
                compared += 1
    assert list(stock) == [1, 2]
    assert compared > 40
