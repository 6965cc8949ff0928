"""A program and its tests, which need no key and no network: ``pytest examples/testing``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import dspex
from dspex.testing import Failure, InProcessRuntime, Reply, ScriptedLM

# The program; in a project of its own it would be in a module that the tests import.

SIGNATURE = "message -> team: Literal['billing', 'delivery'], urgent: bool"


def route(adapter: dspex.DSPyAdapter, message: str) -> str:
    """Which team gets a customer's message: people sort it when no model does in time."""
    try:
        decided = adapter.generate(message, signature=SIGNATURE, timeout=0.5)
    except (dspex.LMError, dspex.PythonTimeout):
        return "people"
    return f"{decided.team}, at once" if decided.urgent else str(decided.team)


# Its tests.


@pytest.fixture(scope="session")
def runtime() -> Iterator[dspex.Runtime]:
    """One for all tests: the first use of DSPy takes a second, each call milliseconds."""
    with InProcessRuntime() as opened:
        yield opened


def test_a_message_goes_to_its_team(runtime: dspex.Runtime) -> None:
    """If this failed, a customer's message would end up with the wrong people."""
    script = [{"team": "billing", "urgent": False}, {"team": "delivery", "urgent": True}]
    with ScriptedLM(script) as lm:
        adapter = runtime.adapter(lm=lm)
        assert route(adapter, "You charged me twice.") == "billing"
        assert route(adapter, "The kettle is leaking on my floor!") == "delivery, at once"
        lm.assert_exhausted()
    assert [request.inputs["message"] for request in lm.requests] == [
        "You charged me twice.",
        "The kettle is leaking on my floor!",
    ]


@pytest.mark.parametrize(
    "script",
    [
        [Failure(401)],
        [Failure(503)] * 3,
        [Reply({"team": "billing", "urgent": True}, delay=30)],
    ],
    ids=["wrong key", "provider down", "too slow"],
)
def test_people_step_in(runtime: dspex.Runtime, script: list[Failure | Reply]) -> None:
    """If this failed, a provider's bad day would lose messages."""
    with ScriptedLM(script) as lm:
        assert route(runtime.adapter(lm=lm), "Where is my kettle?") == "people"
        lm.assert_exhausted()


def test_a_refusal_that_passes_is_not_noticed(runtime: dspex.Runtime) -> None:
    """If this failed, each rate limit would cost somebody's time."""
    with ScriptedLM([Failure(429, retry_after=0.01), {"team": "billing", "urgent": False}]) as lm:
        assert route(runtime.adapter(lm=lm), "My invoice is missing.") == "billing"


def test_on_worker_processes() -> None:
    """If this failed, what the other tests show would not hold in production's own arrangement."""
    pools = {"general": dspex.PoolOptions(workers=1)}
    with ScriptedLM(["billing"], adapter="chat") as lm, dspex.Runtime(lm, pools=pools) as runtime:
        assert runtime.adapter().generate("My invoice?", signature="message -> team").team == "billing"
