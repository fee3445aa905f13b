"""The CPU platform changes nothing unless it is chosen, and each workaround still repairs what the stock code breaks.

Four fresh processes import the real libraries and report what they saw as JSON. No server and no Ray is started.
When a test of stock behaviour fails after an upgrade, its workaround can go.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.alarm
PROJECT = Path(__file__).parents[2]

# Everything that patching could change: where the code of each function and method of these packages comes from.
FINGERPRINT = """
import importlib.metadata, inspect, json, sys
import torch
import verl.trainer.ppo.v1
import verl.workers.engine
import vllm.model_executor.layers.utils
from verl.plugin.platform.platform_manager import PlatformRegistry, _detect_platform_name
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
from verl.workers.engine.base import EngineRegistry

def origin(value):
    code = getattr(inspect.unwrap(value), "__code__", None)
    wrapped = getattr(value, "__wrapped__", None) is not None
    return f"{code.co_filename}:{code.co_firstlineno}:{wrapped}" if code else None

def functions(holder, prefix, depth):
    for name, value in sorted(vars(holder).items()):
        if isinstance(value, (staticmethod, classmethod)):
            value = value.__func__
        if inspect.isfunction(value):
            yield f"{prefix}.{name}", origin(value)
        elif depth and inspect.isclass(value) and value.__module__ == getattr(holder, "__name__", None):
            yield from functions(value, f"{prefix}.{name}", 0)

watched = ("verl", "vllm", "torch.distributed.distributed_c10d", "torch.nn.functional", "importlib")
modules = {n: m for n, m in sorted(sys.modules.items()) if n == "torch.distributed" or n.startswith(watched)}
print("JSON" + json.dumps({
    "functions": {n: dict(functions(m, n, 1)) for n, m in modules.items()},
    "platforms": PlatformRegistry.registered_names(),
    "engines": {m: {b: sorted(map(str, keys)) for b, keys in by.items()} for m, by in EngineRegistry._engines.items()},
    "trainers": {name: f"{cls.__module__}.{cls.__name__}" for name, cls in TRAINER_REGISTRY.items()},
    "init_process_group": torch.distributed.init_process_group is torch.distributed.distributed_c10d.init_process_group,
    "detected": _detect_platform_name(),
    "ours": sorted(n for n in sys.modules if n.startswith("recipe.prepo.cpu.")),
}))
"""

# The same trials with and without the workarounds; "vllm first" imports vLLM before verl, as vLLM's workers do.
TRIALS = """
import importlib.metadata, json, os, sys, tempfile, threading, asyncio, uuid
if sys.argv[1] == "vllm first":
    import vllm.model_executor.layers.utils
import torch
import verl
if sys.argv[1] == "stock":
    import recipe.prepo.cpu.platform
from recipe.prepo.cpu import workarounds

def outcome(trial):
    try:
        return trial()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

results = {"vllm version": outcome(lambda: importlib.metadata.version("vllm"))}
if sys.argv[1] == "stock":
    workarounds.answer_for_vllm_distribution()  # without it, verl's vLLM modules cannot even be imported
results["other version"] = outcome(lambda: importlib.metadata.version("no-such-distribution"))

def groups():
    rendezvous = f"file://{sys.argv[2]}/rendezvous"
    torch.distributed.init_process_group(backend="cpu:gloo,cpu:gloo", init_method=rendezvous, rank=0, world_size=1)
    total = torch.ones(1)
    torch.distributed.all_reduce(total)
    torch.distributed.destroy_process_group()
    return total.item()

results["groups"] = outcome(groups)
results["pinned"] = outcome(lambda: torch.ones(1).pin_memory().item())

import verl.workers.engine
from verl.workers.engine.base import EngineRegistry
for backend in ("fsdp", "fsdp2"):
    results[backend] = outcome(lambda: EngineRegistry.get_engine_cls("language_model", backend).__name__)

import vllm.model_executor.layers.utils as layer_utils
layer = torch.nn.Linear(64, 64)
layer_utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
results["weight kept"] = layer.weight.numel() == 64 * 64

def second_load():
    with torch.no_grad():
        layer.weight.copy_(torch.eye(64))
        layer.bias.zero_()
    x = torch.randn(3, 64)
    return torch.equal(layer_utils.cpu_unquantized_gemm(layer, x, layer.weight, layer.bias), x)

