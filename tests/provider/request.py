"""One request as the provider received it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.provider.dialects import Dialect, Prompt


@dataclass(eq=False)
class Request:
    """A request that reached the script.

    Attributes:
        path: The path of the request line.
        query: What it has after the ``?``.
        headers: Names in lower case; of a repeated header the last.
        body: The JSON object that was posted.
        at: When it had arrived in full, on ``time.monotonic``'s clock.
        number: Its place among all requests of this provider, from 1.
        model: The model that it asks for.
        dialect: The provider that it is written for.
        closed: Whether the client went away before the reply was sent.
    """

    path: str
    query: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float
    number: int
    model: str
    dialect: Dialect = field(repr=False)
    closed: bool = False

    @cached_property
    def prompt(self) -> Prompt:
        """Its text, with the provider's own way of writing it removed."""
        return self.dialect.prompt(self.body)
