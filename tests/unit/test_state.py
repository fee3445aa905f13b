"""What a run leaves on disk: states and checkpoints that are refused when damaged, logs that hold each step once."""

import copy
import hashlib
import json
import os
import zipfile

import numpy as np
import pytest

from recipe.prepo.errors import StateError
from recipe.prepo.maths.rng import make_generator
from recipe.prepo.rules.base import Stateful
from recipe.prepo.run.checkpoint import (
    FILE_NAME,
    LATEST_FILE,
    archive,
    is_complete,
    latest_checkpoint,
    load_state,
    save_state,
)
from recipe.prepo.run.jsonl import StepLog

RUN = np.arange(-3, 4, dtype=np.int32)
ARRAYS = {"rules": {"selection": {"run": RUN, "p": [0.5, 0.25]}, "budget": {"rank": np.ones(5)}}}
PAYLOAD = {"big": 2**127 + 1, "third": 1 / 3, "ü": ["é", None, True], "nested": {"b": 1, "a": {}}}


# What the base class of the rules saves, checks and loads


class Inner(Stateful):
    saved = ("count_N",)

    def __init__(self):
        self._count_N = np.zeros(3, dtype=np.int32)


class Everything(Stateful):
    saved = ("generator", "share", "steps", "target", "measured", "seen_2", "rows", "inner")

    def __init__(self, seed=0):
        self._generator = make_generator(seed, "test")
        self._share, self._steps, self._target, self._measured = 0.5, 0, None, []
        self._seen_2, self._rows, self._inner = np.zeros((2, 2)), np.empty((0, 3)), Inner()


def used():
    state = Everything(seed=1)
    state._generator.integers(10, size=5, dtype=np.int32)  # leaves half of a 64-bit draw
    state._share, state._steps, state._target = 0.25, 7, 0.1
    state._measured.append(1 / 3)
    state._seen_2 += 1.5
    state._rows = np.arange(6.0).reshape(2, 3)
    state._inner._count_N += 4
    return state


