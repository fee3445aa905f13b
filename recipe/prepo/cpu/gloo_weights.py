"""Weights over gloo from the actor to rollout servers in other processes (verl 0.9.1's checkpoint engines need GPUs).

Importing it registers the engine: ``actor_rollout_ref.rollout.checkpoint_engine.backend=gloo``.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Any

import ray
import torch
from torch.distributed import BroadcastOptions, ProcessGroupGloo, TCPStore
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry
from verl.workers.rollout.utils import ensure_async_iterator

TIMEOUT = timedelta(seconds=120)


@CheckpointEngineRegistry.register("gloo")
class GlooCheckpointEngine(CheckpointEngine):
    """One broadcast for each tensor, after its name, shape and type as JSON. The group is made once and kept.

    Args:
        bucket_size: of verl's interface; tensors travel one by one.
        is_master: whether this is the actor's first rank, which sends.
    """

    def __init__(self, bucket_size: int, is_master: bool = False, **_: Any) -> None:
        self._is_master = is_master
        self._listener: socket.socket | None = None
        self._meeting: dict[str, Any] = {}
        self._group: ProcessGroupGloo | None = None
        self._store: TCPStore | None = None
        self._rank = -1

    def prepare(self) -> dict[str, Any]:
        """Where the group meets: an address of the cluster's own network, never all interfaces."""
        if not self._is_master:
            return {}
        if self._group is None:
            self._listener = socket.create_server((_node_ip(), 0))
            self._meeting = dict(zip(("host", "port"), self._listener.getsockname()[:2], strict=True))
        return self._meeting

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict[str, Any]]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """The actor's first rank is rank 0 and sends to all rollout workers; its other ranks stay out."""
        size = 1 + rollout_world_size
        ranks = [0] + [-1] * (actor_wg_world_size - 1), list(range(1, size))

        def arguments(ranks: list[int]) -> dict[str, list[Any]]:
            return {"rank": ranks, "world_size": [size] * len(ranks), "meeting": [metadata[0]] * len(ranks)}

        return arguments(ranks[0]), arguments(ranks[1])

    def init_process_group(self, rank: int, world_size: int, meeting: dict[str, Any]) -> None:
        """Join the group; the second and later calls keep the one that stands."""
        self._rank = rank
        if rank < 0 or self._group is not None:
            return
        listening = {} if self._listener is None else {"master_listen_fd": self._listener.detach(), "use_libuv": True}
        self._store = TCPStore(
            meeting["host"],
            meeting["port"],
            world_size,
            rank == 0,
            timeout=TIMEOUT,
            wait_for_workers=False,
            **listening,
        )
        options = ProcessGroupGloo._Options()
        options._timeout = TIMEOUT
        options._devices = [ProcessGroupGloo.create_device(hostname=_node_ip())]
        self._group = ProcessGroupGloo(self._store, rank, world_size, options)

    def finalize(self) -> None:
        """Nothing to free: there are no buckets."""

    async def send_weights(
        self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int | None = None
    ) -> dict[str, Any]:
        """Send every tensor; ranks outside the group only walk the generator, which is collective over the actor."""
        async for name, tensor in ensure_async_iterator(weights):
            if self._rank == 0:
                dense = tensor.detach().contiguous()
                self._send_header({"name": name, "shape": list(dense.shape), "dtype": str(dense.dtype)})
                self._broadcast(dense)
        if self._rank == 0:
            self._send_header({})
        return {}

    async def receive_weights(self, global_steps: int | None = None) -> AsyncIterator[tuple[str, torch.Tensor]]:
        """Yield every tensor that rank 0 sends."""
        while header := self._receive_header():
            tensor = torch.empty(header["shape"], dtype=getattr(torch, header["dtype"].removeprefix("torch.")))
            self._broadcast(tensor)
            yield header["name"], tensor

    def _send_header(self, header: dict[str, Any]) -> None:
        encoded = torch.tensor(list(json.dumps(header).encode()), dtype=torch.uint8)
        self._broadcast(torch.tensor([encoded.numel()]))
        self._broadcast(encoded)

    def _receive_header(self) -> dict[str, Any]:
        size = torch.zeros(1, dtype=torch.int64)
        self._broadcast(size)
        encoded = torch.empty(int(size), dtype=torch.uint8)
        self._broadcast(encoded)
        header: dict[str, Any] = json.loads(encoded.numpy().tobytes())
        return header

    def _broadcast(self, tensor: torch.Tensor) -> None:
        assert self._group is not None
        options = BroadcastOptions()
        options.rootRank = 0
        self._group.broadcast([tensor], options).wait()


def _node_ip() -> str:
    return str(ray.util.get_node_ip_address().strip("[]"))
