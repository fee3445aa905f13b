"""What ships in assets/ is what its commands make."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.mini_math import prepare

ASSETS = Path(__file__).resolve().parents[2] / "assets"


@pytest.mark.parametrize("split", ["train", "test"])
def test_shipped_problems_are_made_again_to_the_byte(tmp_path: Path, split: str) -> None:
    prepare(tmp_path, num_train=6000, num_test=300, seed=0)
    name = f"mini_math_{split}.parquet"
    assert (tmp_path / name).read_bytes() == (ASSETS / "mini-math" / name).read_bytes()


def test_all_of_it_is_small() -> None:
    assert sum(file.stat().st_size for file in ASSETS.rglob("*") if file.is_file()) <= 5 * 2**20
