"""Whose key goes where, that no key is ever shown, and what is said when there is none."""

from __future__ import annotations

import asyncio
import time
import traceback
from pathlib import Path
from typing import Any

import pytest

from dspex.errors import InvalidOption, LMNotConfigured, UnknownProvider
from dspex.lm import providers, secrets
from dspex.lm.profile import LM

KEY = "sk-canary-4711"
VARIABLES = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY")


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the keys of whoever runs it."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


# What is shown


def test_no_key_is_shown() -> None:
    """A key would reach a log, a traceback or a notebook."""
    lm = LM("openai/x", api_key=KEY, temperature=0.5, extraction_lm=LM("openai/y", api_key=KEY), extra=KEY)
    assert repr(lm) == "LM('openai/x', api_key='***', temperature=0.5)"
    assert KEY not in f"{lm} {lm!r} {[lm]} {lm.spec(KEY, None)!r} {lm.spec(KEY, None)}"


def test_a_reference_to_a_key_is_shown() -> None:
    """A user could not see which variable is read."""
    shown = repr(LM("openai/x", api_key="env:SHOP_KEY", base_url="http://h", engine="a:B", timeout=2.0))
    assert shown == "LM('openai/x', api_key='env:SHOP_KEY', base_url='http://h', timeout=2.0, engine='a:B')"


# Whose key goes where


@pytest.mark.parametrize(
    ("model", "variable"),
    [
        ("openai/x", "OPENAI_API_KEY"),
        ("anthropic/x", "ANTHROPIC_API_KEY"),
        ("gemini/x", "GEMINI_API_KEY"),
        ("gemini/x", "GOOGLE_API_KEY"),
    ],
)
def test_a_providers_own_variable_is_read(model: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is set as every tool expects it would not be found."""
    lm = LM(model)
    monkeypatch.setenv(variable, KEY)
    assert lm.fetch_key() == KEY
    monkeypatch.setenv(variable, "another")
    assert lm.fetch_key() == "another"


def test_the_first_of_two_variables_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which key is used would depend on chance."""
    monkeypatch.setenv("GEMINI_API_KEY", "first")
    monkeypatch.setenv("GOOGLE_API_KEY", "second")
    assert LM("gemini/x").fetch_key() == "first"


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize(
    ("model", "key", "variable"),
    [
        ("openai/x", None, "OPENAI_API_KEY"),
        ("gemini/x", None, "GEMINI_API_KEY"),
        ("openai/x", "env:SHOP_KEY", "SHOP_KEY"),
    ],
)
def test_a_missing_key_names_its_variable(
    model: str, key: str | None, variable: str, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user would not know what to set, or the request would go out without a key."""
    monkeypatch.delenv("SHOP_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv(variable, value)
    with pytest.raises(LMNotConfigured, match=variable) as error:
        LM(model, api_key=key).fetch_key()
    assert error.value.details == {"variable": variable}


def test_a_key_of_ones_own_comes_before_the_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A customer's call would be paid by the operator."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("SHOP_KEY", "shop")
    assert LM("openai/x", api_key="direct").fetch_key() == "direct"
    assert LM("openai/x", api_key="env:SHOP_KEY").fetch_key() == "shop"


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": "http://elsewhere/v1"},
        {"model": "local"},
        {"model": "local:/m.gguf"},
        {"engine": "a:B"},
        {"model": "local", "base_url": "http://elsewhere"},
    ],
)
def test_a_providers_key_goes_to_the_provider_only(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator's key would be sent to whatever server a `base_url` names."""
    for variable in VARIABLES:
        monkeypatch.setenv(variable, KEY)
    lm = LM(**{"model": "openai/x", **options})
    assert lm.fetch_key() is None
    assert lm.spec(lm.fetch_key(), lm.base_url).api_key == "none"


# Providers and secrets


def test_providers_are_found_by_name() -> None:
    """A provider that is listed could not be used."""
    for name, provider in providers.PROVIDERS.items():
        assert providers.find(name) is provider
        assert provider.name == name
    assert providers.find("local").variables == ()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("opnai", "openai"), ("antropic", "anthropic"), ("gemni", "gemini"), ("OpenAI", None)],
)
def test_the_nearest_provider_is_named(name: str, nearest: str | None) -> None:
    """A typing error would be answered with a list alone."""
    with pytest.raises(UnknownProvider) as error:
        providers.find(name)
    assert error.value.details == {"provider": name, "known": list(providers.PROVIDERS)}
    assert ("did you mean" in error.value.message) == (nearest is not None)
    assert nearest is None or f"did you mean {nearest!r}?" in error.value.message
    assert "base_url=" in error.value.message


def test_a_name_like_nothing_gets_the_list() -> None:
    """A far-fetched guess would mislead."""
    with pytest.raises(UnknownProvider) as error:
        providers.find("zzz")
    assert "did you mean" not in error.value.message
    assert all(name in error.value.message for name in providers.PROVIDERS)


def test_a_reference_is_looked_up_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is rotated would need a restart."""
    monkeypatch.setenv("SHOP_KEY", "one")
    assert secrets.fetch("env:SHOP_KEY") == "one"
    monkeypatch.setenv("SHOP_KEY", "two")
    assert secrets.fetch("env:SHOP_KEY") == "two"
    assert secrets.fetch("sk-with:colon") == "sk-with:colon"


# References that take time to look up


@pytest.fixture
def anyio_backend() -> str:
    """The runtime is asyncio's."""
    return "asyncio"


