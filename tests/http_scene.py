"""A server in this process, on a port of its own, for tests that ask it over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import httpx

import dspex
from dspex.server.app import create_app
from dspex.server.serving import Server
from tests.processes import until
from tests.provider import Provider
from tests.streaming_provider import StreamingProvider


class Scene:
    """A server that runs.

    Attributes:
        provider: Whom its model's requests go to.
        streaming: Whom those of the LM ``pieces`` go to.
        client: Asks it.
        runtime: Runs its calls.
        app: What it serves.
    """

    def __init__(
        self,
        provider: Provider,
        streaming: StreamingProvider,
        client: httpx.Client,
        runtime: dspex.Runtime,
        app: Any,
    ) -> None:
        self.provider = provider
        self.streaming = streaming
        self.client = client
        self.runtime = runtime
        self.app = app

    def generate(self, **body: Any) -> httpx.Response:
        """One call."""
        return self.client.post(
            "/v1/generate", json={"prompt": "hi", "signature": "question -> answer"} | body
        )


@contextlib.contextmanager
def serving(**options: Any) -> Iterator[Scene]:
    """Serve until the block ends.

    Args:
        **options: Of ``create_app``; ``settings`` are the runtime's.
    """
    settings = options.pop("settings", None) or dspex.Settings(file=False)
    with Provider() as provider, StreamingProvider() as streaming:
        lm = dspex.LM("openai/model", api_key="sk-secret", base_url=provider.base_url, retry=dspex.Retry(1))
        pieces = dspex.LM("openai/pieces", api_key="k", base_url=streaming.base_url)
        runtime = dspex.Runtime(
            lm, lms={"pieces": pieces}, pools={"general": {"workers": 1}}, settings=settings
        )
        app = create_app(runtime, **options)
        server = Server(app, "127.0.0.1", 0, 5)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
        thread.start()
        try:
            until(lambda: server.started or not thread.is_alive(), 60)
            port = server.servers[0].sockets[0].getsockname()[1]
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                yield Scene(provider, streaming, client, runtime, app)
        finally:
            server.should_exit = True
            thread.join()
