"""The only file that names TransferQueue columns and verl's batch keys (verl 0.9.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.utils import tensordict_utils as tu

from recipe.prepo.errors import DataError
from recipe.prepo.maths.entropy import sequence_entropy_nats
from recipe.prepo.types import FloatArray, IntArray, RolloutBatch

TRAIN_PARTITION = "train"
ROLLOUT_N = "__rollout_n__"
TEMPERATURE = "temperature"  # of a prompt; verl's agent loop copies it to the rollouts, its FSDP engine reads it by row
CALL = "prepo_call"  # which of a step's choices a prompt comes from, where it is not the first
ARROW_CHUNK_ROWS = 100_000


def _rows(column: Any) -> list[Any]:
    """A non-tensor column as a plain list. TransferQueue returns stacks, linked lists or arrays."""
    values = column.tolist() if hasattr(column, "tolist") else list(column)
    return [getattr(value, "data", value) if type(value).__name__ == "NonTensorData" else value for value in values]


def training_prompt_ids(table: Any) -> list[str]:
    """``extra_info.prompt_id`` of every row of verl's training set (a Hugging Face table), in order.

    Reads columns: building a dictionary for each row would take forty times as long.
    """
    chunks = table.with_format("arrow").select_columns(["extra_info"]).iter(ARROW_CHUNK_ROWS)
    return [prompt_id for rows in chunks for prompt_id in pc.struct_field(rows["extra_info"], "prompt_id").to_pylist()]


def prompt_ids_of(batch: TensorDict) -> tuple[str, ...]:
    """``extra_info.prompt_id`` of each prompt row.

    Raises:
        DataError: a row has none.
    """
    return tuple(_prompt_id(info) for info in _rows(batch["extra_info"]))


def _prompt_id(extra_info: Mapping[str, Any]) -> str:
    prompt_id = extra_info.get("prompt_id")
    if not isinstance(prompt_id, str) or not prompt_id:
        raise DataError(
            f"a data row has extra_info.prompt_id={prompt_id!r}, but it must be a non-empty string. Make the file with "
            f"python -m data_prep <dataset> --out DIR"
        )
    return prompt_id


def messages_of(batch: TensorDict) -> list[list[dict[str, Any]]]:
    """The chat messages of each prompt row."""
    return [list(messages) for messages in _rows(batch["raw_prompt"])]


def take_rows(batch: TensorDict, indices: IntArray) -> TensorDict:
    """The rows at ``indices``, in that order; the batch itself where nothing would change."""
    if np.array_equal(indices, np.arange(len(batch))):
        return batch
    return tu.index_select_tensor_dict(batch, torch.as_tensor(indices))


def concatenated(batches: list[TensorDict]) -> TensorDict:
    """Prompt rows of several draws, in order."""
    return batches[0] if len(batches) == 1 else tu.concat_tensordict(batches)


def set_rollout_n(batch: TensorDict, rollout_n_P: IntArray, nominal: int) -> None:
    """Give each prompt its group size. Where all have the nominal size, the batch stays as stock verl's."""
    if (rollout_n_P != nominal).any():
        tu.assign_non_tensor_stack(batch, ROLLOUT_N, [int(n) for n in rollout_n_P])


def set_temperature(batch: TensorDict, temperature: float) -> None:
    """Give each prompt its sampling temperature, which its rollouts keep."""
    batch[TEMPERATURE] = torch.full((len(batch),), temperature, dtype=torch.float32)


def set_call(batch: TensorDict, call: int) -> None:
    """Number the choices of one step. The first one, 0, leaves the batch as stock verl's."""
    if call:
        tu.assign_non_tensor_stack(batch, CALL, [call] * len(batch))


def drop_batch_temperature(meta: KVBatchMeta) -> None:
    """Remove the one temperature that verl sets for a training batch, so that each row's own is read."""
    if meta.partition_id == TRAIN_PARTITION:
        meta.extra_info.pop(TEMPERATURE, None)


def _dense(column: torch.Tensor) -> list[np.ndarray]:
    """Rows of a jagged or padded column as float64 arrays."""
    return [row.detach().to(torch.float64).numpy() for row in column.unbind()]


@dataclass(frozen=True)
class TrainedRollouts:
    """The rows of a training batch that are not padding.

    Attributes:
        rollout_R: number of each rollout within its group.
        rows_R: index of each in ``meta.keys``.
        masks_R_T: the tokens that the policy generated.
        policy_versions_R: first and last version of the weights that generated them.
    """

    rollouts: RolloutBatch
    rollout_R: IntArray
    rows_R: IntArray
    masks_R_T: list[np.ndarray]
    temperature_R: FloatArray | None
    policy_versions_R: list[tuple[int, int]]


