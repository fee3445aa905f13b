"""What trackers keep of a run, offline, read back with their own readers: step -> metric -> value."""

import json
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

History = dict[int, dict[str, float]]
CONTRACT = """
    prepo/progress/mean prepo/candidates/sum prepo/selected/sum prepo/window_start/mean
    prepo/ppl_candidates/mean prepo/ppl_candidates/min prepo/ppl_candidates/max
    prepo/ppl_selected/mean prepo/ppl_selected/min prepo/ppl_selected/max
    prepo/weight/mean prepo/weight/min prepo/weight/max prepo/entropy_nats/mean
    prepo/zero_advantage_frac/mean prepo/all_correct_frac/mean prepo/all_wrong_frac/mean prepo/temperature/mean
    prepo/rollouts/sum prepo/rollouts_total/max prepo/response_tokens_total/max timing_s/prompt_scoring""".split()  # noqa: SIM905


def wandb_text(folder: Path) -> bytes:
    """The record of the one offline run under ``WANDB_DIR``; wandb 0.31 ships no reader in Python."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    return path.read_bytes()


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
