"""What a run leaves on disk: state files that are refused when damaged, logs in which each step stands once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipe.prepo.errors import StateError
from recipe.prepo.run.checkpoint import FILE_NAME, load_state, save_state
from recipe.prepo.run.jsonl import StepLog

RUN = np.arange(-3, 4, dtype=np.int32)
ARRAYS = {"rules": {"selection": {"run": RUN, "p": [0.5, 0.25]}, "budget": {"rank": np.ones(5)}}}
PAYLOAD: dict[str, Any] = {"big": 2**127 + 1, "third": 1 / 3, "ü": ["é", None, True], "nested": {"b": 1, "a": {}}}
PICKLED = np.array([{"a": 1}], dtype=object)


def the_arrays(folder: Path) -> Path:
    (path,) = folder.glob("*.npz")
    return path


def test_state_round_trip_is_exact_and_leaves_no_older_file(tmp_path: Path) -> None:
    folder = tmp_path / "global_step_3"
    assert save_state(folder, ARRAYS) == folder / FILE_NAME
    found = load_state(folder)
    assert found["rules"]["selection"]["run"].dtype == np.int32
    np.testing.assert_equal(found, ARRAYS)
    first = the_arrays(folder)
    save_state(folder, {"array": np.zeros(3)})
    assert the_arrays(folder) != first
    save_state(folder, PAYLOAD)
    assert load_state(folder) == PAYLOAD
    assert os.listdir(folder) == [FILE_NAME]


def with_fields(text: str, **changes: Any) -> str:
    return json.dumps({**json.loads(text), **changes})


DAMAGES: dict[str, Callable[[str], str | bytes]] = {
    "empty": lambda text: "",
    "half": lambda text: text[: len(text) // 2],
    "last brace gone": lambda text: text.rstrip()[:-1],
    "binary": lambda text: b"\x80\x04\x95pickle\xff",
    "zeros": lambda text: b"\0" * 200,
    "not an object": lambda text: "[1, 2]",
    "other format": lambda text: with_fields(text, format="other"),
    "version as text": lambda text: with_fields(text, version="3"),
    "no checksum": lambda text: with_fields(text, sha256=None),
    "payload is a list": lambda text: with_fields(text, payload=[]),
    "one value edited": lambda text: text.replace('"b": 1', '"b": 2'),
    "one key added": lambda text: with_fields(text, payload={**PAYLOAD, "more": 0}),
    "integer as float": lambda text: text.replace('"b": 1', '"b": 1.0'),
    "a number of 5,000 digits": lambda text: text.replace('"b": 1', '"b": 1' + "0" * 5000),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_state_is_refused_and_left_as_it_is(tmp_path: Path, damage: Callable[[str], str | bytes]) -> None:
    path = save_state(tmp_path, PAYLOAD)
    damaged = damage(path.read_text(encoding="utf-8"))
    content = damaged if isinstance(damaged, bytes) else damaged.encode()
    path.write_bytes(content)
    with pytest.raises(StateError, match=r"trainer\.resume_mode") as error:
        load_state(tmp_path)
    assert str(path) in str(error.value)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == [FILE_NAME]


@pytest.mark.parametrize("version", [2, 7])
def test_no_state_and_another_version_are_refused_by_name(tmp_path: Path, version: int) -> None:
    with pytest.raises(StateError, match="does not exist"):
        load_state(tmp_path / "global_step_9")
    path = save_state(tmp_path, PAYLOAD)
    path.write_text(with_fields(path.read_text(encoding="utf-8"), version=version), encoding="utf-8")
    with pytest.raises(StateError, match=f"version {version}, this release reads version 3.*Resume with the release"):
        load_state(tmp_path)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from recipe.prepo.run.checkpoint import save_state
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    save_state(Path(sys.argv[1]), {"table": ["x" * 100] * 1000})
except OSError as error:
    sys.exit(error.errno)
"""


def test_disk_that_fills_up_keeps_the_old_state(tmp_path: Path) -> None:
    save_state(tmp_path, PAYLOAD)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], env=environment, timeout=60, check=False)
    assert child.returncode == 27  # EFBIG
    assert load_state(tmp_path) == PAYLOAD
    assert os.listdir(tmp_path) == [FILE_NAME]


def steps_in(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]


def log_steps(path: Path, steps: list[int], resume_step: int = 0) -> None:
    log = StepLog(path, resume_step=resume_step)
    for step in steps:
        log.append([{"step": step, "call": call, "data": {"é": step / 3}} for call in range(2)])
    log.close()


def test_resumed_log_holds_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "audit" / "log.jsonl"
    log_steps(path, [1, 2, 3, 4, 5])
    log_steps(path, [4, 5, 6], resume_step=3)
    assert steps_in(path) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    log_steps(path, [], resume_step=9)  # beyond its end
    assert steps_in(path)[-1] == 6
    assert os.listdir(path.parent) == ["log.jsonl"]


