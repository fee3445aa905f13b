"""How many samples each validation set gets: verl 0.9.1 has one number for all of them (``val_kwargs.n``).

verl's ``_validate`` and its agent loop both read a column of the rows when there is one, so that no method of verl is
overridden: the column is added to the validation data after verl has loaded it. verl names its metrics after each set's
own number (``val-core/<data_source>/acc/mean@<n>``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from recipe.prepo.adapters.fields import ROLLOUT_N
from recipe.prepo.errors import ConfigError


def check_val_samples(samples: Mapping[str, int], data_sources: Iterable[str]) -> None:
    """Refuse a set that is not in the validation data.

    Args:
        samples: ``prepo.val_samples``: data_source -> samples of each of its prompts.
        data_sources: of all validation rows.

    Raises:
        ConfigError: names the sets that there are.
    """
    known = sorted(set(data_sources))
    unknown = sorted(set(samples) - set(known))
    if unknown:
        raise ConfigError(
            f"prepo.val_samples names {', '.join(unknown)}, but data.val_files hold the data sources"
            f" {', '.join(known)}. Correct prepo.val_samples, for instance prepo.val_samples={{{known[0]}: 16}}."
        )


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
            f" column, or leave prepo.val_samples empty."
        )
    data_sources = list(table["data_source"])
    check_val_samples(samples, data_sources)
    dataset.dataframe = table.add_column(ROLLOUT_N, [int(samples.get(source, default)) for source in data_sources])
