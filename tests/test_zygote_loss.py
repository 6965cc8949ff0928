"""A zygote that dies costs the time of one import, and no answer of a call that may be repeated."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

import dspex
from tests.processes import until
from tests.provider import Provider, delayed, echo


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        running.reply = lambda _: delayed(0.2, echo())
        yield running


def zygotes() -> list[int]:
    """The pids of this process's zygotes."""
    found = []
    for child in psutil.Process().children():
        try:
            if "dspex.worker.zygote" in child.cmdline():
                found.append(child.pid)
        except psutil.Error:
            continue
    return found


def test_calls_wait_for_the_next_zygote(provider: Provider) -> None:
    """If this failed, the loss of one process would fail every call of the service."""
    events: list[dspex.Event] = []
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=4)}) as runtime:
        runtime.on(dspex.Event, events.append)
        with ThreadPoolExecutor(16) as executor:
            asked = [executor.submit(runtime.adapter().generate, f"q{n}") for n in range(16)]
            until(lambda: provider.in_flight == 16)
            (zygote,) = zygotes()
            os.kill(zygote, signal.SIGKILL)
            assert [call.result(30).response for call in asked] == [f"q{n}" for n in range(16)]
        until(lambda: [w.state for w in runtime.stats().pools["general"].workers] == ["ready"] * 4, 30)
        assert runtime.stats().pools["general"].counters == {"ok": 16}
        assert len(zygotes()) == 1
    lost = [event for event in events if isinstance(event, dspex.ZygoteLost)]
    assert [event.pid for event in lost] == [zygote]
    assert "SIGKILL" in lost[0].cause or "-9" in lost[0].cause
    assert not [event for event in events if isinstance(event, dspex.PoolFailed)]


def test_it_may_die_again_and_again(provider: Provider) -> None:
    """If this failed, the second loss would be taken for a pool that cannot start."""
    lm = dspex.LM("openai/x", base_url=provider.base_url)
    with dspex.Runtime(lm, pools={"general": dspex.PoolOptions(workers=2)}) as runtime:
        for number in range(3):
            for zygote in zygotes():
                os.kill(zygote, signal.SIGKILL)
            assert runtime.adapter().generate(f"q{number}").response == f"q{number}"
        assert runtime.stats().pools["general"].unhealthy is None
