"""Who is told of what becomes of a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dspex.pool.work import Work
from dspex.types import LMRequest
from dspex.wire.blobs import Blob
from dspex.wire.messages import Fault, Result

if TYPE_CHECKING:
    from dspex.pool.handle import WorkerHandle


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told of what becomes of a worker; each is given the worker first.

    Attributes:
        ready: It takes calls.
        answered: A call has its answer; the call is None when nobody knows of it.
        draining: It takes no more calls.
        dead: It is dead; its exit status, negative for a signal, None when unknown.
        writable: Its channel takes calls again.
        started: It was given a call.
        requested: An LM request of a call of its has ended.
        strayed: It wanted a function called, or told something, for a call that has ended, or what one gave
            came too late.
    """

    ready: Callable[[WorkerHandle], None]
    answered: Callable[[WorkerHandle, Work | None, Result | Fault, Blob | None], None]
    draining: Callable[[WorkerHandle], None]
    dead: Callable[[WorkerHandle, int | None], None]
    writable: Callable[[], None]
    started: Callable[[WorkerHandle, Work], None]
    requested: Callable[[LMRequest], None]
    strayed: Callable[[], None]
