"""The only file that names TransferQueue columns and verl's batch keys (verl 0.9.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.utils import tensordict_utils as tu

from recipe.prepo.errors import DataError
from recipe.prepo.maths.entropy import sequence_entropy_nats
from recipe.prepo.rows import content_ids
from recipe.prepo.types import FloatArray, IntArray, RolloutBatch

TRAIN_PARTITION = "train"
ROLLOUT_N = "__rollout_n__"
TEMPERATURE = "temperature"  # of a prompt; verl's agent loop copies it to the rollouts, its FSDP engine reads it by row
CALL = "prepo_call"  # which of a step's choices a prompt comes from, where it is not the first


def _rows(column: Any) -> list[Any]:
    """A non-tensor column as a plain list. TransferQueue returns stacks, linked lists or arrays."""
    values = column.tolist() if hasattr(column, "tolist") else list(column)
    return [getattr(value, "data", value) if type(value).__name__ == "NonTensorData" else value for value in values]


def with_prompt_ids(table: Any, prompt_key: str) -> tuple[Any, list[str]]:
    """verl's training set (a Hugging Face table) with ``extra_info.prompt_id`` in every row, and those ids in order.

    A row without an id gets that of its content (:func:`recipe.prepo.rows.content_ids`). Where all have one, the table
    stays the same. Reads columns: building a dictionary for each row would take forty times as long.
    """

    def column(name: str) -> pa.ChunkedArray:
        return table.with_format("arrow").select_columns([name])[:][name]

    has_info = "extra_info" in table.column_names
    info = column("extra_info") if has_info else pa.nulls(len(table), pa.struct([]))
    fields = {field.name: pc.struct_field(info, field.name) for field in info.type}
    ids: list[Any] = fields["prompt_id"].to_pylist() if "prompt_id" in fields else [None] * len(table)
    if all(ids):
        return table, ids
    golds = pc.struct_field(column("reward_model"), "ground_truth").to_pylist()
    derived = content_ids(column(prompt_key).to_pylist(), golds)
    ids = [given or own for given, own in zip(ids, derived, strict=True)]
    fields["prompt_id"] = pa.array(ids)
    rest = table.remove_columns("extra_info") if has_info else table
    return rest.add_column("extra_info", pc.make_struct(*fields.values(), field_names=list(fields))), ids


def prompt_ids_of(batch: Any) -> tuple[str, ...]:
    """``extra_info.prompt_id`` of each row; a DataError where one has none."""
    prompt_ids = tuple(info.get("prompt_id") for info in _rows(batch["extra_info"]))
    for prompt_id in prompt_ids:
        if not isinstance(prompt_id, str) or not prompt_id:
            raise DataError(
                f"a data row has extra_info.prompt_id={prompt_id!r}, but it must be a non-empty string. Make the file "
                f"with python -m data_prep"
            )
    return prompt_ids


def messages_of(batch: TensorDict) -> list[list[dict[str, Any]]]:
    return [list(messages) for messages in _rows(batch["raw_prompt"])]


class RowLoader:
    """Loads rows of verl's training set by number, in place of verl's loader: no order, workers or state."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any]) -> None:
        self._dataset, self._collate = dataset, collate

    def load(self, rows: IntArray) -> Iterator[Any]:
        return iter([self._collate([self._dataset[row] for row in rows.tolist()])])

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def take_rows(batch: TensorDict, indices: IntArray) -> TensorDict:
    """The rows at ``indices``, in that order; the batch itself where nothing would change."""
    if np.array_equal(indices, np.arange(len(batch))):
        return batch
    return tu.index_select_tensor_dict(batch, torch.as_tensor(indices))


def set_sizes_and_call(batch: TensorDict, rollout_n_P: IntArray, nominal: int, call: int) -> None:
    """Give prompts their group sizes and the number of the step's choice, where they are not ``nominal`` and 0."""
    if (rollout_n_P != nominal).any():
        tu.assign_non_tensor_stack(batch, ROLLOUT_N, rollout_n_P.tolist())
    if call:
        tu.assign_non_tensor_stack(batch, CALL, [call] * len(batch))


def set_temperature(batch: TensorDict, temperature: float) -> None:
    """Give each prompt its sampling temperature, which its rollouts keep."""
    batch[TEMPERATURE] = torch.full((len(batch),), temperature, dtype=torch.float32)


def _dense(column: torch.Tensor) -> list[np.ndarray]:
    """Rows of a jagged or padded column as float64 arrays."""
    return [row.detach().to(torch.float64).numpy() for row in column.unbind()]


