"""A reward that never comes is given up after the limit, and looks like every other one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from recipe.prepo.errors import ConfigError
from recipe.prepo.reward.score import compute_score
from recipe.prepo.supervise.reward_timeout import GIVEN_UP, LIMIT_ENV, RewardLimit, wait_limit_s


@dataclass
class Output:
    """The part of verl's agent-loop output that scoring fills in."""

    reward_score: float | None = None
    extra_fields: dict[str, Any] = field(default_factory=dict)


async def answers(output: Output, info: dict[str, float]) -> None:
    output.reward_score = info["score"]
    output.extra_fields["reward_extra_info"] = info


async def never() -> None:
    await asyncio.Event().wait()


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> RewardLimit:
    monkeypatch.setenv(LIMIT_ENV, "0.2")
    return RewardLimit()


def score(limit: RewardLimit, scoring: Any, output: Output) -> Output:
    async def run() -> None:
        await limit.score(scoring, output)

    asyncio.run(run())
    return output


def test_an_answer_in_time_is_left_alone(limit: RewardLimit) -> None:
    output = Output()
    score(limit, answers(output, {"score": 1.0}), output)
    assert output == Output(1.0, {"reward_extra_info": {"score": 1.0}})


def test_a_hung_reward_scores_0_with_the_keys_of_this_recipes_own(limit: RewardLimit) -> None:
    begin = time.monotonic()
    output = score(limit, never(), Output(extra_fields={"turns": 1}))
    assert time.monotonic() - begin < 5
    assert output.reward_score == 0.0
    assert output.extra_fields["turns"] == 1
    assert output.extra_fields[GIVEN_UP] is True
    info = output.extra_fields["reward_extra_info"]
    assert info == {"score": 0.0, "acc": 0.0, "timed_out": 1.0}
    assert info.keys() == compute_score("gsm8k", r"\boxed{1}", "1").keys()


def test_a_hung_reward_has_the_keys_of_the_users_function(limit: RewardLimit) -> None:
    output = Output()
    score(limit, answers(output, {"score": 1.0, "format": 0.5}), output)
    output = score(limit, never(), Output())
    assert output.extra_fields["reward_extra_info"] == {"score": 0.0, "format": 0.0}
    assert output.extra_fields[GIVEN_UP] is True


@pytest.mark.parametrize("error", [ValueError, TimeoutError])
def test_an_error_of_the_reward_function_is_passed_on(limit: RewardLimit, error: type[Exception]) -> None:
    async def fails() -> None:
        raise error("its own")

    with pytest.raises(error, match="its own"):
        score(limit, fails(), Output())


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "soon"])
def test_a_limit_that_cannot_be_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_ENV, value)
    with pytest.raises(ConfigError, match=f"{LIMIT_ENV}={value} "):
        wait_limit_s()
