"""A real runtime whose agents act by a script, for the tests of agents."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import dspex
from tests.agents import Act, react
from tests.provider import Provider

SIGNATURE = "question -> answer"
ONCE = dspex.Retry(attempts=1)


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Provider, dspex.Runtime]]:
    with (
        Provider() as provider,
        dspex.Runtime(
            lm=dspex.LM("openai/x", base_url=provider.base_url, retry=ONCE),
            pools={"general": dspex.PoolOptions(workers=1, slots=256, grace=5.0)},
            settings=dspex.Settings(allow_modules=("tests.agent_tools",), file=False, max_payload=2**23),
        ) as runtime,
    ):
        yield provider, runtime


@pytest.fixture
def provider(serving: tuple[Provider, dspex.Runtime]) -> Provider:
    serving[0].requests.clear()
    return serving[0]


@pytest.fixture
def runtime(serving: tuple[Provider, dspex.Runtime]) -> dspex.Runtime:
    return serving[1]


Asks = Callable[..., dspex.Response]


@pytest.fixture
def ask(runtime: dspex.Runtime, provider: Provider) -> Asks:
    """Run an agent that makes these calls."""

    def run(acts: list[Act], tools: list[Any], **more: Any) -> dspex.Response:
        provider.reply = react(acts)
        module = more.pop("module", "ReAct")
        adapter = runtime.adapter(timeout=60.0)
        return adapter.generate("q", module=module, signature=SIGNATURE, tools=tools, **more)

    return run


def statuses(response: dspex.Response) -> list[tuple[str, str]]:
    return [(called.tool, called.status) for called in response.tool_calls]


class Desk:
    """Tools of all kinds."""

    def __init__(self) -> None:
        self.threads: list[str] = []

    def method(self, a: int) -> int:
        self.threads.append(threading.current_thread().name)
        return a + 1

    def __call__(self, a: int) -> dict[str, int]:
        return {"called with": a}

    async def later(self, a: int) -> list[int]:
        await asyncio.sleep(0)
        self.threads.append(threading.current_thread().name)
        return [a]
