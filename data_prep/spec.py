"""What defines a data set: its source, and how one of its rows becomes a question and a gold answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recipe.prepo.errors import DataError


@dataclass(frozen=True)
class Problem:
    """One row as read.

    Attributes:
        question: the user's last message.
        gold: empty if the source has none.
        source_id: the source's own id, if any.
        before: chat messages before the question.
        is_chat: whether the source has chat messages, which get no instruction unless one is asked for.
        data_source: the row's own; None for the data set's name.
        id_is_whole: ``source_id`` is the prompt id itself, without the data set's name before it.
    """

    question: str
    gold: str
    source_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    before: Sequence[Mapping[str, str]] = ()
    is_chat: bool = False
    data_source: str | None = None
    id_is_whole: bool = False

    @property
    def text(self) -> str:
        """What tells one question from another."""
        return "\n".join([*(message["content"] for message in self.before), self.question])


class RowDropped(Exception):
    """A row that cannot become a problem: the reason, and a detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class DatasetSpec:
    """One data set.

    Attributes:
        name: on the command line; also verl's ``data_source`` and the prefix of prompt ids.
        hub_id: the usual public copy on the Hugging Face hub, the default of ``--source``.
        hub_config: its configuration there.
        keeps_ungradable: keep golds that the default reward cannot grade, and only say so.
        splits: our split -> its name on the hub, where some evaluation sets are called "train".
        to_problem: turns a source row into a problem; raises DataError if a field is missing.
    """

    name: str
    hub_id: str
    splits: Mapping[str, str]
    to_problem: Callable[[Mapping[str, Any]], Problem]
    hub_config: str | None = None
    keeps_ungradable: bool = False


def first_field(row: Mapping[str, Any], *names: str) -> Any:
    """Value of the first of ``names`` that is not null in the row.

    Raises:
        DataError: all are missing.

    >>> first_field({"Problem": "1+1?"}, "problem", "Problem")
    '1+1?'
    """
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise DataError(f"the row has no field {' or '.join(names)} (its fields: {', '.join(row)})")


def text_or_none(value: Any) -> str | None:
    """An id or label as text; None stays None."""
    return None if value is None else str(value)
