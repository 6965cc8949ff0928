"""A server in this process, on a port of its own, for tests that ask it over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx

import dspex
from dspex.server.app import create_app
from dspex.server.serving import Server
from tests.processes import until
from tests.provider import Provider, echo, paced


class Scene:
    """A server that runs.

    Attributes:
        provider: Whom its model's requests go to.
        streaming: Whom those of the LM ``pieces`` go to; it answers in pieces of five characters.
        client: Asks it.
        runtime: Runs its calls.
        app: What it serves.
    """

    def __init__(
        self,
        provider: Provider,
        streaming: Provider,
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


def events(answer: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream that has ended: names and data."""
    found = []
    for block in answer.text.split("\n\n"):
        if block.startswith("event: "):
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


@contextlib.contextmanager
def serving(**options: Any) -> Iterator[Scene]:
    """Serve until the block ends.

    Args:
        **options: Of ``create_app``; ``settings`` are the runtime's, ``limits`` those of its LM.
    """
    settings = options.pop("settings", None) or dspex.Settings(file=False)
    limits = options.pop("limits", None)
    pieces_of_five = paced(echo(), cut=5)
    with Provider() as provider, Provider(lambda _: pieces_of_five) as streaming:
        lm = dspex.LM(
            "openai/model",
            api_key="sk-secret",
            base_url=provider.base_url,
            retry=dspex.Retry(1),
            limits=limits,
        )
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
