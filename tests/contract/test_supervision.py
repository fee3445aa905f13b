"""Supervision without Ray: failed rollouts, hung rewards, failed checkpoints, and the messages about them."""

import asyncio
import errno
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_queue import FakeQueue
from ray.exceptions import RayTaskError
from tensordict import NonTensorStack, TensorDict
from transfer_queue import KVBatchMeta

from recipe.prepo.errors import FaultError
from recipe.prepo.reward.score import compute_score
from recipe.prepo.supervise import messages, supervisor
from recipe.prepo.supervise.hung_rewards import GIVEN_UP, TIMED_OUT, FailureCount, Failures, SupervisedRollouts
from recipe.prepo.supervise.messages import describe
from recipe.prepo.supervise.supervisor import Supervisor


def test_failures_of_all_workers_are_added_with_the_latest_error_in_one_line() -> None:
    one, other = Failures(), Failures()
    one.note(ValueError("no such answer\nin this line"), validate=False)
    one.note(KeyError("x"), validate=False)
    other.note(TypeError(), validate=True)
    assert Failures() + one + other == Failures(2, 1, "KeyError: 'x'")
    assert str(one + other) == "2 training rollouts and 1 validation rollouts failed; the latest: KeyError: 'x'"
    assert FailureCount([])() == Failures()
    assert describe(TypeError()) == "TypeError: no text"
    assert describe(ValueError("no such answer\nin this line")) == "ValueError: no such answer"
    error = RayTaskError("compute_score", "Traceback (most recent call last): …", KeyError("answer"))
    assert describe(error) == "KeyError: 'answer'"


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


def worker(limit_s: float) -> SupervisedRollouts:
    made = SupervisedRollouts()
    made.config = SimpleNamespace(prepo=SimpleNamespace(reward_wait_limit_s=limit_s))
    return made


def score(worker: SupervisedRollouts, scoring: Any, output: Output) -> Output:
    asyncio.run(worker.limit(scoring, output))
    return output


def test_a_hung_reward_scores_0_with_the_keys_of_the_function_and_one_in_time_is_left_alone() -> None:
    begin = time.monotonic()
    output = score(worker(0.2), never(), Output(extra_fields={"turns": 1}))
    assert 0.2 <= time.monotonic() - begin < 20
    info = output.extra_fields["reward_extra_info"]
    assert info == {"score": 0.0, "acc": 0.0, "timed_out": 1.0}  # without an earlier one: this recipe's own
    assert info.keys() == compute_score("gsm8k", r"\boxed{1}", "1").keys()
    assert output == Output(0.0, {"turns": 1, "reward_extra_info": info, GIVEN_UP: True})

    hanging, output = worker(0.2), Output()
    score(hanging, answers(output, {"score": 1.0, "format": 0.5}), output)
    assert output == Output(1.0, {"reward_extra_info": {"score": 1.0, "format": 0.5}})
    output = score(hanging, never(), Output())
    assert output.extra_fields == {"reward_extra_info": {"score": 0.0, "format": 0.0}, GIVEN_UP: True}


@pytest.mark.parametrize("error", [ValueError, TimeoutError])
def test_an_error_of_the_reward_function_is_passed_on(error: type[Exception]) -> None:
    async def fails() -> None:
        raise error("its own")

    with pytest.raises(error, match="its own"):
        score(worker(60), fails(), Output())


@dataclass
class Scene:
    """A supervisor of step 3 of a run of 2 prompts x 2 rollouts, with the messages that it left."""

    supervisor: Supervisor
    said: dict[str, str]
    queue: FakeQueue
    failures: Failures
    renewed: list[Any]

    def fail(self, times: int) -> None:
        for _ in range(times):
            self.failures.note(KeyError("x"), validate=False)

    def batch(self, *extra_fields: dict[str, Any]) -> KVBatchMeta:
        """A batch with these rollouts, and a padding row."""
        keys = [*(f"k{i}" for i in range(len(extra_fields))), "pad"]
        fields = TensorDict({"extra_fields": NonTensorStack(*extra_fields, {})}, batch_size=len(keys))
        return self.queue.kv_batch_put(keys, "train", fields, tags=[{"is_padding": key == "pad"} for key in keys])


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    said: dict[str, str] = {}
    monkeypatch.setattr(messages, "put", said.__setitem__)
    monkeypatch.setattr(messages, "get", lambda key: said.get(key, ""))
    renewed: list[Any] = []
    monkeypatch.setattr(supervisor, "renew_threads", renewed.append)
    trainer = SimpleNamespace(
        run_dir=tmp_path,
        checkpoint_dir=tmp_path / "global_step_3",
        global_steps=3,
        prepo=SimpleNamespace(num_selected=2, rollouts_per_prompt=2, reward_wait_limit_s=20.0),
        config=SimpleNamespace(trainer=SimpleNamespace(resume_mode="auto")),
        reward_loop_manager=SimpleNamespace(reward_loop_workers="the reward workers"),
    )
    made = Supervisor(trainer)
    made._watch = SimpleNamespace(require_alive=lambda: None)  # type: ignore[assignment]
    failures = Failures()
    made._count_failures = lambda: Failures(**vars(failures))  # type: ignore[assignment]
    return Scene(made, said, FakeQueue(monkeypatch), failures, renewed)


