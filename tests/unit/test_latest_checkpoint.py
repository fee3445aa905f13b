"""Which checkpoint a resume takes, also when the last write was cut off at the worst moment."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from recipe.prepo.errors import StateError
from recipe.prepo.run.checkpoint import LATEST_FILE, archive, is_complete, latest_checkpoint, save_state


def make_checkpoint(run_dir: Path, step: int) -> Path:
    folder = run_dir / f"global_step_{step}"
    save_state(folder, {"step": step})
    (folder / "actor").mkdir()
    (folder / "actor" / "model_world_size_1_rank_0.pt").write_bytes(b"weights")
    with zipfile.ZipFile(folder / "data.pt", "w") as file:  # what torch.save writes
        file.writestr("data.pkl", "state of the dataloader")
    return folder


def test_the_named_checkpoint_is_taken_even_where_a_newer_folder_stands(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) == latest_checkpoint(tmp_path / "missing") == 0
    make_checkpoint(tmp_path, 2)
    make_checkpoint(tmp_path, 4)
    (tmp_path / LATEST_FILE).write_text("2")
    assert latest_checkpoint(tmp_path, repair=True) == 2
    assert (tmp_path / LATEST_FILE).read_text() == "2"


@pytest.mark.parametrize("name", ["", "\0\0", "14"])
def test_a_torn_name_or_a_deleted_folder_means_the_newest_complete_checkpoint(tmp_path: Path, name: str) -> None:
    (make_checkpoint(tmp_path, 12) / "data.pt").write_bytes(b"PK\3\4 cut off")
    (tmp_path / LATEST_FILE).write_text(name)
    assert latest_checkpoint(tmp_path) == 0  # start over
    make_checkpoint(tmp_path, 2)
    make_checkpoint(tmp_path, 10)
    assert latest_checkpoint(tmp_path) == 10
    assert (tmp_path / LATEST_FILE).read_text() == name  # only a resume writes
    assert latest_checkpoint(tmp_path, repair=True) == 10
    assert (tmp_path / LATEST_FILE).read_text() == "10"  # verl reads it, too


def test_checkpoints_of_an_abandoned_course_are_archived(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("part", ["prepo_state.json", "data.pt", "actor/model_world_size_1_rank_0.pt"])
def test_a_named_checkpoint_without_a_part_is_refused_and_the_complete_ones_are_named(
    tmp_path: Path, part: str
) -> None:
    make_checkpoint(tmp_path, 2)
    folder = make_checkpoint(tmp_path, 4)
    (tmp_path / LATEST_FILE).write_text("4")
    assert is_complete(folder)
    (folder / part).unlink()
    with pytest.raises(StateError, match=r"global_step_4 lacks a part.*Complete checkpoints: steps 2\. .*resume_path"):
        latest_checkpoint(tmp_path)
