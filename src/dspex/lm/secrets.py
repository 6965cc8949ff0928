"""Keys by reference: where they are looked up, and what is said when they are not there.

A key itself is held in memory only. ``env:NAME``, ``file:/path``, ``keyring:service/user`` and a function of
the caller's are looked up in the supervisor, when a call needs the key.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dspex.errors import InvalidOption, LMNotConfigured, PoolClosed

Secret = str | Callable[[], str] | Callable[[], Awaitable[str]]

# Seconds for which a key from a file, a keyring or a function is taken to be the same still.
_FRESH = 30.0
_KEPT = 1024
_KINDS = ("env", "file", "keyring")
# What no header can hold: control characters, a line end for one, and what is not Latin-1.
_UNSENDABLE = re.compile(r"[^\t\x20-\x7e\xa0-\xff]")
_HOW = "a key, 'env:NAME', 'file:/path', 'keyring:service/user', or a function that gives the key"


def check(secret: object) -> None:
    """Refuse what is no key and no reference to one.

    Raises:
        InvalidOption: It is neither; the message never holds it.
    """
    if secret is None:
        return
    if callable(secret):
        if not isinstance(secret, Hashable):
            raise _refused(f"and a {type(secret).__name__} cannot be remembered: it is not hashable")
        return
    if not isinstance(secret, str) or not secret.strip():
        raise _refused(f"not {type(secret).__name__}" if not isinstance(secret, str) else "not empty text")
    check_reference(secret)
    if not is_sendable(secret.strip()):
        raise _refused("and this one holds a character that cannot be sent, as a line end inside it")


def check_reference(text: str, option: str = "api_key") -> None:
    """Refuse a reference that names nothing.

    Raises:
        InvalidOption: It is one; the message never holds it.
    """
    kind, colon, name = text.partition(":")
    if not colon or kind not in _KINDS:
        return
    if not name.strip():
        raise _refused(f"and {kind!r} names nothing", option)
    if kind == "keyring" and not all(name.partition("/")[::2]):
        raise _refused("and a keyring's entry is named 'keyring:service/user'", option)


def is_reference(text: str) -> bool:
    """Whether it names a place where a key is, and is no key itself."""
    kind, colon, name = text.partition(":")
    return bool(colon) and kind in _KINDS and bool(name.strip())


def _refused(why: str, option: str = "api_key") -> InvalidOption:
    return InvalidOption(f"{option} has to be {_HOW}, {why}", details={"option": option})


def is_sendable(value: str) -> bool:
    """Whether a header can hold it."""
    return _UNSENDABLE.search(value) is None


def sendable(value: str, place: str) -> str:
    """The value of a header, without the line end or blanks around it.

    Raises:
        LMNotConfigured: No header can hold it; the message names its place, and never holds it.
    """
    value = value.strip()
    if not is_sendable(value):
        raise LMNotConfigured(
            f"{place} holds a character that cannot be sent, such as a line end inside it; set it anew",
            details={"variable": place},
        )
    return value


def shown(secret: Secret) -> str:
    """A secret as it may be shown: a reference as it is, a function by its name, a key never."""
    if callable(secret):
        return f"<{getattr(secret, '__qualname__', type(secret).__qualname__)}()>"
    return repr(secret) if secret.partition(":")[0] in _KINDS and ":" in secret else "'***'"


def first_set(variables: Iterable[str]) -> str | None:
    """The first of these variables that holds something."""
    return next((name for name in variables if os.environ.get(name, "").strip()), None)


def from_environment(variables: Sequence[str]) -> str:
    """The value of the first of these variables that is set, without the line end that it may have.

    Raises:
        LMNotConfigured: None is.
    """
    variable = first_set(variables)
    if variable is None:
        raise LMNotConfigured(
            f"no API key: set {' or '.join(variables)}, or pass LM(api_key=...)",
            details={"variable": variables[0]},
        )
    return os.environ[variable].strip()


def fetch(secret: Secret, found: Mapping[Secret, str] = MappingProxyType({})) -> str:
    """The key that a secret stands for; a key itself comes back as it is.

    Args:
        secret: A key or a reference to one.
        found: The keys of those whose look-up takes time.

    Raises:
        LMNotConfigured: The variable of ``env:NAME`` is not set; ``details["variable"]`` is its name.
    """
    if callable(secret) or takes_time(secret):
        return found[secret]
    kind, colon, name = secret.partition(":")
    return from_environment([name]) if colon and kind == "env" else secret


def takes_time(secret: Secret | None) -> bool:
    """Whether looking it up may take time, which the loop does not have."""
    return callable(secret) or (isinstance(secret, str) and secret.startswith(("file:", "keyring:")))


class Keys:
    """The keys that one runtime has looked up where that takes time, on its loop.

    A key is looked up again when it is 30 seconds old, and at once when a provider has refused it; so it can
    change while the runtime is open. Those who need the same one wait for one look.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[Secret, tuple[str, float]] = OrderedDict()
        self._looking: dict[Secret, asyncio.Task[str]] = {}

    async def fetch(self, secret: Secret, *, refused: Collection[str] = ()) -> str:
        """The key that a secret stands for now.

        Args:
            secret: A reference to a file or a keyring, or a function.
            refused: Keys that a provider has just refused.

        Raises:
            LMNotConfigured: There is none.
            PoolClosed: The runtime was closed meanwhile.
        """
        known = self._known.get(secret)
        if known is not None and known[0] not in refused and time.monotonic() - known[1] < _FRESH:
            return known[0]
        looking = self._looking.get(secret)
        if looking is None:
            looking = self._looking[secret] = asyncio.create_task(self._look_up(secret))
            looking.add_done_callback(lambda _: self._looking.pop(secret, None))
        try:
            # Not ended with whoever waits: others may wait for it too.
            return await asyncio.shield(looking)
        except asyncio.CancelledError:
            if looking.cancelled() and not _is_cancelled():
                raise PoolClosed("this runtime was closed while the call waited for its LM's key") from None
            raise

    async def _look_up(self, secret: Secret) -> str:
        key = await look_up(secret)
        self._known[secret] = (key, time.monotonic())
        self._known.move_to_end(secret)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return key

    def close(self) -> None:
        """Stop looking."""
        for looking in self._looking.values():
            looking.cancel()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def look_up(secret: Secret) -> str:
    """The key behind a secret that takes time, looked up now.

    Raises:
        LMNotConfigured: It cannot be had.
    """
    key: Any
    if callable(secret):
        key = await _call(secret)
    else:
        kind, _, name = secret.partition(":")
        key = await asyncio.to_thread(_read_file if kind == "file" else _read_keyring, name)
    key = key.strip() if isinstance(key, str) else key
    if not isinstance(key, str) or not key:
        raise LMNotConfigured(
            f"no API key: {shown(secret)} gave {'nothing' if not key else f'a {type(key).__name__}'}",
            details={"variable": shown(secret)},
        )
    return key


