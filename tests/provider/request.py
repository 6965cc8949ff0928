"""One request as the provider received it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dspex.testing.chat import Prompt
    from dspex.testing.http import Post
    from tests.provider.dialects import Dialect


@dataclass(eq=False)
class Request:
    """A request that reached the script.

    Attributes:
        number: Its place among all requests of this provider, from 1.
        model: The model that it asks for.
        dialect: The provider that it is written for.
        post: How it arrived.
    """

    number: int
    model: str
    dialect: Dialect = field(repr=False)
    post: Post

    @property
    def path(self) -> str:
        """The path of the request line."""
        return self.post.path

    @property
    def query(self) -> str:
        """What the request line has after the ``?``."""
        return self.post.query

    @property
    def headers(self) -> dict[str, str]:
        """Names in lower case; of a repeated header the last."""
        return self.post.headers

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object that was posted."""
        return self.post.body

    @property
    def at(self) -> float:
        """When it had arrived in full, on ``time.monotonic``'s clock."""
        return self.post.at

    @property
    def closed(self) -> bool:
        """Whether the client went away before the reply was sent."""
        return self.post.closed

    @cached_property
    def prompt(self) -> Prompt:
        """Its text, with the provider's own way of writing it removed."""
        return self.dialect.prompt(self.body)
