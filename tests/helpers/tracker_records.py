"""What trackers keep of a run, offline, read back with their own readers: step -> metric -> value."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

History = dict[int, dict[str, float]]
CONTRACT = """
    prepo/progress/mean prepo/candidates/sum prepo/selected/sum prepo/window_start/mean
    prepo/ppl_candidates/mean prepo/ppl_candidates/min prepo/ppl_candidates/max
    prepo/ppl_selected/mean prepo/ppl_selected/min prepo/ppl_selected/max
    prepo/weight/mean prepo/weight/min prepo/weight/max prepo/entropy_nats/mean
    prepo/zero_advantage_frac/mean prepo/all_correct_frac/mean prepo/all_wrong_frac/mean prepo/temperature/mean
    prepo/rollouts/sum prepo/rollouts_total/max prepo/response_tokens_total/max timing_s/prompt_scoring""".split()  # noqa: SIM905

# wandb 0.31 ships no reader in Python, but its record messages.
BLOCK = 32768  # LevelDB's log format: records in blocks, each piece with checksum (4 bytes), length (2) and type (1)
FILE_HEADER = 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def _records(data: bytes) -> Iterator[bytes]:
    offset, parts = FILE_HEADER, b""
    while offset + 7 <= len(data):
        left = BLOCK - offset % BLOCK
        if left < 7:
            offset += left
            continue
        length, kind = struct.unpack_from("<HB", data, offset + 4)
        piece = data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        parts = piece if kind in (FULL, FIRST) else parts + piece
        if kind in (FULL, LAST):
            yield parts


def wandb_history(folder: Path) -> History:
    """The one offline run under ``WANDB_DIR``."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data = path.read_bytes()
    assert data.startswith(b":W&B"), path
    found: History = {}
    for piece in _records(data):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(piece)
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found[int(row.pop("_step"))] = {name: value for name, value in row.items() if not name.startswith("_")}
    return found


def tensorboard_history(folder: Path) -> History:
    """All event files in ``TENSORBOARD_DIR``."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    found: History = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            found.setdefault(event.step, {})[name] = event.value
    return found


def mlflow_history(uri: str, project: str) -> tuple[Run, History]:
    """The one run of an experiment in the store at ``MLFLOW_TRACKING_URI``."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(project)
    assert experiment is not None, project
    (run,) = client.search_runs([experiment.experiment_id])
    found: History = {}
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            found.setdefault(metric.step, {})[name] = metric.value
    return run, found


def json_lines_history(path: Path) -> History:
    """A file of one ``{"step", "data"}`` a line."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {line["step"]: line["data"] for line in lines}
