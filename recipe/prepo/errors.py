"""Errors meant for users: every one says what is wrong, why it cannot work, and what mends it."""

from __future__ import annotations

EXIT_BAD_INPUT = 2
"""Exit status of a command that stops with one of these errors."""


class PrepoError(Exception):
    """Base of every error that this recipe raises on purpose."""


class ConfigError(PrepoError, ValueError):
    """The configuration cannot work; the message names the override that mends it."""


class DataError(PrepoError, ValueError):
    """A data file breaks the row contract; the message names the file, the row and the field."""


class StateError(PrepoError, ValueError):
    """Saved state is damaged, or belongs to another run, rule, data set or version."""


class NumericsError(PrepoError, ValueError):
    """A log-probability, entropy or weight is not finite; the message names the prompt."""
