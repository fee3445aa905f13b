"""Counting rollouts that fail in verl 0.9.1's agent-loop worker, and what its buffer does with them."""

from __future__ import annotations

import inspect

from ray.exceptions import RayTaskError
from verl.trainer.ppo.v1 import agent_loop_tq

from recipe.prepo.supervise.failures import FailureCount, Failures, added, describe
from recipe.prepo.trainer.rollout import PrepoAgentLoopWorker


def test_failures_of_all_workers_are_added_with_the_text_of_the_latest() -> None:
    one, other = Failures(), Failures()
    one.note(ValueError("no such answer\nin this line"), validate=False)
    one.note(KeyError("x"), validate=False)
    other.note(TypeError(), validate=True)
    assert added([Failures(), one, other]) == Failures(2, 1, "KeyError: 'x'")
    said = "2 training rollouts and 1 of validation failed; the latest: KeyError: 'x'"
    assert str(added([one, other])) == said
    assert str(one) == "2 training rollouts failed; the latest: KeyError: 'x'"
    assert describe(TypeError()) == "TypeError: no text"
    assert describe(ValueError("no such answer\nin this line")) == "ValueError: no such answer"
    assert FailureCount([])() == Failures()


def test_an_error_from_another_process_is_described_by_itself() -> None:
    error = RayTaskError("compute_score", "Traceback (most recent call last): …", KeyError("answer"))
    assert describe(error) == "KeyError: 'answer'"


def test_verl_still_logs_a_failure_and_goes_on() -> None:
    """When it raises or counts by itself, this recipe's own count can go."""
    prompt = inspect.getsource(PrepoAgentLoopWorker._run_prompt)
    assert "_settle_session_tasks" in prompt and '"failure"' in prompt and "self._run_agent_loop(" in prompt
    assert "return_exceptions=True" in inspect.getsource(agent_loop_tq._settle_session_tasks)
