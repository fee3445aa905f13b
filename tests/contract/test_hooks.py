"""The hooks with fakes around them: what they hand on to verl, and in which order. No Ray and no model."""

import asyncio
import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fake_queue import FakeQueue
from tensordict import TensorDict
from trainers import make_trainer
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.metric_utils import process_validation_metrics
from verl.trainer.ppo.v1 import PPOTrainer

from recipe.prepo.maths.rng import rollout_seed
from recipe.prepo.modes import PlainWorker, PrepoTrainerColocateAsync, PrepoTrainerSync, PrepoWorker
from recipe.prepo.trainer import columns
from recipe.prepo.trainer import prompt_scoring as scoring
from recipe.prepo.trainer.async_hooks import BackgroundDispatch
from recipe.prepo.trainer.hooks import use_row_temperatures
from recipe.prepo.trainer.prompt_scoring import ActorScorer, RolloutScorer

STOCK = {"temperature": 1.0, "top_p": 0.9}
PROMPT = {"global_steps": 3, "extra_info": {"prompt_id": "p"}, "session_id": 1}


def sampled_with(monkeypatch: pytest.MonkeyPatch, *, seeded: bool, validate: bool = False, **kwargs: Any) -> dict:
    """The sampling parameters that reach verl's agent loop."""
    seen: list[dict] = []

    async def agent_loop(_self: Any, sampling_params: dict, _trajectory: dict, **_kwargs: Any) -> None:
        seen.append(sampling_params)

    monkeypatch.setattr(PlainWorker, "_run_agent_loop", agent_loop)
    worker = object.__new__(PrepoWorker)
    worker.config = SimpleNamespace(prepo=SimpleNamespace(seed=5, seed_rollouts=seeded))
    asyncio.run(worker._run_agent_loop(dict(STOCK), {"validate": validate}, **PROMPT | kwargs))
    return seen[0]


def test_a_rollout_samples_at_its_prompts_temperature_with_a_seed_of_its_own_and_validation_as_configured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = torch.tensor(0.5)
    assert sampled_with(monkeypatch, seeded=False) == STOCK
    assert sampled_with(monkeypatch, seeded=False, temperature=half) == STOCK | {"temperature": 0.5}
    assert sampled_with(monkeypatch, seeded=True, validate=True, temperature=half) == STOCK
    changes: list[dict[str, Any]] = [{}, {"global_steps": 4}, {"session_id": 2}, {columns.CALL: 1}]
    changes.append({"extra_info": {"prompt_id": "q"}})
    seeds = [sampled_with(monkeypatch, seeded=True, **change)["seed"] for change in changes]
    assert len(set(seeds)) == len(seeds)
    assert seeds[0] == rollout_seed(5, 3, "p", 1, call=0) != rollout_seed(6, 3, "p", 1, call=0)


class Client:
    """Rollout servers: the log-probability of token t is -t; ``aborts`` requests are aborted first."""

    def __init__(self, *, aborts: int = 0, drop: int = 0) -> None:
        self.aborts, self.drop = aborts, drop
        self.asked: list[dict] = []

    async def generate(self, *, request_id: str, prompt_ids: list[int], sampling_params: dict) -> Any:
        self.asked.append(sampling_params)
        if len(self.asked) <= self.aborts:
            return SimpleNamespace(stop_reason="aborted", extra_fields={})
        log_probs = [[-float(token)] for token in prompt_ids[1:]] + [[0.0]]  # verl's filler comes last
        return SimpleNamespace(stop_reason="length", extra_fields={"prompt_logprobs": log_probs[self.drop :]})


def test_rollout_servers_score_every_token_but_the_first_and_an_aborted_request_is_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "RETRY_AFTER_S", 0.0)
    client = Client(aborts=2)
    found = RolloutScorer(lambda: client)([[7, 8, 9], [4, 5]])
    assert [each.tolist() for each in found] == [[-8.0, -9.0], [-5.0]]
    assert len(client.asked) == 4
    assert all(params["temperature"] == 1.0 and params["prompt_logprobs"] == 0 for params in client.asked)
    with pytest.raises(RuntimeError, match=r"3 tokens \(stop reason 'aborted'\).*prepo\.scorer=actor"):
        RolloutScorer(lambda: Client(aborts=1000))([[7, 8, 9]])
    with pytest.raises(RuntimeError, match="did not score a prompt of 3 tokens"):
        RolloutScorer(lambda: Client(drop=1))([[7, 8, 9]])


def test_the_actor_scores_every_token_but_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = FakeQueue(monkeypatch)
    asked: list[KVBatchMeta] = []

    def compute_log_prob(batch: KVBatchMeta) -> None:
        """As verl's engine: the entry at each position is for the token after it."""
        asked.append(batch)
        for row in queue.rows[batch.partition_id].values():
            row["log_probs"] = -torch.roll(row["input_ids"], -1).float()

    found = ActorScorer(compute_log_prob, lambda: 4)([[7, 8, 9], [4, 5]])
    assert [each.tolist() for each in found] == [[-8.0, -9.0], [-5.0]]
    assert len(asked[0].keys) == 4 and asked[0].extra_info["temperature"] == 1.0
    assert not queue.rows[scoring.SCORE_PARTITION]


