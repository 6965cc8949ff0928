"""What is said of an LM request that a budget or a breaker does not let through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import dspex
from tests.provider import Provider, Reply, echo, fault
from tests.tracing import Kept, failed, kept


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as opened:
        yield opened


@pytest.fixture(scope="module")
def runtime(provider: Provider) -> Iterator[dspex.Runtime]:
    with dspex.Runtime(pools={"general": dspex.PoolOptions(workers=1)}) as opened:
        yield opened


@pytest.fixture
def spans() -> Iterator[Kept]:
    with kept() as found:
        yield found


def lm_at(provider: Provider, **options: Any) -> dspex.LM:
    return dspex.LM("openai/x", api_key="k", base_url=provider.base_url, **options)


def test_its_span_has_the_code_of_why(runtime: dspex.Runtime, provider: Provider, spans: Kept) -> None:
    """If this failed, a trace would blame a provider that was never asked for a budget that is spent."""
    provider.reply = lambda _: echo()
    with pytest.raises(dspex.BudgetExceeded):
        runtime.adapter(lm=lm_at(provider)).generate("Why?", budget=dspex.Budget(tokens=1))
    assert {failed(span) for span in spans.all if failed(span)} == {"budget_exceeded"}


def test_an_attempt_that_is_refused_is_recorded_as_that(runtime: dspex.Runtime, provider: Provider) -> None:
    """If this failed, a budget that ended a request's retries would be counted as a provider's outage."""
    asked: list[int] = []

    def fails(_: Any) -> Reply:
        asked.append(1)
        return fault(500)

    provider.reply = fails
    lm = lm_at(
        provider, retry=dspex.Retry(attempts=5, wait=0.01), breaker=dspex.Breaker(failures=2, window=60.0)
    )
    with pytest.raises(dspex.LMCircuitOpen) as caught:
        runtime.adapter(lm=lm).generate("Why?")
    [request] = caught.value.details["requests"]
    assert (request["status"], request["retries"]) == ("lm_circuit_open", len(asked))
    assert len(asked) == 2
