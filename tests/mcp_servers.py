"""A real MCP server with some tools: ``python -m tests.mcp_servers [PORT]``, by HTTP or on standard input."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Image
from pydantic import BaseModel

server = MCPServer("tests", log_level="WARNING")


class Place(BaseModel):
    """Where something is."""

    city: str
    zip: int | None = None


@server.tool()
def add(a: int, b: int = 2) -> int:
    """The sum of two numbers."""
    return a + b


@server.tool()
def where(place: Place) -> str:
    """A place in words."""
    return f"in {place.city}"


@server.tool()
def variable(name: str) -> str:
    """A variable of the server's environment."""
    return os.environ.get(name, "unset")


@server.tool()
def pid() -> str:
    """The server's process."""
    return str(os.getpid())


@server.tool()
def broken() -> str:
    """Fail."""
    raise LookupError("nothing here")


@server.tool()
def dies() -> str:
    """End the server."""
    os._exit(5)


@server.tool()
def starts() -> str:
    """Start a process that outlives a polite server."""
    return str(subprocess.Popen(["sleep", "600"]).pid)


@server.tool()
async def slow(seconds: float) -> str:
    """Take a while."""
    await asyncio.sleep(seconds)
    return "slept"


@server.tool()
def picture() -> Image:
    """No text."""
    return Image(data=b"\x89PNG", format="png")


@server.tool()
def header(name: str, ctx: Context[Any, Any]) -> str:
    """A header of the request, where there are any."""
    request = ctx.request_context.request
    return "none" if request is None else str(request.headers.get(name))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run("stdio")