def test_chosen_prompts_keep_their_order_sizes_temperature_and_call(tmp_path: Path) -> None:
    overrides = ["prepo/selection=uniform", "prepo/temperature=entropy_target", "prepo.seed_rollouts=true"]
    trainer = make_trainer(PrepoTrainerSync, tmp_path, *overrides)
    indices = np.array([30, 2, 17, 5, 39, 0, 8, 21])
    sizes = np.array([9, 2, 8, 3, 7, 4, 6, 5])
    candidates: list[str] = []

    def select(given: Any, **_: Any) -> Any:
        candidates.extend(given.prompt_ids)
        decision = stock_select(given, num_selected=8, step=1)
        selection = replace(decision.selection, indices_P=indices)
        return replace(decision, selection=selection, rollout_n_P=sizes, temperature=0.625, call=2)

    stock_select, trainer.controller.select = trainer.controller.select, select
    batch = trainer._next_train_batch()
    assert columns.prompt_ids_of(batch) == tuple(candidates[i] for i in indices)
    assert columns._rows(batch[columns.ROLLOUT_N]) == sizes.tolist()
    assert batch[columns.TEMPERATURE].tolist() == [0.625] * 8
    assert columns._rows(batch[columns.CALL]) == [2] * 8
    (line,) = (tmp_path / "audit" / "selection.jsonl").read_text().splitlines()
    assert list(json.loads(line)["rollout_n"].values()) == sizes.tolist()


def test_dispatches_run_in_order_without_blocking_and_a_failed_one_reaches_whoever_waits_or_polls() -> None:
    dispatch, may_go, done = BackgroundDispatch(), threading.Event(), []
    dispatch.submit(lambda: done.append(may_go.wait(30)))
    dispatch.submit(done.append, 2)
    dispatch.check()
    assert done == []
    may_go.set()
    dispatch.check(wait=True)
    assert done == [True, 2]
    for wait in (True, False):
        dispatch.submit(lambda: 1 / 0)
        deadline = time.monotonic() + 30
        with pytest.raises(ZeroDivisionError):
            while time.monotonic() < deadline:
                dispatch.check(wait=wait)
    dispatch.check(wait=True)  # each error is raised once


def test_a_warm_up_of_several_batches_is_chosen_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(PPOTrainer, "_add_prompts_to_generate", lambda _self, num_prompts: asked.append(num_prompts))
    trainer = object.__new__(PrepoTrainerColocateAsync)
    trainer.prepo = SimpleNamespace(num_selected=8)
    trainer._dispatch, trainer.timing_raw = BackgroundDispatch(), {}
    assert trainer._add_prompts_to_generate(19) == 19
    trainer.wait_for_dispatch()
    assert asked == [8, 8, 3] and trainer.first_round == 8


@pytest.mark.parametrize("name", ["compute_log_prob", "compute_ref_log_prob", "update_actor"])
def test_passes_over_a_training_batch_read_each_rows_temperature(name: str) -> None:
    group = SimpleNamespace(**{name: lambda batch: dict(batch.extra_info)})
    use_row_temperatures([group, group])
    for partition, kept in (("train", {}), (scoring.SCORE_PARTITION, {"temperature": 1.0})):
        batch = KVBatchMeta(partition_id=partition, keys=["k"], tags=[{}])
        batch.extra_info.update({"temperature": 1.0, "epochs": 1})
        assert getattr(group, name)(batch) == {"epochs": 1, **kept}


@pytest.mark.parametrize("fails", [False, True])
def test_raw_rewards_come_back_after_shaping(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = FakeQueue(monkeypatch)
    raw = [torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0, 0.0]), torch.tensor([0.5])]
    fields = TensorDict({"rm_scores": torch.nested.as_nested_tensor(raw, layout=torch.jagged)}, batch_size=3)
    meta = queue.kv_batch_put(["a", "b", "pad"], "train", fields)

    def rewards() -> list[list[float]]:
        return [queue.rows["train"][key]["rm_scores"].tolist() for key in meta.keys]

    try:
        with columns.shaped_rewards(meta, np.array([0, 1]), np.array([0.25, 0.75])):
            assert rewards() == [[0.0, 0.25], [0.0, 0.0, 0.0], [0.5]]  # 0 stays 0, padding stays
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert rewards() == [row.tolist() for row in raw]


