"""No key is in the store, an export, an error or a log, wherever it was given."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

import dspex
from tests.provider import Provider, Reply, Request, echo, fault
from tests.stores import programs

CANARY = "canary-7b1f"
ENVIRONMENT = "DSPEX_TEST_CANARY"


@pytest.fixture(params=["file", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What ``store=`` takes: a store that can be read afterwards."""
    if request.param == "file":
        return str(tmp_path / "dspex.db")
    database: str = request.getfixturevalue("database")
    return database


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def lms(provider: Provider) -> dict[str, dspex.LM]:
    """LMs with a key in each place that can have one."""
    there = provider.base_url
    return {
        "value": dspex.LM("openai/x", base_url=there, api_key=f"{CANARY}-value"),
        "reference": dspex.LM("openai/x", base_url=there, api_key=f"env:{ENVIRONMENT}"),
        "callable": dspex.LM("openai/x", base_url=there, api_key=lambda: f"{CANARY}-callable"),
        "headers": dspex.LM("openai/x", base_url=there, extra_headers={"x-key": f"{CANARY}-header"}),
    }


def answered(reply: Reply, _: Request) -> Reply:
    """This, whatever is asked."""
    return reply


def stored(shared: str, folder: Path) -> bytes:
    """All bytes of a store, as they lie there."""
    if "://" not in shared:
        return b"".join(file.read_bytes() for file in sorted(folder.glob("dspex.db*")))
    found = programs()
    assert found is not None
    url = shared.replace("postgresql+asyncpg", "postgresql")
    dumped = subprocess.run(
        [found / "pg_dump", "--inserts", url], capture_output=True, check=True, timeout=60
    ).stdout
    return dumped + b"".join(
        bytes.fromhex(part.split(b"'")[0].decode()) for part in dumped.split(b"'\\x")[1:]
    )


def test_a_key_is_nowhere(
    shared: str,
    provider: Provider,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If this failed, whoever reads the database, an export or a log would have a customer's key."""
    monkeypatch.setenv(ENVIRONMENT, f"{CANARY}-environment")
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    pools = {"general": dspex.PoolOptions(workers=1)}
    with dspex.Runtime(store=shared, pools=pools) as runtime:
        adapter = runtime.adapter()
        for name, lm in lms(provider).items():
            session = adapter.session(f"s-{name}", lm=lm)
            program = session.create_program("question -> reply", lm=lm, name="p")
            calls: list[Callable[[], dspex.Response]] = [
                partial(session.chat, "hello"),
                partial(program, question="hello"),
                partial(session.chat, "hello", lm=lm),
                partial(adapter.execute_program, program.id, {"question": "hello"}, lm=lm),
            ]
            for reply in (echo(), fault(401)):
                provider.reply = partial(answered, reply)
                for call in calls:
                    try:
                        answer = call()
                    except dspex.DspexError as error:
                        told += [repr(error), str(error), json.dumps(error.details)]
                    else:
                        told += [repr(answer), str(answer.requests)]
            told += [json.dumps(program.export()), repr(session), repr(program), repr(session.info())]
            told += [repr(session.turns()), repr(session.insights()), repr(session.programs())]
        assert CANARY.encode() not in stored(shared, tmp_path), "while it is open, in the write-ahead log"
    asked = [str(request.headers) for request in provider.requests]
    assert any(f"{CANARY}-value" in headers for headers in asked), "the keys were used"
    assert any(f"{CANARY}-environment" in headers for headers in asked)
    assert any(f"{CANARY}-header" in headers for headers in asked)
    kept = stored(shared, tmp_path)
    assert ENVIRONMENT.encode() in kept, "a reference is kept: this reads what is stored"
    assert CANARY.encode() not in kept
    assert CANARY not in "\n".join(told)
    assert CANARY not in caplog.text


@pytest.mark.parametrize("url", ["http://user:{}@127.0.0.1:9/v1", "http://127.0.0.1:9/v1?key={}"])
def test_an_address_with_a_key_is_refused(url: str) -> None:
    """If this failed, a key in an address would be stored with it."""
    with pytest.raises(dspex.InvalidOption) as refused:
        dspex.LM("openai/x", base_url=url.format(CANARY))
    assert CANARY not in f"{refused.value!r} {refused.value.details}"
