"""What all tests share."""

from __future__ import annotations

import pytest

from dspex.process.limits import cores
from tests.stores import database, postgresql, store, where

__all__ = ["database", "postgresql", "store", "where"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, as dspex does."""
    return "asyncio"


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests wait for processes half of their time."""
    return cores() + 1
