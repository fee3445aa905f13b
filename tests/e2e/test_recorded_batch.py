"""The advantage hook on one recorded batch in a real TransferQueue: stock verl beside this recipe's trainer."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from simulated_run import run_facts
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from recipe.prepo.controller import Controller, RunIdentity
from recipe.prepo.doctor import compose_config
from recipe.prepo.errors import NumericsError
from recipe.prepo.modes import PrepoTrainerSync
from recipe.prepo.rules.registry import REGISTRIES
from recipe.prepo.run.logs import RunLogs
from recipe.prepo.supervise.supervisor import Supervisor
from recipe.prepo.trainer import columns

pytestmark = pytest.mark.e2e
# Group of each rollout (ragged), its reward, tokens, tokens that are a tool's, and whether it is a padding row.
ROWS = [
    ("a", 1.0, 3, 0, False),
    ("a", 0.0, 5, 2, False),
    ("a", 1.0, 1, 0, False),
    ("b", 0.0, 4, 0, False),
    ("b", 1.0, 2, 2, False),  # an empty response: not one token is the policy's own
    ("c", 1.0, 6, 0, False),
    ("pad", 0.0, 1, 1, True),
]

# What verl notes of a reward: all entries of a dictionary, and of a plain number that number as acc (the other rows).
INFOS = {1: {"score": 0.0, "acc": True}, 2: {"score": 1.0, "pred": "7"}, 5: {}}


def put_batch(partition: str, entropy_of_last: float = 0.7) -> KVBatchMeta:
    generator = torch.Generator().manual_seed(0)
    keys, fields, tags = [], [], []
    for i, (uid, reward, num_tokens, num_tool, is_padding) in enumerate(ROWS):
        mask = torch.ones(num_tokens, dtype=torch.int64)
        mask[:num_tool] = 0
        scores = torch.zeros(num_tokens)
        scores[-1] = reward
        entropy = torch.rand(num_tokens, generator=generator) + 0.1
        if is_padding:
            entropy += 100.0
        if i == 5:
            entropy[0] = entropy_of_last
        keys.append(f"{uid}_{i}_0")
        tags.append({"is_padding": is_padding, "prompt_len": 4, "min_global_steps": 2, "max_global_steps": 2})
        tensors = {"response_mask": mask, "rm_scores": scores, "entropy": entropy}
        for name in ("old_log_probs", "rollout_log_probs"):
            tensors[name] = -torch.rand(num_tokens, generator=generator)
        extra = {"reward_extra_info": INFOS.get(i, {"acc": reward})}
        fields.append({"uid": uid, "extra_info": {"prompt_id": f"prompt-{uid}"}, "extra_fields": extra, **tensors})
    tq.kv_batch_put(keys=keys, partition_id=partition, fields=list_of_dict_to_tensordict(fields), tags=tags)
    return KVBatchMeta(partition_id=partition, keys=keys, tags=tags)


def stock_trainer() -> PPOTrainerSync:
    trainer = object.__new__(PPOTrainerSync)
    trainer.config = compose_config(["experiment=tiny_cpu"])
    return trainer


def prepo_trainer(run_dir: Path, weighting: str) -> PrepoTrainerSync:
    trainer = object.__new__(PrepoTrainerSync)
    trainer.config = compose_config(["experiment=tiny_cpu", f"prepo/weighting={weighting}"])
    trainer.global_steps = 3
    trainer.timing_raw, trainer._updates = {}, []
    trainer.supervisor = Supervisor(trainer)
    trainer.local_trigger_step, trainer.parameter_sync_step = 0, 1
    trainer.prepo = SimpleNamespace(temperature=1.0)
    trainer.controller = Controller(
        {group: OmegaConf.to_container(trainer.config.prepo[group]) for group in REGISTRIES},
        identity=RunIdentity(seed=0, num_selected=3, num_candidates=3, data_sha256=""),
        run=run_facts([f"prompt-{uid}" for uid in "abc"], rollouts_per_prompt=2),
        base_temperature=1.0,
    )
    trainer._logs = RunLogs(run_dir, resume_step=0, audit=True)
    return trainer


def advantages(trainer: PPOTrainerSync, batch: KVBatchMeta, metrics: dict | None = None) -> list[torch.Tensor]:
    trainer._compute_advantage(batch, {} if metrics is None else metrics)
    data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["advantages"])
    return list(data["advantages"].unbind())


def test_without_weighting_the_advantages_are_stock_verls_bit_for_bit(transfer_queue: None, tmp_path: Path) -> None:
    stock = advantages(stock_trainer(), put_batch("stock"))
    mine = advantages(prepo_trainer(tmp_path, "none"), put_batch("none"))
    assert all(torch.equal(a, b) for a, b in zip(stock, mine, strict=True))
    assert sum(float(row.abs().sum()) for row in stock) > 0


def test_acc_decides_where_the_reward_function_returned_it(transfer_queue: None) -> None:
    found = columns.read_rollouts(put_batch("acc"), with_entropy=True).rollouts
    assert np.isnan(found.acc_R).tolist() == [True, False, True, True, True, True]
    assert found.correct_R.tolist() == [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]


def own_entropies(batch: KVBatchMeta) -> np.ndarray:
    """Mean entropy of each real row's own tokens; 0 without any."""
    fields = ["entropy", "response_mask"]
    data = tq.kv_batch_get(keys=batch.keys[:-1], partition_id=batch.partition_id, select_fields=fields)
    rows = zip(data["entropy"].unbind(), data["response_mask"].unbind(), strict=True)
    return np.array([float(entropy[mask.bool()].mean()) if mask.any() else 0.0 for entropy, mask in rows])


def test_weights_come_from_own_tokens_of_real_rows_over_the_whole_batch(transfer_queue: None, tmp_path: Path) -> None:
    batch = put_batch("weighted")
    stock = advantages(stock_trainer(), batch)
    entropies = own_entropies(batch)
    weights = entropies / entropies.mean()
    assert weights[4] == 0.0 and np.isfinite(weights).all()

    metrics: dict[str, float] = {}
    mine = advantages(prepo_trainer(tmp_path, "relative_entropy"), batch, metrics)
    for i, weight in enumerate(weights):
        torch.testing.assert_close(mine[i], stock[i] * weight, rtol=1e-5, atol=1e-6)
    assert torch.equal(mine[-1], stock[-1])
    assert metrics["prepo/weight/mean"] == pytest.approx(1.0)
    assert metrics["prepo/weight/min"] == 0.0
    # Group c has one rollout, and verl gives it its reward as advantage.
    assert float(stock[5].abs().sum()) > 0
    assert metrics["prepo/zero_advantage_frac/mean"] == 0.0
    assert metrics["prepo/response_tokens_total/max"] == 3 + 3 + 1 + 4 + 0 + 6


def test_a_non_finite_entropy_names_the_prompt_and_stops_before_the_update(
    transfer_queue: None, tmp_path: Path
) -> None:
    batch = put_batch("broken", entropy_of_last=float("nan"))
    with pytest.raises(NumericsError, match=r"step 3.*prompt-c.*nan"):
        prepo_trainer(tmp_path, "relative_entropy")._compute_advantage(batch, {})
    with pytest.raises(Exception, match="advantages"):
        tq.kv_batch_get(keys=batch.keys, partition_id="broken", select_fields=["advantages"])["advantages"]
    assert not (tmp_path / "audit" / "rollouts.jsonl").read_text()
