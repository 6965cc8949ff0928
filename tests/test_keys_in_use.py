"""Keys and profiles that change while a runtime is open; and no key is found where it should not be."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import dspex
from tests.processes import descendants, until
from tests.provider import Provider, Reply, Request, delayed, echo, fault

pytestmark = pytest.mark.anyio
ONE = {"general": dspex.PoolOptions(workers=1)}
CANARY = "sk-canary-81f3c2"


class Doorkeeper:
    """Accepts one key, which a test changes."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.seen: list[str] = []

    def __call__(self, request: Request) -> Reply:
        key = request.headers["authorization"].removeprefix("Bearer ")
        self.seen.append(key)
        return echo() if key == self.key else fault(401, message=f"the key {key} is wrong")


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


async def test_a_function_is_asked_again_when_its_token_is_refused(provider: Provider) -> None:
    """An expired token would fail every call until a restart."""
    door = provider.reply = Doorkeeper("token-2")
    given: list[str] = []

    def token() -> str:
        given.append(f"token-{len(given) + 1}")
        return given[-1]

    lm = dspex.LM("openai/x", base_url=provider.base_url, api_key=token)
    async with dspex.Runtime(lm, pools=ONE) as runtime:
        answer = await runtime.adapter().agenerate("q")
        assert answer.response == "q"
        assert [request.status for request in answer.requests] == ["lm_auth", "ok"]
        assert (await runtime.adapter().agenerate("r")).response == "r"
        assert door.seen == ["token-1", "token-2", "token-2"]
        assert given == ["token-1", "token-2"]
        door.key = "nobody's"
        with pytest.raises(dspex.LMAuth) as caught:
            await runtime.adapter().agenerate("s")
        assert len(door.seen) == 5, "once more with a newer token, and not for ever"
        assert "token-" not in json.dumps(caught.value.to_wire())


async def test_the_token_of_a_second_step_is_renewed_too(provider: Provider) -> None:
    """A two-step LM would fail until its first key changed."""

    def reply(request: Request) -> Reply:
        key = request.headers["authorization"].removeprefix("Bearer ")
        if request.model == "first":
            return echo()
        return echo() if key == "token-2" else fault(401)

    provider.reply = reply
    given = iter(range(1, 100))
    second = dspex.LM("openai/second", base_url=provider.base_url, api_key=lambda: f"token-{next(given)}")
    lm = dspex.LM("openai/first", base_url=provider.base_url, adapter="two_step", extraction_lm=second)
    async with dspex.Runtime(lm, pools=ONE) as runtime:
        answer = await runtime.adapter().agenerate("q", signature="question -> answer")
    assert answer.requests[-1].status == "ok"


async def test_closing_while_a_key_is_fetched_is_an_error_of_the_call(provider: Provider) -> None:
    """The caller's own task would seem to be cancelled, and a task group would swallow that."""

    async def token() -> str:
        await asyncio.sleep(3600)
        return ""

    async with dspex.Runtime(
        dspex.LM("openai/x", base_url=provider.base_url, api_key=token), pools=ONE
    ) as runtime:
        call = asyncio.create_task(runtime.adapter().agenerate("q", timeout=None))
        await asyncio.sleep(0.1)
    with pytest.raises(dspex.PoolClosed):
        await call


async def test_a_file_that_changes_is_read_again(provider: Provider, tmp_path: Path) -> None:
    """A rotated secret, mounted as a file, would need a restart."""
    door = provider.reply = Doorkeeper("old")
    file = tmp_path / "key"
    file.write_text("old\n")
    lm = dspex.LM("openai/x", base_url=provider.base_url, api_key=f"file:{file}")
    async with dspex.Runtime(lm, pools=ONE) as runtime:
        await runtime.adapter().agenerate("q")
        door.key = "new"
        file.write_text("new\n")
        assert (await runtime.adapter().agenerate("q")).response == "q"
        assert door.seen == ["old", "old", "new"]


