"""How long a worker may go on before it is replaced, and how large it can become."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Self

from dspex.settings import PoolOptions

# Each worker has a little less than what was asked for, so that not all are replaced at once.
_LEAST = 0.9
_TIMES_RSS = 3
_STACK = 8 * 1024 * 1024
_MORE_THREADS = 32


@dataclass(frozen=True, slots=True)
class Lifespan:
    """One worker's share of its pool's ``max_calls``, ``max_age`` and ``max_rss``; infinite without.

    Attributes:
        calls: Calls.
        seconds: Seconds since its fork.
        rss: Bytes of resident memory.
    """

    calls: float
    seconds: float
    rss: float

    @classmethod
    def drawn(cls, options: PoolOptions) -> Self:
        """That of a new worker."""
        part = random.uniform(_LEAST, 1.0)
        limits = (options.max_calls, options.max_age, options.max_rss)
        calls, seconds, rss = (math.inf if limit is None else limit * part for limit in limits)
        return cls(math.ceil(calls) if calls < math.inf else calls, seconds, rss)


def most_data(max_rss: int | None, slots: int) -> int | None:
    """Bytes of data that the kernel lets a worker have: far above what gets it killed from here.

    That is for the allocation that is too large in one go. Data is all memory that may be written to,
    touched or not, and so are the stacks of threads: a worker has two for each slot, and some more.

    Args:
        max_rss: The option; None is no limit.
        slots: Calls that it runs at once.
    """
    return None if max_rss is None else _TIMES_RSS * max_rss + (2 * slots + _MORE_THREADS) * _STACK
