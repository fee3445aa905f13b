"""What the leak check sees: a child's child, a segment, a socket; and nothing of anybody else."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_until

from benchmarks.footprint import Footprint, command_of

LEAKY = """
import os, socket, subprocess, sys, time
from multiprocessing import resource_tracker, shared_memory
segment = shared_memory.SharedMemory(create=True, size=4096)
resource_tracker.unregister(segment._name, "shared_memory")
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(segment.name, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm: NOT TESTED")
def test_names_what_a_killed_process_left_and_removes_only_that(tmp_path):
    path = tmp_path / "s"
    with contextlib.ExitStack() as ends, Footprint() as footprint:
        ends.callback(footprint.kill)
        marked = {"env": os.environ | footprint.environment, "stdout": subprocess.PIPE, "text": True}
        leaky = subprocess.Popen([sys.executable, "-c", LEAKY, path], **marked)
        other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        ends.callback(other.wait)
        ends.callback(other.kill)
        segment = Path("/dev/shm") / leaky.stdout.readline().strip()
        wait_until(lambda: footprint.segments and footprint.sockets)
        assert leaky.pid in footprint.processes()
        assert len(footprint.processes()) == 3  # with its child, and Python's tracker of segments
        leaky.kill()
        leaky.wait()
        wait_until(lambda: len(footprint.processes()) == 1)
        (orphan,) = footprint.processes()
        assert "time.sleep(600)" in command_of(orphan)
        left = footprint.leftovers()
        assert (left.segments, left.sockets) == ((str(segment),), (str(path),)) and str(orphan) in str(left)
        assert not footprint.wait_for_end(0.3)
        assert footprint.kill() == 1 and footprint.wait_for_end(10)
        footprint.clean()
        assert not segment.exists() and not path.exists()
        assert str(footprint.leftovers()) == "nothing" and not footprint.leftovers()
        assert other.poll() is None
        leaky.stdout.close()
