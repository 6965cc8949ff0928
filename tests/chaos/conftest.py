"""What the tests of chaos share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.provider import Provider


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider of the test's own, which it may leave hanging."""
    with Provider(record=False) as running:
        yield running