def test_a_disk_that_is_still_full_keeps_the_log_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    log_steps(path, [1, 2, 3])
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        StepLog(path, resume_step=2)
    assert steps_in(path) == [1, 1, 2, 2, 3, 3]
    assert os.listdir(tmp_path) == ["log.jsonl"]


@pytest.mark.parametrize("lost", range(1, 30))
def test_torn_last_line_is_dropped_wherever_it_was_torn(tmp_path: Path, lost: int) -> None:
    """The last step runs again. A line may be torn inside a letter, or lack nothing but its line end."""
    path = tmp_path / "log.jsonl"
    log = StepLog(path, resume_step=0)
    log.append([{"step": 1, "prompt_id": "a"}, {"step": 2, "prompt_id": "ééééé"}])
    log.close()
    content = path.read_bytes()
    path.write_bytes(content[:-lost])
    log = StepLog(path, resume_step=1)
    log.append([{"step": 2, "prompt_id": "again"}])
    log.close()
    assert [json.loads(line)["step"] for line in path.read_bytes().splitlines()] == [1, 2]


def test_line_without_its_end_does_not_swallow_the_next_one(tmp_path: Path) -> None:
    """The checkpoint of step 2 stands, and its line was cut just before the line end."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}', encoding="utf-8")
    log = StepLog(path, resume_step=2)
    log.append([{"step": 3}])
    log.close()
    assert steps_in(path) in ([1, 2, 3], [1, 3])


def test_starting_over_keeps_earlier_files_under_numbers(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for first in (10, 20, 30):
        log_steps(path, [first])
    assert steps_in(tmp_path / "metrics.1.jsonl") == [10, 10]
    assert steps_in(tmp_path / "metrics.2.jsonl") == [20, 20]
    assert steps_in(path) == [30, 30]


def test_values_keep_their_precision_and_stand_in_one_line_at_once(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "log.jsonl", resume_step=0)
    log.append([{"step": np.int64(3), "x": np.float64(0.1), "many": np.arange(2), "text": "a\r\nb\u2028é"}])
    text = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    assert text.count("\n") == 1
    assert json.loads(text) == {"step": 3, "x": 0.1, "many": [0, 1], "text": "a\r\nb\u2028é"}
    assert log.last_step == 3
    log.close()


def write_array(path: Path, array: np.ndarray) -> None:
    with open(path, "wb") as file:
        np.savez(file, run=array)


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[150] ^= 1
    path.write_bytes(content)


ARRAY_DAMAGES: dict[str, Callable[[Path], Any]] = {
    "gone": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "one bit": flip_bit,
    "of another state": lambda path: write_array(path, np.zeros(7)),
    "a pickle": lambda path: write_array(path, PICKLED),
}


@pytest.mark.parametrize("damage", ARRAY_DAMAGES.values(), ids=ARRAY_DAMAGES.keys())
def test_damaged_arrays_are_refused_and_left_as_they_are(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    save_state(tmp_path, ARRAYS)
    path = the_arrays(tmp_path)
    damage(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(StateError) as error:
        load_state(tmp_path)
    assert path.name in str(error.value)
    assert "trainer.resume_mode" in str(error.value)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_neither_a_pickle_with_the_right_checksum_nor_another_folders_arrays_are_read(tmp_path: Path) -> None:
    save_state(tmp_path / "other", ARRAYS)
    path = save_state(tmp_path / "mine", ARRAYS)
    arrays, document = the_arrays(path.parent), json.loads(path.read_text(encoding="utf-8"))
    write_array(arrays, PICKLED)
    document["arrays"]["sha256"] = hashlib.sha256(arrays.read_bytes()).hexdigest()
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(StateError, match="allow_pickle=False"):
        load_state(path.parent)
    arrays.unlink()
    document["arrays"]["file"] = str(the_arrays(tmp_path / "other"))
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(StateError, match="cannot be read"):
        load_state(path.parent)


def test_objects_are_never_saved_as_arrays(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="would be pickled"):
        save_state(tmp_path, {"a": np.array([None])})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_state_with_arrays_survives_a_write_that_fails_anywhere(
    tmp_path: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, ARRAYS)
    stock, calls = os.replace, []

    def fail(*args: Any) -> None:
        calls.append(args)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        stock(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        if failing <= 3:
            with pytest.raises(OSError, match="No space left"):
                save_state(tmp_path, {"array": np.zeros(3)})
            assert load_state(tmp_path)["rules"]["budget"]["rank"].tolist() == [1.0] * 5
        else:  # three renames in all
            save_state(tmp_path, {"array": np.zeros(3)})
            assert load_state(tmp_path)["array"].tolist() == [0.0] * 3
