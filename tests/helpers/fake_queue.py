"""TransferQueue's key-value calls over a dictionary, for tests without Ray."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transfer_queue
from tensordict import TensorDict
from transfer_queue import KVBatchMeta


class FakeQueue:
    """Rows of columns by partition and key."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: dict[str, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
        for name in ("kv_batch_put", "kv_batch_get", "kv_clear"):
            monkeypatch.setattr(transfer_queue, name, getattr(self, name))

    def kv_batch_put(self, keys: Sequence[str], partition_id: str, fields: TensorDict, tags: Any = None) -> KVBatchMeta:
        for name, column in fields.items():
            values = column.unbind() if _is_tensor(column) else column
            for key, value in zip(keys, values, strict=True):
                self.rows[partition_id][key][name] = value
        return KVBatchMeta(partition_id=partition_id, keys=list(keys), tags=tags or [{} for _ in keys])

    def kv_batch_get(self, keys: Sequence[str], partition_id: str, select_fields: Sequence[str]) -> dict[str, Any]:
        rows = [self.rows[partition_id][key] for key in keys]
        found = {name: [row[name] for row in rows] for name in select_fields}
        return {
            name: torch.nested.as_nested_tensor(values, layout=torch.jagged) if _is_tensor(values[0]) else values
            for name, values in found.items()
        }

    def kv_clear(self, keys: Sequence[str], partition_id: str) -> None:
        for key in keys:
            self.rows[partition_id].pop(key, None)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)
