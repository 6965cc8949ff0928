"""What a fork of this process must not share.

A caller may fork while a runtime is open (gunicorn's preload, uWSGI, ``multiprocessing``). The copy
would hold the same sockets, and with them keep workers alive or answer their messages. So whoever
owns a descriptor registers itself here, and in the child of any fork everything registered is closed.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Protocol


class Guarded(Protocol):
    """Something that lets go of its descriptors in a forked child, touching no event loop."""

    def close_after_fork(self) -> None: ...


_guarded: weakref.WeakSet[Guarded] = weakref.WeakSet()


def guard(owner: Guarded) -> None:
    """Have ``owner.close_after_fork()`` called in the child of every fork of this process."""
    _guarded.add(owner)


def close_descriptor(descriptor: int) -> None:
    """Close a descriptor that may be closed already."""
    if descriptor >= 0:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _close_all() -> None:
    for owner in list(_guarded):
        owner.close_after_fork()
    _guarded.clear()


os.register_at_fork(after_in_child=_close_all)
