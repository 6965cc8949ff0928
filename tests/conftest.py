"""What all tests share."""

from __future__ import annotations

import os
import sys

import pytest

from dspex.process.limits import cores
from tests.stores import database, postgresql, store, where

__all__ = ["database", "postgresql", "store", "where"]

# Tests start some thousand interpreters. Where bytecode is not kept, each of them compiles all of DSPy anew,
# which is more than half of the suite's time; installed packages are not compiled by uv either.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, as dspex does."""
    return "asyncio"


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests wait for processes half of their time."""
    return cores() + 1
