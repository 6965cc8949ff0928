"""The server: clients that leave."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.http_scene import Scene, serving
from tests.processes import until
from tests.provider import echo, hanging, paced

BODY = {"prompt": "hi", "signature": "question -> answer"}


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with serving() as scene:
        yield scene


def test_a_client_that_leaves_stops_its_call(scene: Scene) -> None:
    """If this failed, the model would work, and be paid, for nobody."""
    scene.provider.reply = lambda _: hanging()
    with pytest.raises(httpx.ReadTimeout):
        scene.client.post("/v1/generate", json=BODY, timeout=httpx.Timeout(60, read=0.5))
    until(lambda: scene.provider.disconnects == 1)
    until(lambda: scene.runtime.stats().pools["general"].unfinished == 0)
    scene.provider.reply = lambda _: echo()
    assert scene.client.post("/v1/generate", json=BODY).status_code == 200


def test_a_reader_that_leaves_stops_its_stream(scene: Scene) -> None:
    """If this failed, a browser tab that was closed would go on costing money."""
    scene.streaming.reply = lambda _: paced(echo(), cut=1, pause=0.1)
    with scene.client.stream("POST", "/v1/stream", json=BODY | {"lm": "pieces"}) as answer:
        for line in answer.iter_lines():
            if line == "event: delta":
                break
    until(lambda: scene.streaming.disconnects == 1)
    until(lambda: scene.runtime.stats().pools["general"].unfinished == 0)
