"""Two hundred streams at once, of which fifty are left early."""

from __future__ import annotations

import asyncio
import gc

import pytest

import dspex
from tests.channels import until
from tests.provider import Provider, Reply, Request, fields, paced

pytestmark = [pytest.mark.chaos, pytest.mark.anyio]

_STREAMS, _LEFT, _PIECES = 200, 50, 60


def answer(number: int) -> str:
    return f"the answer to q{number}, " * _PIECES


def reply(request: Request) -> Reply:
    number = request.prompt.user.split("q")[1].split()[0]
    return paced(fields(response=answer(int(number))), cut=21, pause=0.02)


async def read(adapter: dspex.DSPyAdapter, number: int) -> str:
    return "".join([text async for text in adapter.astream(f"q{number}", timeout=100.0).text_stream()])


async def leave(adapter: dspex.DSPyAdapter, number: int) -> str | None:
    """Read a few pieces, and go in one of three ways."""
    match number % 3:
        case 0:
            async for event in adapter.astream(f"q{number}"):
                if isinstance(event, dspex.Delta):
                    return None
        case 1:
            async with adapter.astream(f"q{number}") as stream:
                async for _ in stream.text_stream():
                    break
        case _:
            begun = asyncio.Event()

            async def listen() -> None:
                async for _ in adapter.astream(f"q{number}").text_stream():
                    begun.set()

            task = asyncio.create_task(listen())
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    return None


async def test_streams_that_are_left_cost_nobody_anything() -> None:
    """If this failed, clients that disconnect would cost slots, or other customers their answers."""
    with Provider(reply) as provider:
        lm = dspex.LM("openai/x", base_url=provider.base_url)
        pools = {"general": dspex.PoolOptions(workers=2, slots=128)}
        async with dspex.Runtime(lm, pools=pools) as runtime:
            adapter = runtime.adapter()
            going = [
                leave(adapter, number) if number < _LEFT else read(adapter, number)
                for number in range(_STREAMS)
            ]
            found = await asyncio.gather(*going)
            gc.collect()
            await until(lambda: provider.disconnects == _LEFT)
            assert found[_LEFT:] == [answer(number).strip() for number in range(_LEFT, _STREAMS)]
            await until(lambda: not provider.in_flight)
            await until(lambda: not any(w.in_flight for w in runtime.stats().pools["general"].workers))
            assert runtime.stats().pools["general"].restarts == {}, "no worker had to be killed for it"
            again = await asyncio.gather(*(read(adapter, number) for number in range(256)))
            assert again == [answer(number).strip() for number in range(256)]
            assert provider.disconnects == _LEFT