async def test_options_are_references_as_keys_are(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`file:/run/secrets/gateway` itself would be sent as the gateway's key."""
    monkeypatch.setattr("keyring.get_password", lambda service, user: f"{service}-{user}\n")
    header, query = tmp_path / "header", tmp_path / "query"
    header.write_text("old\n")
    query.write_text("a b\n")

    def reply(request: Request) -> Reply:
        good = request.headers["x-gateway"] == header.read_text().strip()
        return echo() if good else fault(401)

    provider.reply = reply
    lm = dspex.LM(
        "openai/x",
        base_url=provider.base_url,
        organization="keyring:shop/me",
        extra_headers={"X-Gateway": f"file:{header}"},
        extra_query={"key": f"file:{query}"},
    )
    async with dspex.Runtime(lm, pools=ONE) as runtime:
        await runtime.adapter().agenerate("q")
        header.write_text("new\n")
        await runtime.adapter().agenerate("q")
    assert [r.headers["x-gateway"] for r in provider.requests] == ["old", "old", "new"]
    assert {(r.headers["openai-organization"], r.query) for r in provider.requests} == {
        ("shop-me", "key=a+b")
    }


async def test_a_key_that_is_refused_and_has_not_changed_is_not_sent_again(provider: Provider) -> None:
    """A wrong key would be tried twice for each call."""
    door = provider.reply = Doorkeeper("right")
    lm = dspex.LM("openai/x", base_url=provider.base_url, api_key="wrong")
    async with dspex.Runtime(lm, pools=ONE) as runtime:
        with pytest.raises(dspex.LMAuth):
            await runtime.adapter().agenerate("q")
    assert door.seen == ["wrong"]


async def test_the_connections_of_keys_before_are_closed(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker would keep connections open for every token that was ever given."""
    monkeypatch.setattr("dspex.lm.secrets._FRESH", 0.0)
    provider.reply = lambda _: delayed(0.01, echo())
    given = iter(range(1000))
    lm = dspex.LM("openai/x", base_url=provider.base_url, api_key=lambda: f"token-{next(given)}")
    async with dspex.Runtime(lm, pools=ONE) as runtime:
        open_then: list[int] = []
        for number in range(20):
            await asyncio.gather(*(runtime.adapter().agenerate("q") for _ in range(8)))
            if number in {5, 19}:
                pid = runtime.stats().pools["general"].workers[0].pid
                open_then.append(psutil.Process(pid).num_fds())
    assert open_then[1] <= open_then[0] + 16


async def test_a_token_that_never_comes_is_the_calls_timeout(provider: Provider) -> None:
    """A call would hang on an identity service."""

    async def token() -> str:
        await asyncio.sleep(3600)
        return ""

    lm = dspex.LM("openai/x", base_url=provider.base_url, api_key=token)
    async with dspex.Runtime(lm, pools=ONE) as runtime:
        with pytest.raises(dspex.PythonTimeout) as caught:
            await runtime.adapter().agenerate("q", timeout=0.2)
    assert caught.value.details["phase"] == "queued"


async def test_a_changed_profile_reaches_every_worker_and_the_next_one(provider: Provider) -> None:
    """Some workers, or those that replace lost ones, would go on with the old model or key."""
    seen: set[tuple[str, str]] = set()

    def reply(request: Request) -> Reply:
        seen.add((request.model, request.headers["authorization"]))
        return delayed(0.05, echo())

    provider.reply = reply
    pools = {"general": dspex.PoolOptions(workers=2, slots=4)}
    first = dspex.LM("openai/first", base_url=provider.base_url, api_key="one")
    async with dspex.Runtime(lms={"fast": first}, pools=pools) as runtime:
        adapter, pool = runtime.adapter(lm="fast"), runtime.pool("general")

        async def ask() -> set[int]:
            answers = await asyncio.gather(*(adapter.agenerate(f"q{n}") for n in range(8)))
            return {answer.worker for answer in answers}

        assert len(await ask()) == 2
        told = await pool.aexecute(
            "configure_lm",
            {"name": "fast", "model": "openai/second", "base_url": provider.base_url, "api_key": "two"},
        )
        assert told == {"name": "fast", "model": "openai/second"}
        assert seen == {("first", "Bearer one")}
        seen.clear()
        assert len(await ask()) == 2
        os.kill(runtime.stats().pools["general"].workers[0].pid, signal.SIGKILL)
        await ask()
        assert seen == {("second", "Bearer two")}
        await pool.aexecute("configure_lm", {"model": "openai/third", "base_url": provider.base_url})
        assert (await runtime.adapter().agenerate("q")).response == "q"
        assert ("third", "Bearer none") in seen


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"model": "nowhere/x"},
        {"model": "openai/x", "temperatur": object()},
        {"model": "openai/x", "name": "a/b"},
    ],
)
def test_a_wrong_configuration_is_refused_and_changes_nothing(
    args: dict[str, object], provider: Provider
) -> None:
    """A typing error would take the default model from everybody."""
    with dspex.Runtime(dspex.LM("openai/x", base_url=provider.base_url), pools=ONE) as runtime:
        with pytest.raises(dspex.Refused):
            runtime.pool("general").execute("configure_lm", args)
        assert runtime.adapter().generate("q").response == "q"


# The canary


WAYS = [
    *("value", "env", "file", "keyring", "function", "headers", "query", "newline"),
    *("settings", "variable", "configure", "configure_lm", "extraction"),
]


@pytest.mark.parametrize("way", WAYS)
def test_a_key_is_found_nowhere_but_in_its_request(
    way: str,
    provider: Provider,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A key in a log, an error or a process listing is a key for everybody."""
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "key"
    file.write_text(CANARY)
    provider.reply = lambda request: (
        echo() if "good" in json.dumps(request.body) else fault(401, message=f"the key {CANARY} is wrong")
    )
    texts: list[str] = []
    events: list[str] = []

    def token() -> str:
        return CANARY

    if way in {"env", "newline"}:
        # As a service manager sets it: this process has it in its environment, workers must not.
        monkeypatch.setenv("SHOP_KEY", f"{CANARY}\n" if way == "newline" else CANARY)
    if way == "keyring":
        monkeypatch.setattr("keyring.get_password", lambda service, user: CANARY)
    address = provider.base_url
    references = {
        "env": "env:SHOP_KEY",
        "newline": "env:SHOP_KEY",
        "file": f"file:{file}",
        "keyring": "keyring:shop/me",
    }
    secret: Any = token if way == "function" else references.get(way, CANARY)
    lm = dspex.LM("openai/x", base_url=address, api_key=secret)
    settings = dspex.Settings()
    if way == "headers":
        lm = dspex.LM("openai/x", base_url=address, extra_headers={"x-gateway-key": CANARY})
    elif way == "query":
        lm = dspex.LM("openai/x", base_url=address, extra_query={"subscriptionkey": CANARY})
    elif way == "settings":
        profile = {"model": "openai/x", "base_url": address, "api_key": CANARY}
        settings = dspex.Settings(lms={"shop": profile}, default_lm="shop")
    elif way == "variable":
        monkeypatch.setenv("DSPEX_LM__SHOP__MODEL", "openai/x")
        monkeypatch.setenv("DSPEX_LM__SHOP__BASE_URL", address)
        monkeypatch.setenv("DSPEX_LM__SHOP__API_KEY", CANARY)
        settings = dspex.Settings(default_lm="shop")
    texts += [repr(settings), json.dumps(settings.to_dict()), repr(settings.sources())]
    if way == "extraction":
        plain = dspex.LM("openai/x", base_url=address, api_key="other")
        lm = dspex.LM("openai/x", base_url=address, api_key="other", adapter="two_step", extraction_lm=lm)
        texts.append(repr(plain))
    given = None if way in {"configure", "configure_lm", "settings", "variable"} else lm
    with dspex.Runtime(given, lms={"named": lm}, pools=ONE, settings=settings) as runtime:
        runtime.on(dspex.Event, lambda event: events.append(repr(event)))
        adapter = runtime.adapter()
        if way == "configure":
            texts.append(repr(adapter.configure("openai", model="x", base_url=address, api_key=CANARY)))
        elif way == "configure_lm":
            args = {"model": "openai/x", "base_url": address, "api_key": CANARY}
            texts.append(repr(runtime.pool("general").execute("configure_lm", args)))
        good = adapter.generate("good")
        texts += [repr(good), json.dumps(good.to_dict()), repr(lm), repr(runtime.stats())]
        with pytest.raises(dspex.LMAuth) as caught:
            adapter.generate("bad")
        texts += [repr(caught.value), str(caught.value), json.dumps(caught.value.to_wire())]
        texts.append(repr(runtime.pool("general").execute("get_stats")))
        texts.append(repr(runtime.core.settings))
        for pid in descendants(os.getpid()):
            proc = Path(f"/proc/{pid}")
            texts += [(proc / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")]
    gc.collect()
    texts += [caplog.text, *capfd.readouterr(), *events]
    sent = [text for r in provider.requests for text in (r.query, *r.headers.values())]
    assert any(CANARY in text for text in sent)
    assert all(CANARY not in json.dumps(request.body) + request.path for request in provider.requests)
    assert [text for text in texts if CANARY in text] == []
    until(lambda: not descendants(os.getpid()))


@pytest.mark.parametrize("way", ["LM", "settings", "configure", "configure_lm", "key"])
def test_what_is_refused_is_not_shown(way: str, caplog: pytest.LogCaptureFixture) -> None:
    """The password of an address, or a key with a line end in it, would be in the error that refuses it."""
    caplog.set_level(logging.DEBUG)
    options: dict[str, Any] = {"base_url": f"https://shop:{CANARY}@gateway/v1"}
    if way == "key":
        options = {"api_key": f"{CANARY}\n{CANARY}"}
    profile = {"model": "openai/x", **options}
    with dspex.Runtime(pools=ONE) as runtime:
        ways: dict[str, Callable[[], object]] = {
            "settings": lambda: dspex.Runtime(settings=dspex.Settings(lms={"shop": profile})),
            "configure": lambda: runtime.adapter().configure("openai", **{**profile, "model": "x"}),
            "configure_lm": lambda: runtime.pool("general").execute("configure_lm", profile),
        }
        with pytest.raises(dspex.InvalidOption) as caught:
            ways.get(way, lambda: dspex.LM(**profile))()
    shown = f"{caught.value!r} {caught.value.to_wire()} {caught.value.__cause__!r} {caplog.text}"
    assert CANARY not in shown


# Reloading


async def test_profiles_of_the_settings_file_are_read_again_without_a_restart(
    provider: Provider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another model or key would cost every call that runs."""
    file = tmp_path / "dspex.toml"

    def write(model: str, more: str = "") -> None:
        profile = f'[lm.fast]\nmodel = "openai/{model}"\nbase_url = "{provider.base_url}"\n'
        file.write_text(f'default_lm = "fast"\n{more}{profile}')

    write("first")
    async with dspex.Runtime(settings=dspex.Settings(file=file), pools=ONE) as runtime:
        adapter = runtime.adapter()
        await adapter.agenerate("q")
        write("second", "max_payload = 4096\n")
        await runtime.areload()
        assert "max_payload has changed" in caplog.text
        await adapter.agenerate("q")
        await adapter.agenerate("q", lm="fast")
        write("third", "nonsense = 1\n")
        with pytest.raises(dspex.InvalidOption, match=r"dspex\.toml:2"):
            await runtime.areload()
        await adapter.agenerate("q")
        await runtime.pool("general").aexecute(
            "configure_lm", {"name": "fast", "model": "openai/given", "base_url": provider.base_url}
        )
        write("fourth")
        await asyncio.to_thread(runtime.reload)
        await adapter.agenerate("q")
    assert [r.model for r in provider.requests] == ["first", "second", "second", "second", "given"]