def test_loaded_state_is_the_saved_one_and_follows_no_object(tmp_path):
    mine, other = used(), Everything(seed=9)
    saved = mine.state_dict()
    save_state(tmp_path, saved)
    other.load_state_dict(load_state(tmp_path))
    np.testing.assert_equal(other.state_dict(), saved)
    other.load_state_dict(saved)
    kept = copy.deepcopy(saved)
    draws = []
    for each in (mine, other):
        each._measured.append(2.0)
        each._seen_2 += 1.0
        each._inner._count_N[0] = 99
        draws.append(each._generator.integers(2**60, size=9).tolist())
    assert draws[0] == draws[1]
    np.testing.assert_equal(saved, kept)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("generator", np.random.MT19937(0).state, "PCG64"),
        *((name, value, name) for name in ("share", "target") for value in ("x", True)),
        ("measured", 0.4, "measured"),
        ("seen_2", np.zeros((2, 1)), "Everything: the saved 'seen_2' has another type or shape"),
        ("seen_2", np.zeros((2, 2), dtype=np.float32), "seen_2"),
        ("rows", np.zeros((7, 2)), "rows"),
        ("inner", {"count_N": np.zeros(3)}, "count_N"),
        ("inner", None, "Inner saves"),
    ],
)
def test_state_that_does_not_fit_is_refused(name, value, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Everything().load_state_dict({**used().state_dict(), name: value})


# The state file and its arrays


def the_arrays(folder):
    (path,) = folder.glob("*.npz")
    return path


def test_state_round_trip_is_exact_and_leaves_no_older_file(tmp_path):
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


def fields(**changes):
    return lambda text: json.dumps({**json.loads(text), **changes}).encode()


def written(array):
    def damage(path):
        with open(path, "wb") as file:
            np.savez(file, run=array)

    return damage


def edited(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


PICKLED = written(np.array([{"a": 1}], dtype=object))
DAMAGES = {
    "empty": edited(lambda text: b""),
    "last brace gone": edited(lambda text: text.rstrip()[:-1]),
    "binary": edited(lambda text: b"\x80\x04\x95pickle\xff"),
    "other format": edited(fields(format="other")),
    "an older version": edited(fields(version=2)),
    "no checksum": edited(fields(sha256=None)),
    "one value edited": edited(lambda text: text.replace(b'"p": [', b'"p": [0,')),
    "a number of 5,000 digits": edited(lambda text: text.replace(b'"p": [', b'"p": [1' + b"0" * 5000 + b",")),
    "missing": lambda path: path.unlink(),
}
ARRAY_DAMAGES = {
    "cut": edited(lambda data: data[:-40]),
    "one bit": edited(lambda data: data[:150] + bytes([data[150] ^ 1]) + data[151:]),
    "of another state": written(np.zeros(7)),
    "a pickle": PICKLED,
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize(
    ("find", "damage"),
    [(lambda folder: folder / FILE_NAME, damage) for damage in DAMAGES.values()]
    + [(the_arrays, damage) for damage in ARRAY_DAMAGES.values()],
    ids=[*DAMAGES, *(f"arrays {name}" for name in ARRAY_DAMAGES)],
)
def test_damaged_state_is_refused_and_left_as_it_is(tmp_path, find, damage):
    save_state(tmp_path, ARRAYS)
    path = find(tmp_path)
    damage(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(StateError, match=rf"{path.name} .*trainer\.resume_mode"):
        load_state(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_neither_a_pickle_with_the_right_checksum_nor_another_folders_arrays_are_read(tmp_path):
    save_state(tmp_path / "other", ARRAYS)
    path = save_state(tmp_path / "mine", ARRAYS)
    arrays, document = the_arrays(path.parent), json.loads(path.read_text(encoding="utf-8"))
    PICKLED(arrays)
    document["arrays"]["sha256"] = hashlib.sha256(arrays.read_bytes()).hexdigest()
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(StateError, match="allow_pickle=False"):
        load_state(path.parent)
    arrays.unlink()
    document["arrays"]["file"] = str(the_arrays(tmp_path / "other"))
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(StateError, match="cannot be read"):
        load_state(path.parent)
    with pytest.raises(AssertionError, match="would be pickled"):
        save_state(tmp_path / "new", {"a": np.array([None])})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("call", "failing"), [("fsync", 1), ("fsync", 2), ("replace", 1), ("replace", 2), ("replace", 3)]
)
def test_a_write_that_fails_anywhere_keeps_state_and_log(tmp_path, call, failing, monkeypatch):
    save_state(tmp_path, ARRAYS)
    log_steps(tmp_path / "log.jsonl", [1, 2, 3])
    stock, calls = getattr(os, call), []

    def fail(*args):
        calls.append(args)
        if len(calls) >= failing:
            raise OSError(28, "No space left on device")
        stock(*args)

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        save_state(tmp_path, {"array": np.zeros(3)})
    np.testing.assert_equal(load_state(tmp_path), ARRAYS)
    with pytest.raises(OSError, match="No space left"):
        StepLog(tmp_path / "log.jsonl", resume_step=2)
    assert steps_in(tmp_path / "log.jsonl") == [1, 1, 2, 2, 3, 3] and not list(tmp_path.glob(".*"))


# Which checkpoint a resume takes


def make_checkpoint(run_dir, step):
    folder = run_dir / f"global_step_{step}"
    save_state(folder, {"step": step})
    (folder / "actor").mkdir()
    (folder / "actor" / "model_world_size_1_rank_0.pt").write_bytes(b"weights")
    with zipfile.ZipFile(folder / "data.pt", "w") as file:  # what torch.save writes
        file.writestr("data.pkl", "state of the dataloader")
    return folder


def test_the_named_checkpoint_is_taken_even_where_a_newer_folder_stands(tmp_path):
    assert latest_checkpoint(tmp_path) == latest_checkpoint(tmp_path / "missing") == 0
    for step in (2, 4):
        make_checkpoint(tmp_path, step)
    (tmp_path / LATEST_FILE).write_text("2")
    assert latest_checkpoint(tmp_path, repair=True) == 2
    assert (tmp_path / LATEST_FILE).read_text() == "2"


@pytest.mark.parametrize("name", ["", "\0\0", "14"])
def test_a_torn_name_or_a_deleted_folder_means_the_newest_complete_checkpoint(tmp_path, name):
    (make_checkpoint(tmp_path, 12) / "data.pt").write_bytes(b"PK\3\4 cut off")
    (tmp_path / LATEST_FILE).write_text(name)
    assert latest_checkpoint(tmp_path) == 0  # start over
    for step in (2, 10):
        make_checkpoint(tmp_path, step)
    assert latest_checkpoint(tmp_path) == 10
    assert (tmp_path / LATEST_FILE).read_text() == name  # only a resume writes
    assert latest_checkpoint(tmp_path, repair=True) == 10
    assert (tmp_path / LATEST_FILE).read_text() == "10"  # verl reads it, too


def test_checkpoints_of_an_abandoned_course_are_archived(tmp_path):
    for step in (2, 4, 6):
        make_checkpoint(tmp_path, step)
    (tmp_path / LATEST_FILE).write_text("6")
    assert archive(tmp_path, after=6) is None
    assert archive(tmp_path, after=2) == tmp_path / "earlier_1"
    assert all(is_complete(tmp_path / "earlier_1" / f"global_step_{step}") for step in (4, 6))
    assert latest_checkpoint(tmp_path) == 2
    assert archive(tmp_path, after=0) == tmp_path / "earlier_2"
    assert latest_checkpoint(tmp_path) == 0 and archive(tmp_path, after=0) is None
    assert not (tmp_path / LATEST_FILE).exists()


@pytest.mark.parametrize("part", [FILE_NAME, "data.pt", "actor/model_world_size_1_rank_0.pt"])
def test_a_named_checkpoint_without_a_part_is_refused_and_the_complete_ones_are_named(tmp_path, part):
    make_checkpoint(tmp_path, 2)
    (make_checkpoint(tmp_path, 4) / part).unlink()
    (tmp_path / LATEST_FILE).write_text("4")
    with pytest.raises(StateError, match=r"global_step_4 lacks a part.*Complete checkpoints: steps 2\. .*resume_path"):
        latest_checkpoint(tmp_path)


# Logs


def steps_in(path):
    return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]


def log_steps(path, steps, resume_step=0):
    log = StepLog(path, resume_step=resume_step)
    for step in steps:
        log.append([{"step": step, "call": call, "data": {"é": step / 3}} for call in range(2)])
    log.close()


def test_resumed_log_holds_each_step_once(tmp_path):
    path = tmp_path / "audit" / "log.jsonl"
    log_steps(path, [1, 2, 3, 4, 5])
    log_steps(path, [4, 5, 6], resume_step=3)
    assert steps_in(path) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    log_steps(path, [], resume_step=9)  # beyond its end
    assert steps_in(path)[-1] == 6
    assert os.listdir(path.parent) == ["log.jsonl"]


@pytest.mark.parametrize("lost", [1, 2, 4, 5, 12, 25, 29])
def test_torn_last_line_is_dropped_wherever_it_was_torn(tmp_path, lost):
    """The last step runs again. A line may be torn inside a letter, or lack nothing but its line end."""
    path = tmp_path / "log.jsonl"
    path.write_bytes('{"step": 1}\n{"step": 2, "prompt_id": "ééééé"}\n'.encode()[:-lost])
    for resume_step, kept in ((2, [1]), (1, [1])):  # also if the checkpoint of step 2 stands
        log_steps(path, [3], resume_step=resume_step)
        assert steps_in(path) == [*kept, 3, 3]


def test_starting_over_keeps_earlier_files_under_numbers(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for first in (10, 20, 30):
        log_steps(path, [first])
    assert [steps_in(tmp_path / f"metrics{number}.jsonl")[0] for number in (".1", ".2", "")] == [10, 20, 30]


def test_values_keep_their_precision_and_stand_in_one_line_at_once(tmp_path):
    log = StepLog(tmp_path / "log.jsonl", resume_step=0)
    log.append([{"step": np.int64(3), "x": np.float64(0.1), "many": np.arange(2), "text": "a\r\nb\u2028é"}])
    text = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    log.close()
    assert text.count("\n") == 1 and log.last_step == 3
    assert json.loads(text) == {"step": 3, "x": 0.1, "many": [0, 1], "text": "a\r\nb\u2028é"}
