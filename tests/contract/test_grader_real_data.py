"""The grader on the golds of the public evaluation sets, from the folder that PREPO_DATA_DIR names."""

import os
from pathlib import Path

import pytest

from benchmarks.grader import FILES, Gold, grade, read_golds
from benchmarks.near_misses import bare, near_misses, same_answers

NUM_GOLDS = {"aime24": 30, "aime25": 30, "amc23": 40, "math500": 500, "olympiadbench": 674, "gsm8k": 1319, "e3": 1287}
# The data give this row a tolerance of 0.1.
EXCEPTIONS = {("olympiadbench", "2592", "4.3")}
EVERY = {"math500": 3, "olympiadbench": 4, "gsm8k": 4, "e3": 8}  # every n-th gold's near misses; all: the benchmark


@pytest.fixture(params=FILES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def golds(name: str) -> list[Gold]:
    data_dir = os.environ.get("PREPO_DATA_DIR")
    if not data_dir:
        pytest.skip("PREPO_DATA_DIR IS NOT SET: the grader was NOT tested on real golds; set it to the data's folder")
    return read_golds(Path(data_dir), name)


def test_every_gold_is_right_against_itself(name: str, golds: list[Gold]) -> None:
    assert len(golds) == NUM_GOLDS[name]
    assert [gold.where for gold in golds if grade(gold, bare(gold.text))["score"] != 1.0] == []


def test_other_ways_to_write_a_gold_are_right(name: str, golds: list[Gold]) -> None:
    refused = [
        (gold.where, gold.text, rule, answer)
        for gold in golds[:: EVERY.get(name, 1)]
        for rule, answer in same_answers(gold.text, is_list=bool(gold.extra_info.get("is_multiple_answer")))
        if grade(gold, answer)["score"] != 1.0
    ]
    assert refused == []


def test_near_misses_are_wrong(name: str, golds: list[Gold]) -> None:
    num_misses, accepted = 0, []
    for gold in golds[:: EVERY.get(name, 1)]:
        is_list, unit = bool(gold.extra_info.get("is_multiple_answer")), gold.extra_info.get("unit")
        for rule, answer in near_misses(gold.text, is_list=is_list, unit=unit):
            num_misses += 1
            if grade(gold, answer)["score"] != 0.0 and (name, gold.where, answer) not in EXCEPTIONS:
                accepted.append((gold.where, gold.text, rule, answer))
    assert accepted == []
    assert num_misses > 100
