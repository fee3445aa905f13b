"""How many samples each validation set gets: verl 0.9.1 has one number for all of them (``val_kwargs.n``).

verl's ``_validate`` and its agent loop both read a column of the rows when there is one, so that no method of verl is
overridden: the column is added to the validation data after verl has loaded it. verl names its metrics after each set's
own number (``val-core/<data_source>/acc/mean@<n>``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recipe.prepo.config import check_val_samples
from recipe.prepo.errors import ConfigError
from recipe.prepo.trainer.columns import ROLLOUT_N


def set_val_samples(dataset: Any, samples: Mapping[str, int], *, default: int) -> None:
    """Give each row of verl's validation dataset its number of samples; without ``samples`` it stays as it is.

    Args:
        dataset: verl's ``RLHFDataset``, or another with a Hugging Face table as its ``dataframe``.
        samples: data_source -> samples of each of its prompts.
        default: of the sets that are not named (``actor_rollout_ref.rollout.val_kwargs.n``).

    Raises:
        ConfigError: a named set is not in the data, or the data have a ``__rollout_n__`` column of their own.
    """
    if not samples:
        return
    table = dataset.dataframe
    if ROLLOUT_N in table.column_names:
        raise ConfigError(
            f"data.val_files have a column {ROLLOUT_N} of their own, and prepo.val_samples would replace it. Drop the"
            f" column, or set prepo.val_samples=null."
        )
    data_sources = list(table["data_source"])
    check_val_samples(samples, data_sources)
    dataset.dataframe = table.add_column(ROLLOUT_N, [int(samples.get(source, default)) for source in data_sources])
