"""A runtime in which programs of a user's own are allowed, for the tests of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import dspex
from tests.provider import Provider, echo

ALLOWED = (
    "tests.programs",
    "tests.bad_programs",
    "tests.commands",
    "tests.typed_programs",
    "tests.learners",
)


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Provider, dspex.Runtime]]:
    with (
        Provider() as provider,
        dspex.Runtime(
            lm=dspex.LM("openai/x", base_url=provider.base_url, retry=dspex.Retry(attempts=1)),
            pools={"general": dspex.PoolOptions(workers=1, grace=0.3)},
            settings=dspex.Settings(allow_modules=ALLOWED),
        ) as runtime,
    ):
        yield provider, runtime


@pytest.fixture
def provider(serving: tuple[Provider, dspex.Runtime]) -> Provider:
    serving[0].reply = lambda _: echo()
    serving[0].requests.clear()
    return serving[0]


@pytest.fixture
def runtime(serving: tuple[Provider, dspex.Runtime], provider: Provider) -> dspex.Runtime:
    return serving[1]


def ask(runtime: dspex.Runtime, name: str, prompt: str | None = None, **options: Any) -> dspex.Response:
    return runtime.adapter().generate(prompt, module=f"tests.programs:{name}", **options)