results["second load"] = outcome(second_load)

from verl.workers.rollout.vllm_rollout import bucketed_weight_transfer as transfer
handle = f"ipc://{sys.argv[2]}/weights.sock"
sent = [("a", torch.arange(6.0).view(2, 3)), ("b", torch.full((5,), 7, dtype=torch.int32))]
sender = transfer.BucketedWeightSender(handle, bucket_size_mb=1, use_shm=True)
thread = threading.Thread(target=lambda: asyncio.run(sender.async_send_weights(iter(sent))), daemon=True)
thread.start()
receiver = transfer.BucketedWeightReceiver(handle, torch.device("cpu"), use_shm=True)
kept, lasts = [], []

def on_bucket(weights, is_last):
    start = receiver.buffer.data_ptr()
    kept.extend((n, t, start <= t.data_ptr() < start + receiver.buffer.numel()) for n, t in weights)
    lasts.append(is_last)

results["receive"] = outcome(lambda: receiver.receive_weights(on_bucket))
results["views"] = [view for _, _, view in kept]
if results["receive"] is None:
    thread.join(30)
    results["sender ended"] = not thread.is_alive()
    results["values"] = [(n, t.dtype == w.dtype and torch.equal(t, w)) for (n, t, _), (_, w) in zip(kept, sent)]
    results["lasts"] = lasts
elif receiver.socket is not None:
    receiver.socket.send(b"")  # lets the sender unlink its shared memory
    thread.join(30)

from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

def queue():
    writer = MessageQueue(n_reader=1, n_local_reader=1)
    reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
    thread = threading.Thread(target=reader.wait_until_ready, daemon=True)
    thread.start()
    writer.wait_until_ready()
    thread.join(30)
    if sys.argv[1] != "stock":
        workarounds.drop_segment_names([os.getpid()])
    writer.enqueue("still there")
    name = f"/dev/shm/{writer.buffer.shared_memory.name}"
    has_name = os.path.exists(name)
    if has_name:
        os.unlink(name)
    return [has_name, reader.dequeue(timeout=30)]

results["queue"] = outcome(queue)

def sockets():
    import types, zmq
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    from vllm.utils.network_utils import get_file_store_init_method, get_open_zmq_ipc_path
    context = zmq.Context()
    server, client = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    address, meeting, compiled = [], [], []

    class Server:
        async def run_server(self, args):
            address.append(get_open_zmq_ipc_path())
            tempfile.tempdir = None  # as in a new process
            compiled.append(cache_dir())  # outlives the run
            meeting.append(get_file_store_init_method().removeprefix("file://"))
            open(meeting[0], "w").close()
            server.bind(address[0])
            client.connect(address[0])
            client.send_string("hello")
            return server.recv_string()

    if sys.argv[1] != "stock":
        workarounds.leave_nothing_behind(types.SimpleNamespace(vLLMHttpServer=Server))
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
    asyncio.run(Server().run_server(None))
    client.send_string("still there")
    path = address[0].removeprefix("ipc://")
    names = [name for name in (path, meeting[0]) if os.path.exists(name)]
    for name in names:
        os.unlink(name)
    return [len(names) == 2, server.recv_string(), "VLLM_RPC_BASE_PATH" in os.environ or "/prepo-" in compiled[0]]

results["sockets"] = outcome(sockets)

