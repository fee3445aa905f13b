"""Errors meant for users. Each says what is wrong, why it cannot work, and how to fix it."""

from __future__ import annotations

EXIT_FAULT = 1
"""Exit status after a fault (a process died, a disk is full): the same command resumes the run."""

EXIT_BAD_INPUT = 2
"""Exit status of a command that cannot work with its arguments."""

EXIT_STOPPED = 75
"""Exit status (EX_TEMPFAIL of sysexits.h) of a run that was asked to stop: the same command resumes it."""


class PrepoError(Exception):
    """Base class of every error that this recipe raises on purpose."""

    exit_status = EXIT_BAD_INPUT


class ConfigError(PrepoError, ValueError):
    """The configuration cannot work. The message names the override that fixes it."""


class DataError(PrepoError, ValueError):
    """A data file breaks the row contract. The message names the file, the row and the field."""


class StateError(PrepoError, ValueError):
    """Saved state is damaged, or belongs to another run, rule, data set or version."""


class RewardError(PrepoError, ValueError):
    """The reward function failed or returned no reward. The message names it, the prompt, the cause and the line."""


class NumericsError(PrepoError, ValueError):
    """A log-probability, entropy or weight is not finite. The message names the prompt."""


class FaultError(PrepoError, RuntimeError):
    """Something that the run needs died or ran out. The message names it and says how to go on."""

    exit_status = EXIT_FAULT
