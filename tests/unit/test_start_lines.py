"""What is printed while a run starts."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest

from recipe.prepo.supervise import start_lines
from recipe.prepo.supervise.start_lines import StartLines


def test_one_line_a_part_with_the_seconds_of_the_part_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[str] = []
    monkeypatch.setattr(start_lines, "POLL_INTERVAL_S", 0.01)
    context = SimpleNamespace(get_job_id=lambda: "01")
    fake = SimpleNamespace(get_runtime_context=lambda: context, JobID=SimpleNamespace(from_hex=bytes.fromhex))
    monkeypatch.setitem(sys.modules, "ray", fake)
    table = SimpleNamespace(actors=lambda *_: {name: {"ActorClassName": name} for name in alive})
    monkeypatch.setitem(sys.modules, "ray._private", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "ray._private.state", table)
    with StartLines() as lines:
        lines.now("Ray")
        lines.now("the trainer")
        lines.follow_actors()
        for name in ("TaskRunnerV1", "WorkerDict", "RewardLoopWorker"):
            alive.append(name)
            time.sleep(0.1)
    alive.append("PrepoAgentLoopWorker")
    time.sleep(0.1)
    assert capsys.readouterr().out.splitlines() == [
        "starting Ray",
        "starting the trainer (Ray: 0 s)",
        "starting the actor (the trainer: 0 s)",
        "starting vLLM (the actor: 0 s)",
    ]