@pytest.mark.anyio
async def test_a_file_is_read_again_when_its_key_was_refused(tmp_path: Path) -> None:
    """A key that is rotated in a mounted file would need a restart."""
    file, keys = tmp_path / "key", secrets.Keys()
    file.write_text("one\n")
    assert await keys.fetch(f"file:{file}") == "one"
    file.write_text("two")
    assert await keys.fetch(f"file:{file}") == "one", "read once in a while, not for each call"
    assert await keys.fetch(f"file:{file}", refused={"one"}) == "two"
    assert await keys.fetch(f"file:{file}", refused={"one"}) == "two"


@pytest.mark.anyio
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_function_is_called_once_for_all_who_need_its_key_at_once(is_async: bool) -> None:
    """A burst of calls would become a burst of token requests."""
    calls: list[int] = []

    def token() -> str:
        time.sleep(0.05)
        calls.append(1)
        return f"token-{len(calls)}"

    async def later() -> str:
        await asyncio.sleep(0.05)
        calls.append(1)
        return f"token-{len(calls)}"

    keys, secret = secrets.Keys(), later if is_async else token
    assert set(await asyncio.gather(*(keys.fetch(secret) for _ in range(20)))) == {"token-1"}
    assert await keys.fetch(secret, refused={"token-1"}) == "token-2"
    assert len(calls) == 2


@pytest.mark.anyio
async def test_who_gives_up_waiting_takes_the_key_from_nobody() -> None:
    """One caller's deadline would fail the others."""
    going = asyncio.Event()

    async def token() -> str:
        await going.wait()
        return "token"

    keys = secrets.Keys()
    first = asyncio.create_task(keys.fetch(token))
    second = asyncio.create_task(keys.fetch(token))
    await asyncio.sleep(0)
    first.cancel()
    going.set()
    assert await second == "token"
    with pytest.raises(asyncio.CancelledError):
        await first


def _raises() -> str:
    raise ValueError(KEY)


def _gives_nothing() -> str:
    return ""


def _gives_a_number() -> Any:
    return 5


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("file:/run/secrets/nowhere", "/run/secrets/nowhere cannot be read: No such file or directory"),
        ("file:/", "/ cannot be read: Is a directory"),
        ("keyring:dspex-tests/nobody", "keyring"),
        (_raises, "_raises()> raised ValueError"),
        (_gives_nothing, "_gives_nothing()> gave nothing"),
        (_gives_a_number, "_gives_a_number()> gave a int"),
    ],
)
async def test_a_key_that_is_not_there_is_said_by_its_place(secret: secrets.Secret, said: str) -> None:
    """A user would not know which key is missing, or would read it in the message."""
    with pytest.raises(LMNotConfigured) as caught:
        await secrets.Keys().fetch(secret)
    assert said in caught.value.message
    assert KEY not in f"{caught.value!r} {caught.value.details}"
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert caught.value.details["variable"]


@pytest.mark.parametrize("secret", [f"{KEY}\n", f" {KEY}", "env:OPENAI_API_KEY", None])
def test_the_line_end_of_a_key_is_no_part_of_it(secret: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was read from a file, or exported with its line end, would be refused by the engine."""
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\r\n")
    assert LM("openai/x", api_key=secret).fetch_key() == KEY


@pytest.mark.parametrize("odd", [f"{KEY}\n{KEY}", f"{KEY}\x7f", f"{KEY}\u20ac", f"{KEY}\udcff"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_repeated(
    odd: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine would repeat it, escaped, in a message about a server that cannot be reached."""
    with pytest.raises(InvalidOption, match="cannot be sent") as refused:
        LM("openai/x", api_key=odd)
    monkeypatch.setenv("OPENAI_API_KEY", odd)
    for lm in (LM("openai/x"), LM("openai/x", api_key="env:OPENAI_API_KEY")):
        with pytest.raises(LMNotConfigured, match="OPENAI_API_KEY holds a character") as missing:
            lm.fetch_key()
        assert missing.value.details == {"variable": "OPENAI_API_KEY"}
        assert KEY not in f"{refused.value!r} {missing.value!r} {missing.value.details}"


@pytest.mark.parametrize("secret", ["env:", "file: ", "keyring:service", "keyring:/user", "", " ", 5, b"sk"])
def test_what_names_no_key_is_refused_at_once(secret: Any) -> None:
    """The mistake would show at the first call, or as a key that a provider refuses."""
    with pytest.raises(InvalidOption, match="api_key has to be a key"):
        LM("openai/x", api_key=secret)


def test_an_lm_with_a_function_is_equal_to_itself_only() -> None:
    """Two customers' token functions would share connections and a key."""
    one, other = (lambda: "a"), (lambda: "b")
    assert LM("openai/x", api_key=one) == LM("openai/x", api_key=one)
    assert LM("openai/x", api_key=one) != LM("openai/x", api_key=other)
    assert "<lambda>" in repr(LM("openai/x", api_key=one))


class _NoKey:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self) -> str:
        return "token"


def test_a_function_that_cannot_be_remembered_is_refused_at_once() -> None:
    """Each call would fail with a `TypeError` of ours."""
    with pytest.raises(InvalidOption, match="hashable"):
        LM("openai/x", api_key=_NoKey())
