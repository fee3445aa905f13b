"""One temperature for sampling, old and new log-probs of a rollout, also where a batch mixes temperatures.

verl 0.9.1 lays ``rollout.temperature`` over each batch that it hands to the actor. Its FSDP engine takes a column of
temperatures, one a row, where no scalar stands over it: each rollout carries the one that it was sampled at.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from transfer_queue import KVBatchMeta

from recipe.prepo.trainer import columns

METHODS = ("compute_log_prob", "compute_ref_log_prob", "update_actor")


def read_temperatures_by_row(worker_groups: Iterable[Any]) -> None:
    """Make the log-prob and update calls of these worker groups read each rollout's own temperature."""
    for group in {id(group): group for group in worker_groups}.values():
        for name in METHODS:
            if hasattr(group, name):
                setattr(group, name, _by_row(getattr(group, name)))


def _by_row(method: Callable[[KVBatchMeta], Any]) -> Callable[[KVBatchMeta], Any]:
    @functools.wraps(method)
    def with_row_temperatures(batch: KVBatchMeta) -> Any:
        columns.drop_batch_temperature(batch)
        return method(batch)

    return with_row_temperatures