def test_a_training_batch_is_read_without_padding_and_tool_tokens_and_weighted_row_by_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def jagged(*rows: list[float]) -> torch.Tensor:
        return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)

    # What verl notes of a plain number, of a dictionary with acc, and of one without.
    infos = [{"acc": 1.0}, {"score": 0.0, "acc": True}, {"score": 1.0, "pred": "7"}, {"acc": 0.0}]
    uids = ["a", "a", "b", "pad"]
    fields: Any = {
        "uid": uids,
        "extra_info": [{"prompt_id": uid} for uid in uids],
        "extra_fields": [{"reward_extra_info": info} for info in infos],
        "response_mask": jagged([1, 1], [0, 1, 1], [0, 0], [1]),
        "rm_scores": jagged([0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0], [0.0]),
        "entropy": jagged([1.0, 3.0], [99.0, 2.0, 4.0], [5.0, 5.0], [100.0]),
    }
    tags = [{"is_padding": uid == "pad", "min_global_steps": 2, "max_global_steps": 2} for uid in uids]
    meta = FakeQueue(monkeypatch).kv_batch_put(["a_0_0", "a_1_0", "b_0_0", "pad_0_0"], "train", fields, tags=tags)
    found = columns.read_rollouts(meta, with_entropy=True)
    assert found.rollouts.entropy_nats_R.tolist() == [2.0, 3.0, 0.0]
    assert found.rollouts.num_tokens_R.tolist() == [2, 2, 0]
    assert np.isnan(found.rollouts.acc_R).tolist() == [True, False, True]
    assert found.rollouts.correct_R.tolist() == [1.0, 1.0, 1.0]
    weighted = columns.scaled(fields["entropy"], found.rows_R, np.array([2.0, 0.0, 1.0]))
    assert [row.tolist() for row in weighted.unbind()] == [[2.0, 6.0], [0.0] * 3, [5.0, 5.0], [100.0]]


def test_validation_takes_rewards_whose_entries_differ() -> None:
    """verl 0.9.1 leaves None out, but cannot average a number and a text."""
    infos = {"reward": [1.0, 0.0, 1.0], "pred": [7, "seven", None], "acc": [None, 0.0, True]}
    trial = (["d"] * 3, ["u"] * 3)
    with pytest.raises(Exception, match=r"ufunc|dtype|str"):
        process_validation_metrics(*trial, infos)
    found = process_validation_metrics(*trial, columns.of_one_kind(infos))["d"]
    assert found["reward"]["mean@3"] == pytest.approx(2 / 3) and found["acc"]["mean@2"] == 0.5


# ---- end of a step --------------------------------------------------------------------------------------------------


class Supervisor:
    """Remembers what the trainer called; requests a stop after ``stop_after``."""

    def __init__(self, stop_after: int = 99) -> None:
        self.stop_after, self.events = stop_after, []
        self.trainer: Any = None

    def stop_requested(self) -> bool:
        return self.trainer.global_steps >= self.stop_after

    def stopped(self) -> None:
        self.events.append("stopped")

    def saving(self) -> Any:
        self.events.append("saving")
        return self

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def run_steps(run_dir: Path, monkeypatch: pytest.MonkeyPatch, supervisor: Supervisor, *, save_at: int) -> list[str]:
    """verl's loop in short: validate, then three steps, with a checkpoint due in step ``save_at``."""
    trainer = make_trainer(PrepoTrainerSync, run_dir)
    trainer.supervisor, supervisor.trainer = supervisor, trainer
    events: list[str] = supervisor.events
    monkeypatch.setattr(PPOTrainer, "_save_checkpoint", lambda _self: events.append("checkpoint"))
    trainer.total_training_steps, trainer.global_steps = 3, 0

    def log(data: dict[str, float], step: int) -> None:
        events.append(f"log {step} {sorted(data)}")

    trainer.logger = SimpleNamespace(logger=["console"], log=log)
    trainer.logger.log(data={"val": 0.5}, step=0)
    while trainer.global_steps < trainer.total_training_steps:
        trainer.global_steps += 1
        trainer.timing_raw = {}
        trainer.on_step_begin()
        if trainer.global_steps == save_at:
            trainer._save_checkpoint()
        trainer.logger.log(data=dict.fromkeys(trainer.timing_raw, 1.0) | {"loss": 1.0}, step=trainer.global_steps)
    return events


def test_a_checkpoint_follows_the_metrics_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = run_steps(tmp_path, monkeypatch, Supervisor(), save_at=2)
    step_3 = "log 3 ['loss', 'save_checkpoint']"  # with the time of the checkpoint before
    assert events == ["log 0 ['val']", "log 1 ['loss']", "log 2 ['loss']", "saving", "checkpoint", step_3]
    assert (tmp_path / "global_step_2" / "prepo_state.json").exists()
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [0, 1, 2, 3]


@pytest.mark.parametrize(("stop_after", "last"), [(0, 1), (2, 2), (3, 3)])
def test_a_requested_stop_ends_the_run_after_its_step_with_a_checkpoint(
    stop_after: int, last: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = run_steps(tmp_path, monkeypatch, Supervisor(stop_after), save_at=0)
    assert [event for event in events if event.startswith("log")][-1].startswith(f"log {last} ")
    expected = ["saving", "checkpoint", "stopped"] if last < 3 else []  # the last step needs no stop
    assert [event for event in events if not event.startswith("log")] == expected
    assert (tmp_path / f"global_step_{last}").exists() == bool(expected)


def test_a_stop_requested_before_the_first_step_starts_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(PrepoTrainerSync, tmp_path)
    trainer.supervisor = Supervisor(stop_after=0)
    trainer.supervisor.trainer = trainer
    trainer._init_dump_executor()
    trainer.fit(agent_loop_manager=None)
    assert trainer.supervisor.events == ["stopped"]
