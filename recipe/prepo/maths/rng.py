"""One seeded generator for each purpose, whose state can be saved as plain JSON."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np


def make_generator(seed: int, purpose: str) -> np.random.Generator:
    """A generator that depends on the seed and on its purpose only, so purposes never share a stream.

    >>> bool(make_generator(0, "a").integers(100) == make_generator(0, "a").integers(100))
    True
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(purpose.encode())])))


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """State of a PCG64 generator as JSON-able values."""
    return dict(generator.bit_generator.state)


def set_generator_state(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Restore what :func:`generator_state` returned.

    Raises:
        ValueError, TypeError, KeyError: the state is not one of a PCG64 generator.
    """
    generator.bit_generator.state = state


def rollout_seed(seed: int, step: int, prompt_id: str, rollout: int, *, call: int = 0) -> int:
    """Sampling seed of one rollout: the same in a resumed run, different for every rollout. In [0, 2**31).

    ``call`` numbers the step's choices: a refill may roll out a prompt again.

    >>> rollout_seed(0, 1, "p", 0) == rollout_seed(0, 1, "p", 0) != rollout_seed(0, 1, "p", 1)
    True
    """
    words = [seed, step, zlib.crc32(prompt_id.encode()), rollout, call]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint32)[0] >> 1)
