"""The replay buffers on a real TransferQueue: refill rounds, ragged groups, and the record of discarded groups."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import transfer_queue as tq
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from recipe.prepo.errors import DataError
from recipe.prepo.trainer.replay_buffer import PrepoReplayBuffer, RoundsReplayBuffer
from recipe.prepo.types import Refill

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("transfer_queue")]
Rewards = Sequence[float]
MIXED, CORRECT, INCORRECT = (1.0, 0.0), (1.0, 1.0), (0.0, 0.0)


@pytest.fixture(autouse=True)
def clean_partition(transfer_queue: None) -> Iterator[None]:
    yield
    left = list((tq.kv_list("train") or {}).get("train", {}))
    if left:
        tq.kv_clear(keys=left, partition_id="train")


def roll_out(name: str, rewards: Rewards, *, status: str = "finished") -> str:
    """A group that is done: its prompt's key and one trajectory for each reward."""
    uid = f"{name}-{uuid.uuid4()}"
    tq.kv_batch_put(keys=[uid], partition_id="train", tags=[{"is_prompt": True, "status": status, "global_steps": 1}])
    rows = []
    for i, reward in enumerate(rewards):
        extra = {"extra_info": {"prompt_id": name}, "extra_fields": {"reward_extra_info": {"acc": reward}}}
        rows.append({"rm_scores": torch.tensor([0.0] * i + [reward]), **extra})
    if rows:
        keys = [f"{uid}_{i}_0" for i in range(len(rows))]
        tags = [{"status": "success", "response_len": i + 1} for i in range(len(rows))]
        tq.kv_batch_put(keys=keys, partition_id="train", fields=list_of_dict_to_tensordict(rows), tags=tags)
    return uid


def options(**changes: Any) -> dict[str, Any]:
    stock = {
        "trainer_mode": "sync",
        "trainer_config": {},
        "max_off_policy_threshold": None,
        "max_off_policy_strategy": "drop",
        "sampler_kwargs": {},
        "poll_interval": 0.01,
        "refill_fn": lambda _num_prompts: None,
        "filter_groups_metric": "reward",
        "train_batch_size": 3,
        "gen_batch_size": 1,
        "max_rollouts": 6,
        "on_poll": lambda: None,
    }
    return {**stock, **changes}


class Rounds:
    """A buffer whose refills come from a list of rounds, each a list of groups."""

    def __init__(self, rounds: Sequence[Sequence[Rewards]], *, last: Callable[[int], bool] = lambda _n: False) -> None:
        self.rounds = list(rounds)
        self.asked: list[tuple[int, float]] = []
        self.submitted: list[str] = []
        self._last = last
        self.buffer = RoundsReplayBuffer(next_round=self.next_round, **options(refill_fn=self.submit))
        self.submit(0)

    def next_round(self, num_missing: int, *, zero_variance_frac: float, refills: tuple[Refill, ...]) -> Refill | None:
        self.asked.append((num_missing, zero_variance_frac))
        if not self.rounds or self._last(len(refills)):
            return None
        if zero_variance_frac == 1.0:
            return Refill(4, None, False)
        estimate = int(1.25 * num_missing / (1.0 - zero_variance_frac))
        return Refill(min(estimate, 4), estimate, estimate <= 4)

    def submit(self, _num_prompts: int) -> None:
        uids = [roll_out(f"p{len(self.submitted) + i}", rewards) for i, rewards in enumerate(self.rounds.pop(0))]
        self.buffer.note_submitted(uids)
        self.submitted += uids

    def sample(self) -> tuple[list[str], dict[str, float]]:
        batch, metrics = self.buffer.sample(global_steps=1, partition_id="train", batch_size=3)
        return list(dict.fromkeys(key.split("_")[0] for key in batch.keys)), metrics

    def discarded(self) -> list[tuple[str, float, int]]:
        return [
            row
            for batch in self.buffer.take_discarded()
            for row in zip(batch.prompt_ids, batch.reward_R.tolist(), batch.num_tokens_R.tolist(), strict=True)
        ]


def test_rounds_go_on_until_there_are_enough_groups_with_a_signal() -> None:
    run = Rounds([[MIXED, CORRECT, INCORRECT, INCORRECT], [CORRECT, CORRECT], [MIXED, MIXED, MIXED]])
    groups, metrics = run.sample()
    assert groups == [run.submitted[i] for i in (0, 6, 7)]  # the first ones, in the order of their submission
    assert run.asked == [(2, 0.75), (2, 1.0)]
    assert metrics["training/filter_groups/evicted_samples"] == 5
    assert metrics["training/filter_groups/discarded_surplus_samples"] == 1
    discarded = run.discarded()
    assert sorted({name for name, *_ in discarded}) == ["p1", "p2", "p3", "p4", "p5", "p8"]
    assert [(reward, tokens) for name, reward, tokens in discarded if name == "p8"] == [(1.0, 1), (0.0, 2)]
    assert run.discarded() == []
    left = tq.kv_list("train")["train"]
    assert {key.split("_")[0] for key in left} == set(groups)  # nothing of the others stays


def test_step_may_end_short_but_not_empty() -> None:
    run = Rounds([[MIXED, CORRECT, INCORRECT, INCORRECT], [MIXED]], last=lambda num_refills: num_refills == 1)
    assert run.sample()[0] == [run.submitted[i] for i in (0, 4)]
    assert run.asked == [(2, 0.75), (1, 0.0)]
    with pytest.raises(DataError, match=r"step 1: in 2 rounds .* rewards that differ.*another rule of prepo/selection"):
        Rounds([[CORRECT, INCORRECT], [INCORRECT]]).sample()


def test_groups_that_failed_are_refilled_and_leave_nothing() -> None:
    run = Rounds([[MIXED, MIXED], [MIXED]])
    failed = roll_out("failed", (), status="failure")
    assert run.sample()[0] == run.submitted
    assert run.asked == [(1, 0.0)]
    assert failed not in tq.kv_list("train")["train"]


def test_ragged_groups_never_exceed_the_rollouts_of_a_step() -> None:
    run = Rounds([[(1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0), MIXED]])
    # 3 + 3 of at most 6; the group of four does not fit.
    assert run.sample()[0] == [run.submitted[i] for i in (0, 2)]


def test_groups_that_verls_own_filter_discards_are_recorded_and_the_order_stays() -> None:
    refilled: list[str] = []

    def refill(num_prompts: int) -> None:
        uids = [roll_out(f"r{len(refilled) + i}", MIXED) for i in range(num_prompts)]
        buffer.note_submitted(uids)
        refilled.extend(uids)

    buffer = PrepoReplayBuffer(**options(refill_fn=refill))
    first = [roll_out(f"p{i}", rewards) for i, rewards in enumerate([MIXED, CORRECT, MIXED])]
    buffer.note_submitted(first)
    batch, _ = buffer.sample(global_steps=1, partition_id="train", batch_size=3)
    assert list(dict.fromkeys(key.split("_")[0] for key in batch.keys)) == [first[0], first[2], refilled[0]]
    discarded = [name for part in buffer.take_discarded() for name in dict.fromkeys(part.prompt_ids)]
    assert discarded == ["p1", *(f"r{i}" for i in range(1, len(refilled)))]