GOOD: dict[str, Any] = {"reward_extra_info": {TIMED_OUT: 0.0}}
HUNG: dict[str, Any] = {"reward_extra_info": {}, GIVEN_UP: True}
GRADED_TOO_LONG: dict[str, Any] = {"reward_extra_info": {TIMED_OUT: 1.0}}


def test_failures_and_timeouts_of_a_step_are_counted(scene: Scene) -> None:
    metrics: dict[str, Any] = {}
    scene.fail(1)
    scene.supervisor.before_advantages(scene.batch(GOOD, GOOD, GOOD), metrics)
    counts = {"failed_rollouts": 1, "failed_validation_rollouts": 0, "reward_timeouts": 0}
    assert metrics == {f"prepo/{name}/sum": number for name, number in counts.items()}
    failed = "1 training rollouts failed; the latest: KeyError: 'x'"
    (remark,) = [text for name, text in scene.said.items() if name.startswith(messages.REMARK)]
    assert remark.startswith(f"step 3: {failed}") and scene.said[messages.FAILED] == failed
    scene.supervisor.before_advantages(scene.batch(GOOD, HUNG, GRADED_TOO_LONG, GOOD), metrics)
    assert (metrics["prepo/failed_rollouts/sum"], metrics["prepo/reward_timeouts/sum"]) == (0, 2)
    assert scene.renewed == ["the reward workers"]


@pytest.mark.parametrize(
    ("failed", "rewards", "named"),
    [
        (0, (HUNG, GOOD, HUNG), ["step 3: 2 of 3 rewards timed out", "prepo.reward_wait_limit_s=20"]),
        (3, (GOOD, GOOD), ["step 3: 3 training rollouts failed", "KeyError", "; 2 are left", "custom_reward"]),
    ],
)
def test_a_step_of_which_most_is_lost_ends_the_run(
    failed: int, rewards: tuple[dict[str, Any], ...], named: list[str], scene: Scene
) -> None:
    scene.fail(failed)
    with pytest.raises(FaultError) as fault:
        scene.supervisor.before_advantages(scene.batch(*rewards), {})
    assert [text for text in named if text not in str(fault.value)] == []
    assert scene.said[messages.FAULT] == str(fault.value)  # for the driver, should the error itself not arrive


def test_waiting_for_rollouts_that_all_fail_ends_the_run(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "COUNT_INTERVAL_S", 0.0)
    scene.fail(4)
    scene.supervisor.polling()  # as many as a step has may be chance
    scene.fail(1)
    with pytest.raises(FaultError, match=r"5 training rollouts failed.*and it waits for others"):
        scene.supervisor.polling()


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(scene: Scene, tmp_path: Path) -> None:
    torn = tmp_path / "global_step_3"
    torn.mkdir()
    with pytest.raises(FaultError) as fault, scene.supervisor.saving():
        raise OSError(errno.ENOSPC, "No space left on device")
    text = str(fault.value)
    assert f"the checkpoint of step 3 could not be written to {torn}" in text and "No space left" in text
    assert "trainer.max_actor_ckpt_to_keep" in text and "There is no checkpoint yet (trainer.save_freq)" in text
    assert not torn.exists() and scene.said[messages.FAULT] == text


class Watch:
    """A watch over no process."""

    def __init__(self, *_: Any) -> None: ...
    def require_alive(self) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize(
    ("error", "failed", "message"),
    [
        (OSError(errno.ENOSPC, "No space left"), 0, "step 3 failed: .*No space left.* the same command starts"),
        (ValueError("no rollouts"), 1, "step 3: 1 training rollouts failed; .*; then: no rollouts. "),
        (ValueError("our own"), 0, "our own"),
        (FaultError("said already"), 1, "said already"),
    ],
)
def test_an_error_of_the_training_says_what_is_behind_it(
    error: Exception, failed: int, message: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "processes_of", lambda *_: [])
    monkeypatch.setattr(supervisor, "Watch", Watch)
    monkeypatch.setattr(supervisor, "FailureCount", lambda _workers: scene.supervisor._count_failures)
    scene.fail(failed)
    expected = type(error) if "own" in message else FaultError
    manager = SimpleNamespace(agent_loop_workers=[])
    with pytest.raises(expected, match=message), scene.supervisor.training(manager):
        raise error
