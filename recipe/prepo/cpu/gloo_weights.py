"""Sends weights over gloo from the actor to rollout servers. The checkpoint engines of verl 0.9.1 need GPUs.

Importing this module registers the engine: ``actor_rollout_ref.rollout.checkpoint_engine.backend=gloo``.
"""

from __future__ import annotations

import io
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
    """Broadcasts all weights at once, after their size. The process group is kept.

    ``is_master``: whether this is the actor's first rank, which sends the weights.
    """

    def __init__(self, bucket_size: int, is_master: bool = False, **_: Any) -> None:
        self._is_master = is_master
        self._listener: socket.socket | None = None
        self._meeting: dict[str, Any] = {}
        self._group: Any = None
        self._rank = -1

    def prepare(self) -> dict[str, Any]:
        """Address for the rendezvous: on the cluster's network, never on all interfaces."""
        if self._is_master and self._listener is None:
            self._listener = socket.create_server((_node_ip(), 0))
            self._meeting = dict(zip(("host", "port"), self._listener.getsockname()[:2], strict=True))
        return self._meeting

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[dict[str, Any]]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """The actor's first rank becomes rank 0 and sends to all rollout workers. Its other ranks do not join."""
        size = 1 + rollout_world_size

        def arguments(ranks: list[int]) -> dict[str, list[Any]]:
            return {"rank": ranks, "world_size": [size] * len(ranks), "meeting": [metadata[0]] * len(ranks)}

        return arguments([0] + [-1] * (actor_wg_world_size - 1)), arguments(list(range(1, size)))

    def init_process_group(self, rank: int, world_size: int, meeting: dict[str, Any]) -> None:
        """Join the group at the first call; later calls keep it."""
        self._rank = rank
        if rank < 0 or self._group is not None:
            return
        listening: dict[str, Any] = {}
        if self._listener is not None:
            listening = {"master_listen_fd": self._listener.detach(), "use_libuv": True}
        listening |= {"timeout": TIMEOUT, "wait_for_workers": False}
        self._store = TCPStore(meeting["host"], meeting["port"], world_size, rank == 0, **listening)
        options = ProcessGroupGloo._Options()
        options._timeout = TIMEOUT
        options._devices = [ProcessGroupGloo.create_device(hostname=_node_ip())]
        self._group = ProcessGroupGloo(self._store, rank, world_size, options)

    def finalize(self) -> None:
        """Nothing to free."""

    async def send_weights(
        self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int | None = None
    ) -> dict[str, Any]:
        """Send every tensor. Ranks outside the group only run the generator, which is collective over the actor."""
        everything, sends = ensure_async_iterator(weights), self._rank == 0
        dense = {name: tensor.detach().clone() async for name, tensor in everything if sends}
        if self._rank == 0:
            torch.save(dense, buffer := io.BytesIO())
            self._broadcast(torch.tensor([buffer.tell()]))
            self._broadcast(torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8))
        return {}

    async def receive_weights(self, global_steps: int | None = None) -> AsyncIterator[tuple[str, torch.Tensor]]:
        size = self._broadcast(torch.zeros(1, dtype=torch.int64))
        data = self._broadcast(torch.empty(int(size), dtype=torch.uint8))
        for name_and_tensor in torch.load(io.BytesIO(data.numpy()), weights_only=True).items():
            yield name_and_tensor

    def _broadcast(self, tensor: torch.Tensor) -> torch.Tensor:
        options = BroadcastOptions()
        options.rootRank = 0
        self._group.broadcast([tensor], options).wait()
        return tensor


def _node_ip() -> str:
    return str(ray.util.get_node_ip_address().strip("[]"))
