"""The embedded model itself: it answers, and is gone when its program is."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib.util
import json
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dspex.errors import LMUnavailable
from dspex.lm.local import Endpoint, LocalModel
from dspex.lm.weights import find
from dspex.process.group import children
from tests.local_models import eventually, is_gone, own_world

__all__ = ["own_world"]  # a fixture, which each test of this file has

pytestmark = pytest.mark.anyio
needs_model = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="the extra `local` is not installed"
)


def complete(endpoint: Endpoint, key: str | None) -> tuple[int, Any]:
    """Ask for one short chat completion; status and decoded body."""
    address = endpoint.base_url.removeprefix("http://").removesuffix("/v1")
    body = {
        "model": endpoint.model,
        "temperature": 0,
        "max_tokens": 16,
        "messages": [{"role": "user", "content": "What is the capital of France? One word."}],
    }
    with contextlib.closing(http.client.HTTPConnection(address, timeout=60)) as connection:
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(body),
            {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})},
        )
        response = connection.getresponse()
        return response.status, json.loads(response.read())


@pytest.fixture
async def real() -> AsyncIterator[LocalModel]:
    model = LocalModel(None, slots=2)
    yield model
    await model.aclose()


@needs_model
@pytest.mark.slow
async def test_the_model_answers_who_has_the_key(real: LocalModel) -> None:
    """The embedded model would not answer, or would answer every user of the machine."""
    endpoint = await real.endpoint()
    status, body = await asyncio.to_thread(complete, endpoint, endpoint.api_key)
    assert status == 200
    assert "Paris" in body["choices"][0]["message"]["content"]
    for key in (None, "wrong"):
        status, _ = await asyncio.to_thread(complete, endpoint, key)
        assert status == 401


@needs_model
@pytest.mark.slow
async def test_a_killed_model_answers_again(real: LocalModel) -> None:
    """Once out of memory, the model would be gone until the program is started again."""
    first, pid = await real.endpoint(), real.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: real.pid != pid)
    second = await real.endpoint()
    assert second != first
    status, _ = await asyncio.to_thread(complete, second, second.api_key)
    assert status == 200


@needs_model
@pytest.mark.slow
async def test_closing_leaves_no_process(real: LocalModel) -> None:
    """Each program that used the model would leave 1.3 GB behind."""
    await real.endpoint()
    pid = real.pid
    assert pid is not None
    await real.aclose()
    assert is_gone(pid)
    assert pid not in children()


@needs_model
@pytest.mark.slow
async def test_the_model_dies_with_its_parent() -> None:
    """A program that was killed would leave 1.3 GB behind."""
    script = """
        import asyncio
        from dspex.lm.local import LocalModel
        async def main():
            model = LocalModel(None, slots=1)
            await model.endpoint()
            print(model.pid, flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(script), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    server = int(await parent.stdout.readline())
    assert not is_gone(server)
    parent.kill()
    await parent.wait()
    await eventually(lambda: is_gone(server), seconds=1.0)


@needs_model
@pytest.mark.slow
async def test_a_damaged_file_is_explained(tmp_path: Path) -> None:
    """A download that broke off would be reported as an unknown failure."""
    whole = await asyncio.to_thread(find)
    broken = tmp_path / "broken.gguf"
    with whole.open("rb") as source:
        broken.write_bytes(source.read(50_000_000))
    model = LocalModel(str(broken), slots=1)
    with pytest.raises(LMUnavailable, match="corrupted or incomplete") as caught:
        await model.endpoint()
    assert not caught.value.retryable
    await model.aclose()
