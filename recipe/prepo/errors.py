"""Errors meant for users: every one says what is wrong, why it cannot work, and what mends it."""

from __future__ import annotations

EXIT_FAULT = 1
"""Exit status of a run that a fault ended (a process died, a disk is full): the same command resumes it."""

EXIT_BAD_INPUT = 2
"""Exit status of a command that cannot work as it was given."""

EXIT_STOPPED = 75
"""Exit status (EX_TEMPFAIL of sysexits.h) of a run that stopped because it was asked to: the same command goes on."""


class PrepoError(Exception):
    """Base of every error that this recipe raises on purpose."""

    exit_status = EXIT_BAD_INPUT


class ConfigError(PrepoError, ValueError):
    """The configuration cannot work; the message names the override that mends it."""


class DataError(PrepoError, ValueError):
    """A data file breaks the row contract; the message names the file, the row and the field."""


class StateError(PrepoError, ValueError):
    """Saved state is damaged, or belongs to another run, rule, data set or version."""


class NumericsError(PrepoError, ValueError):
    """A log-probability, entropy or weight is not finite; the message names the prompt."""


class FaultError(PrepoError, RuntimeError):
    """Something that the run needs died or ran out; the message names it, and how to go on."""

    exit_status = EXIT_FAULT