def _rollouts(data: Any, uids: list[str], num_tokens: list[int], entropy_nats_R: Any = None) -> RolloutBatch:
    """Rollouts from their columns; ``uids`` are the keys of their prompts."""
    group = {uid: i for i, uid in enumerate(dict.fromkeys(uids))}
    # verl 0.9.1 notes the entries of a reward's dictionary; of a plain number it notes that number as acc.
    infos = [fields.get("reward_extra_info") or {} for fields in _rows(data["extra_fields"])]
    accs = [info.get("acc") if "score" in info else None for info in infos]
    return RolloutBatch(
        prompt_ids=prompt_ids_of(data),
        group_R=np.array([group[uid] for uid in uids], dtype=np.int64),
        reward_R=np.array([scores.sum() for scores in _dense(data["rm_scores"])]),
        num_tokens_R=np.array(num_tokens, dtype=np.int64),
        entropy_nats_R=entropy_nats_R,
        acc_R=np.array([float(acc) if isinstance(acc, int | float) else np.nan for acc in accs]),
    )


def of_one_kind(infos: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Entries of the rewards' dictionaries that verl 0.9.1 can average: numbers, or texts where one is a text."""
    texts = {name for name, values in infos.items() if any(isinstance(value, str) for value in values)}
    return infos | {name: [value if value is None else str(value) for value in infos[name]] for name in texts}


@dataclass
class TrainedRollouts:
    """The rows of a training batch that are not padding."""

    rollouts: RolloutBatch
    rollout_R: IntArray  # number of each rollout within its group
    rows_R: IntArray  # index of each in ``meta.keys``
    masks_R_T: list[np.ndarray]  # the tokens that the policy generated
    temperature_R: FloatArray | None
    policy_versions_R: list[tuple[int, int]]  # first and last version of the weights that generated them
    weight_R: FloatArray = field(default_factory=lambda: np.zeros(0))  # once it is known
    shaped_R: FloatArray | None = None  # if rewards are shaped

    def scalar_advantages(self, advantages: torch.Tensor) -> FloatArray:
        """Each rollout's advantage at its first own token, shape [R]; a group-relative one is that at every token."""
        rows = _dense(advantages)
        pairs = zip(self.rows_R.tolist(), self.masks_R_T, strict=True)
        return np.array([float(rows[row][mask.argmax()]) if mask.any() else 0.0 for row, mask in pairs])


def read_rollouts(meta: KVBatchMeta, *, with_entropy: bool, with_temperature: bool = False) -> TrainedRollouts:
    """Fetch rewards, masks, entropies and temperatures of a training batch, over all data-parallel ranks."""
    rows = [i for i, tag in enumerate(meta.tags) if not tag.get("is_padding", False)]
    keys = [meta.keys[i] for i in rows]
    names = ["uid", "extra_info", "extra_fields", "response_mask", "rm_scores"]
    names += ["entropy"] * with_entropy + [TEMPERATURE] * with_temperature
    data = tq.kv_batch_get(keys=keys, partition_id=meta.partition_id, select_fields=names)
    masks_R_T = [mask.astype(bool) for mask in _dense(data["response_mask"])]
    entropy_nats_R = sequence_entropy_nats(_dense(data["entropy"]), masks_R_T) if with_entropy else None
    return TrainedRollouts(
        rollouts=_rollouts(data, _rows(data["uid"]), [int(mask.sum()) for mask in masks_R_T], entropy_nats_R),
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
    keys, names = list(tags), ["extra_info", "extra_fields", "rm_scores"]
    data = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=names)
    return _rollouts(data, list(map(uid_of, keys)), [int(tag["response_len"]) for tag in tags.values()])


def get_column(meta: KVBatchMeta, name: str) -> torch.Tensor:
    """A jagged column of a batch with its padding rows, shape [R + padding, T]."""
    return tq.kv_batch_get(keys=meta.keys, partition_id=meta.partition_id, select_fields=[name])[name]


def put_column(meta: KVBatchMeta, name: str, column: torch.Tensor) -> KVBatchMeta:
    """Write a column, and return the batch's metadata as verl's own writers do."""
    fields = TensorDict({name: column}, batch_size=len(meta))
    return tq.kv_batch_put(keys=meta.keys, partition_id=meta.partition_id, fields=fields)


def scaled(column: torch.Tensor, rows_R: IntArray, factor_R: FloatArray) -> torch.Tensor:
    """A jagged column with each row of ``rows_R`` multiplied by its factor; padding rows stay as they are."""
    rows = list(column.unbind())
    for row, factor in zip(rows_R.tolist(), factor_R.tolist(), strict=True):
        rows[row] = rows[row] * factor
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


@contextmanager
def shaped_rewards(meta: KVBatchMeta, rows_R: IntArray, shaped_R: FloatArray) -> Iterator[None]:
    """Within the block the batch's rewards are ``shaped_R``; afterwards they are the raw ones again."""
    raw = get_column(meta, "rm_scores")
    rows = raw.unbind()
    total_R = np.array([float(rows[row].sum()) for row in rows_R.tolist()])
    factor_R = np.divide(shaped_R, total_R, out=np.ones_like(total_R), where=total_R != 0.0)
    put_column(meta, "rm_scores", scaled(raw, rows_R, factor_R))
    try:
        yield
    finally:
        put_column(meta, "rm_scores", raw)
