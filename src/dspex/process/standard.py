"""Standard descriptors that this process was started without."""

from __future__ import annotations

import os


def fill() -> None:
    """Open ``/dev/null`` on those of 0, 1 and 2 that are closed.

    Else the next pipe or socket gets such a number, where libuv aborts the process and a child's own
    standard descriptors take its place.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
