"""One seeded generator for each purpose."""

from __future__ import annotations

import zlib

import numpy as np


def make_generator(seed: int, purpose: str) -> np.random.Generator:
    """A generator that depends only on the seed and the purpose, so that no two purposes share a stream.

    >>> bool(make_generator(0, "a").integers(100) == make_generator(0, "a").integers(100))
    True
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(purpose.encode())])))


def rollout_seed(seed: int, step: int, prompt_id: str, rollout: int, *, call: int = 0) -> int:
    """Sampling seed of one rollout, in [0, 2**31): different for every rollout, the same in a resumed run.

    ``call`` numbers the step's choices: a refill may roll out a prompt again.

    >>> rollout_seed(0, 1, "p", 0) == rollout_seed(0, 1, "p", 0) != rollout_seed(0, 1, "p", 1)
    True
    """
    words = [seed, step, zlib.crc32(prompt_id.encode()), rollout, call]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint32)[0] >> 1)
