"""Questions about processes that tests ask."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie is dead."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def descendants(pid: int) -> list[int]:
    """All that a process has started, directly or not, zombies and the tests' own database left out."""
    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child.pid for child in found if alive(child.pid) and not is_database(child)]


def is_database(process: psutil.Process) -> bool:
    """Whether it is one of the server in which stores are tested."""
    try:
        return "postgres" in process.name()
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for something to become true; fail when it does not within a time far above what it takes."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def lines(path: Path) -> list[str]:
    """The lines that commands have written to a file so far."""
    return path.read_text().splitlines() if path.exists() else []