async def _call(function: Callable[[], Any]) -> Any:
    try:
        if inspect.iscoroutinefunction(function):
            return await function()
        key = await asyncio.to_thread(function)
        return await key if inspect.isawaitable(key) else key
    except Exception as error:  # noqa: BLE001 (whatever it raises)
        # What it says may hold a token, and its traceback too, so only its class is told.
        raise LMNotConfigured(
            f"no API key: {shown(function)} raised {type(error).__name__}",
            details={"variable": shown(function), "type": type(error).__qualname__},
        ) from None


def _read_file(name: str) -> str:
    try:
        return Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no text"
        raise LMNotConfigured(
            f"no API key: {name} cannot be read: {cause}", details={"variable": f"file:{name}"}
        ) from None


def _read_keyring(name: str) -> str:
    service, _, user = name.partition("/")
    try:
        import keyring
    except ImportError:
        raise LMNotConfigured(
            "keys in a keyring need the extra: pip install 'dspex[keyring]'",
            details={"variable": f"keyring:{name}"},
        ) from None
    try:
        key: str | None = keyring.get_password(service, user)
    except Exception as error:  # noqa: BLE001 (each backend has errors of its own)
        raise LMNotConfigured(
            f"no API key: the keyring cannot be read: {type(error).__name__}",
            details={"variable": f"keyring:{name}"},
        ) from None
    if key is None:
        raise LMNotConfigured(
            f"no API key: the keyring has no entry for {user!r} in {service!r}; make it with `keyring set "
            f"{service} {user}`",
            details={"variable": f"keyring:{name}"},
        )
    return key