from recipe.prepo.cpu.platform import CpuIndex
from verl.plugin.platform.platform_manager import _detect_platform_name, get_platform
from verl.utils.device import get_device_id, get_device_name
index = get_device_id()
results["index"] = [str(torch.ones(1).to(index).device), f"{get_device_name()}:{index}", isinstance(index, CpuIndex)]
results["platform"] = type(get_platform()).__name__
del os.environ["VERL_PLATFORM"]
results["detected"] = _detect_platform_name()
print("JSON" + json.dumps(results), flush=True)
os._exit(0)
"""


def report(script: str, *arguments: str, plugins: str, platform: str | None) -> dict[str, Any]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VERL_")}
    chosen = {} if platform is None else {"VERL_PLATFORM": platform}
    fixed = {"VLLM_TARGET_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**kept, **chosen, **fixed, "VERL_USE_EXTERNAL_PLUGINS": plugins},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("JSON")]
    assert lines, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("JSON"))
    return found


def source_of(package: str, file: str) -> str:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / file).read_text(encoding="utf-8")


def test_without_the_platform_the_plugin_adds_its_trainers_and_changes_nothing() -> None:
    untouched, found = (report(FINGERPRINT, plugins=plugins, platform=None) for plugins in ("none", "auto"))
    common = set(untouched["functions"]) & set(found["functions"])
    watched = {"verl.trainer.ppo.v1.trainer_base", "torch.distributed", "importlib.metadata"}
    assert watched | {"vllm.model_executor.layers.utils"} <= common
    differing = {
        f"{module}: {name}"
        for module in common
        for name, origin in untouched["functions"][module].items()
        if found["functions"][module].get(name) != origin
    }
    assert differing == set() and found["init_process_group"]
    for name in ("platforms", "engines", "detected"):
        assert found[name] == untouched[name]
    assert found["detected"] != "cpu" and found["ours"] == []
    added = {name: where for name, where in found["trainers"].items() if name not in untouched["trainers"]}
    assert added.pop("prepo_sync") == "recipe.prepo.modes.PrepoTrainerSync"
    assert all(name.startswith("prepo_") for name in added)
    assert set(untouched["trainers"]) <= set(found["trainers"])


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the trials give in stock processes, and in processes with the workarounds."""
    stock, repaired = (
        report(TRIALS, name, str(tmp_path_factory.mktemp("trials")), plugins=plugins, platform="cpu")
        for name, plugins in (("stock", "none"), ("vllm first", "auto"))
    )
    return stock, repaired


# Trial -> how stock fails (start of its error, or its value), and the value with the workarounds.
OUTCOMES: dict[str, tuple[Any, Any]] = {
    "vllm version": ("PackageNotFoundError", None),  # the distribution has another name on the CPU
    "groups": ("ValueError", 1.0),  # a device named twice
    # vLLM's CPU worker mends this too, so that only workers which are not forked fail: those on a cluster.
    "pinned": ("RuntimeError: Cannot access accelerator", 1.0),
    "fsdp": ("ValueError: No engine registered for device='cpu'", "FSDPEngineWithLMHead"),
    "fsdp2": ("ValueError: No engine registered for device='cpu'", "FSDPEngineWithLMHead"),
    "weight kept": (False, True),  # linear weights are dropped after the first load
    "views": ([True, True], [False, False]),  # received weights are views of a buffer that goes away
    "receive": ("BufferError", None),
    # Names in memory and in /tmp outlive their processes.
    "queue": ([True, "still there"], [False, "still there"]),
    "sockets": ([True, "still there", False], [False, "still there", False]),
    # The device index works in both of verl's ways.
    "index": (["cpu", "cpu:0", True], ["cpu", "cpu:0", True]),
}


@pytest.mark.parametrize("trial", OUTCOMES)
def test_stock_fails_where_a_workaround_repairs(trial: str, trials: tuple[dict[str, Any], dict[str, Any]]) -> None:
    stock, repaired = (found[trial] for found in trials)
    fails, works = OUTCOMES[trial]
    assert stock.startswith(fails) if isinstance(fails, str) else stock == fails
    assert repaired[0].isdigit() if trial == "vllm version" else repaired == works


def test_the_rest_of_a_repaired_process_is_right(trials: tuple[dict[str, Any], dict[str, Any]]) -> None:
    stock, repaired = trials
    assert stock["second load"] is not True and repaired["second load"] is True
    assert repaired["other version"].startswith("PackageNotFoundError")
    assert repaired["values"] == [["a", True], ["b", True]]
    assert repaired["lasts"] == [True] and repaired["sender ended"]
    assert repaired["platform"] == "PlatformCPU"
    assert "cpu" not in (stock["detected"], repaired["detected"])  # it is chosen, never detected
    assert "CPUOffloadPolicy(pin_memory=True)" in source_of("verl", "workers/engine/fsdp/transformer_impl.py")


def test_vllm_rewinds_generators_in_a_way_that_a_cpu_cannot() -> None:
    """Why runs with seeds need ``enable_chunked_prefill=False`` on a CPU; see ``recipe.prepo.preflight._rollouts``."""
    assert "gen.set_offset(gen.get_offset() - 4)" in source_of("vllm", "v1/worker/gpu_model_runner.py")
    with pytest.raises(RuntimeError, match="does not use offset"):
        torch.Generator().get_offset()
