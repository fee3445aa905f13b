"""Errors meant for users. Each says what is wrong, why it cannot work, and how to fix it."""

from __future__ import annotations

import re
import sysconfig

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


_PATHS = sysconfig.get_paths()
_NOT_THE_USERS = (_PATHS["stdlib"], _PATHS["purelib"], _PATHS["platlib"], __file__.removesuffix("errors.py"))
_DIRECT_CAUSE = "The above exception was the direct cause"


def root_cause(trace: str) -> str:
    r'''The error behind a traceback, perhaps of another process, as one line: type, message, line of the user's code.

    Args:
        trace: the text of a traceback, of Ray's kind or Python's. Empty: "".

    >>> root_cause("""Traceback:\n  File "/me/reward.py", line 3, in grade\nKeyError: 'gold'\n""")
    "KeyError: 'gold' (/me/reward.py:3)"
    '''
    trace = re.sub(r"\x1b\[[0-9;]*m", "", trace).partition(_DIRECT_CAUSE)[0]
    frames = list(re.finditer(r'^ *File "([^"]+)", line (\d+).*$', trace, re.MULTILINE))
    if not frames:
        return ""
    ends = [line for line in trace[frames[-1].end() :].splitlines() if re.match(r"[A-Za-z_][\w.]*(: |$)", line)]
    kind, _, message = (ends or [""])[0].partition(": ")
    text = ": ".join(filter(None, (kind.rpartition(".")[2], message)))
    users = [frame for frame in frames if not frame[1].startswith(("<", *_NOT_THE_USERS))]
    return f"{text} ({users[-1][1]}:{users[-1][2]})" if users else text
