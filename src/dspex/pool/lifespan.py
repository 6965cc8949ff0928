"""How long a worker may go on before it is replaced."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Self

from dspex.settings import PoolOptions

# Each worker has a little less than what was asked for, so that not all are replaced at once.
_LEAST = 0.9


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