def read_rollouts(meta: KVBatchMeta, *, with_entropy: bool, with_temperature: bool = False) -> TrainedRollouts:
    """Fetch rewards, masks, entropies and temperatures of a training batch, over all data-parallel ranks."""
    rows = [i for i, tag in enumerate(meta.tags) if not tag.get("is_padding", False)]
    keys = [meta.keys[i] for i in rows]
    names = ["uid", "extra_info", "response_mask", "rm_scores"]
    names += ["entropy"] * with_entropy + [TEMPERATURE] * with_temperature
    data = tq.kv_batch_get(keys=keys, partition_id=meta.partition_id, select_fields=names)
    masks_R_T = [mask.astype(bool) for mask in _dense(data["response_mask"])]
    uids = _rows(data["uid"])
    first_seen = {uid: i for i, uid in reversed(list(enumerate(uids)))}
    rollouts = RolloutBatch(
        prompt_ids=[_prompt_id(info) for info in _rows(data["extra_info"])],
        group_R=np.array([first_seen[uid] for uid in uids], dtype=np.int64),
        reward_R=np.array([scores.sum() for scores in _dense(data["rm_scores"])]),
        num_tokens_R=np.array([int(mask.sum()) for mask in masks_R_T], dtype=np.int64),
        entropy_nats_R=sequence_entropy_nats(_dense(data["entropy"]), masks_R_T) if with_entropy else None,
    )
    return TrainedRollouts(
        rollouts=rollouts,
        rollout_R=np.array([int(key.rsplit("_", 2)[1]) for key in keys], dtype=np.int64),
        rows_R=np.array(rows, dtype=np.int64),
        masks_R_T=masks_R_T,
        temperature_R=np.array([float(t) for t in data[TEMPERATURE]]) if with_temperature else None,
        policy_versions_R=[(meta.tags[i]["min_global_steps"], meta.tags[i]["max_global_steps"]) for i in rows],
    )


def uid_of(key: str) -> str:
    """The prompt's key in a rollout's key ``{uid}_{session}_{output}``."""
    return key.split("_")[0]


def read_outcomes(partition_id: str, tags: Mapping[str, Mapping[str, Any]]) -> RolloutBatch:
    """Rewards and lengths of finished rollouts that are about to be discarded; ``tags`` maps their keys to tags."""
    keys = list(tags)
    data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["extra_info", "rm_scores"])
    group = {uid: i for i, uid in enumerate(dict.fromkeys(uid_of(key) for key in keys))}
    return RolloutBatch(
        prompt_ids=[_prompt_id(info) for info in _rows(data["extra_info"])],
        group_R=np.array([group[uid_of(key)] for key in keys], dtype=np.int64),
        reward_R=np.array([scores.sum() for scores in _dense(data["rm_scores"])]),
        num_tokens_R=np.array([int(tag["response_len"]) for tag in tags.values()], dtype=np.int64),
    )


@contextmanager
def shaped_rewards(meta: KVBatchMeta, rows_R: IntArray, shaped_R: FloatArray) -> Iterator[None]:
    """Within the block the batch's rewards are ``shaped_R``; afterwards they are the raw ones again."""
    raw = tq.kv_batch_get(keys=meta.keys, partition_id=meta.partition_id, select_fields=["rm_scores"])["rm_scores"]
    rows = list(raw.unbind())
    for row, shaped in zip(rows_R.tolist(), shaped_R.tolist(), strict=True):
        total = float(rows[row].sum())
        if total != 0.0:
            rows[row] = rows[row] * (shaped / total)
    _write_rewards(meta, torch.nested.as_nested_tensor(rows, layout=torch.jagged))
    try:
        yield
    finally:
        _write_rewards(meta, raw)


def _write_rewards(meta: KVBatchMeta, rewards: torch.Tensor) -> None:
    tq.kv_batch_put(
        keys=meta.keys, partition_id=meta.partition_id, fields=TensorDict({"rm_scores": rewards}, batch_size=len(meta))
    )


def read_advantages(meta: KVBatchMeta) -> torch.Tensor:
    """The jagged advantages of a batch with its padding rows, shape [R + padding, T]."""
    return tq.kv_batch_get(keys=meta.keys, partition_id=meta.partition_id, select_fields=["advantages"])["advantages"]


def write_advantages(meta: KVBatchMeta, advantages: torch.Tensor) -> KVBatchMeta:
    """Put jagged advantages back, and return the batch's metadata as verl's own writers do."""
    fields = TensorDict({"advantages": advantages}, batch_size=len(meta))
    return tq.kv_batch_put(keys=meta.keys, partition_id=meta.partition_id, fields=fields)


def weighted(advantages: torch.Tensor, rows_R: IntArray, weight_R: FloatArray) -> torch.Tensor:
    """Advantages with each real row multiplied by its weight; padding rows stay as they are."""
    rows = list(advantages.unbind())
    for row, weight in zip(rows_R.tolist(), weight_R.tolist(), strict=True):
        rows[row] = rows[row] * weight
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def scalar_advantages(advantages: torch.Tensor, trained: TrainedRollouts) -> FloatArray:
    """Each rollout's advantage at its first own token, shape [R]. Group-relative ones are the same at every token."""
    dense = _dense(advantages)
    values = [
        float(dense[row][mask.argmax()]) if mask.any() else 0.0
        for row, mask in zip(trained.rows_R.tolist(), trained.masks_R_T, strict=True)
    ]
    return np.array(values)
