"""The CPU's weight transfer: every tensor arrives bit for bit, again and again, on an address of the node's own."""

import asyncio
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import torch
from verl.checkpoint_engine.base import CheckpointEngineRegistry

from recipe.prepo.cpu.gloo_weights import GlooCheckpointEngine

WEIGHTS = {
    "bf16": torch.randn(3, 5).to(torch.bfloat16),
    "f32": torch.randn(7),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "turned": torch.randn(4, 6).t(),
    "ids": torch.arange(10),
    "größe": torch.ones(1),
    "empty": torch.zeros(0, 4),
}


class Pools:
    """Two ranks of an actor and two rollout workers, each in a thread of its own."""

    def __init__(self) -> None:
        self.actors = [GlooCheckpointEngine(1 << 20, is_master=rank == 0) for rank in range(2)]
        self.rollouts = [GlooCheckpointEngine(1 << 20) for _ in range(2)]
        self.walked = 0

    def push(self, weights: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        engines = [*self.actors, *self.rollouts]
        metadata = [engine.prepare() for engine in engines]
        for_actors, for_rollouts = GlooCheckpointEngine.build_topology(2, 2, metadata)
        arguments = [
            {name: values[i] for name, values in side.items()} for side in (for_actors, for_rollouts) for i in range(2)
        ]
        together = threading.Barrier(len(engines))

        def generate() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in weights.items():
                self.walked += 1
                yield name, tensor

        async def receive(engine: GlooCheckpointEngine) -> dict[str, torch.Tensor]:
            return {name: tensor async for name, tensor in engine.receive_weights(global_steps=1)}

        def run(i: int) -> dict[str, torch.Tensor]:
            together.wait(30)
            engines[i].init_process_group(**arguments[i])
            if i < 2:
                asyncio.run(engines[i].send_weights(generate(), global_steps=1))
                return {}
            return asyncio.run(receive(engines[i]))

        with ThreadPoolExecutor(len(engines)) as pool:
            results = list(pool.map(run, range(len(engines)), timeout=60))
        for engine in engines:
            engine.finalize()
        return results[2:]


def test_weights_arrive_bit_for_bit_at_every_rollout_worker_again_and_again() -> None:
    assert CheckpointEngineRegistry.get("gloo") is GlooCheckpointEngine
    pools = Pools()
    for push in (1, 2):
        weights = {name: tensor * push for name, tensor in WEIGHTS.items()}
        walked = pools.walked
        for received in pools.push(weights):
            assert list(received) == list(weights)
            for name, tensor in weights.items():
                assert received[name].dtype == tensor.dtype and received[name].shape == tensor.shape
                assert torch.equal(received[name], tensor)
        assert pools.walked - walked == 2 * len(weights)  # collective over the actor: every rank walks its generator
    listening = [c.laddr.ip for c in psutil.Process(os.getpid()).net_connections("tcp") if c.status == "LISTEN"]
    assert listening and not {"0.0.0.0", "::"} & set(listening), listening
